"""What checkpoints, logs, sample grids and the like cost a training step, and the loop's memory.

python -m benchmarks.train_overhead [--peer CHECKOUT] [--windows 7] [--steps 60] [--events 8]

`torch64`, both nets each step. Two figures for the same thing:
- `value`: each thing that `train` does every so many steps (all fields of TrainConfig named ..._every) is
  made to happen every second step, all others never, at batch 16: the median difference between a step with
  it and its neighbours without is what one costs; over its own default interval and the time of a step at
  batch 128 that is its share, and the value is their sum. Files go to a temporary folder of the local disk.
- `whole`: whole loops at batch 128, at the defaults and with all of it next to never, in turn: the median
  ratio of the times of a step. The windows are shorter than the interval of checkpoints, so this shows what
  is done each step and at each log.
`peak_gib` is of a process of its own each, at batch 128, ours with a checkpoint and a grid; the peer's
without its two data workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import peak_gib, print_result
from benchmarks.training import WARM_STEPS, child, for_steps, our_moments, peer_window
from dcgan_core.config import TrainConfig

NET = "torch64"
NEVER = 10**9
SMALL_BATCH = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, help="a checkout of pytorch/examples, for its memory")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60, help="of a window of the whole loop")
    parser.add_argument("--events", type=int, default=8, help="of each kind that are timed")
    parser.add_argument("--memory", action="store_true", help="ours alone, in this process")
    options = parser.parse_args()
    if options.memory:
        our_moments(NET, for_steps(6), settings=intervals(3))
        print(json.dumps(peak_gib()))
        return
    usual: list[float] = []
    rare: list[float] = []
    for _ in range(options.windows):
        usual.append(step_seconds(our_moments(NET, for_steps(options.steps))))
        rare.append(step_seconds(our_moments(NET, for_steps(options.steps), settings=intervals(NEVER))))
    step = statistics.median(rare)
    costs = {name: event_seconds(name, options.events) for name in intervals(1)}
    shares = {name: cost / TrainConfig.model_fields[name].default / step for name, cost in costs.items()}
    ratios = [one / other for one, other in zip(usual, rare, strict=True)]
    print_result(
        "train_overhead",
        [sum(shares.values())],
        "share of a step",
        cost_ms={name: round(1000 * cost, 2) for name, cost in costs.items()},
        shares={name: round(share, 5) for name, share in shares.items()},
        step_ms=round(1000 * step, 1),
        whole=round(statistics.median(ratios) - 1, 4),
        whole_spread=[round(min(ratios) - 1, 4), round(max(ratios) - 1, 4)],
        whole_windows=options.windows,
        peak_gib=memory(options.peer),
    )


def intervals(steps: int) -> dict[str, int]:
    """All that training does every so many steps, at this interval."""
    return {name: steps for name in TrainConfig.model_fields if name.endswith("_every")}


def event_seconds(name: str, events: int) -> float:
    """What one of these costs: the median difference to the steps before and after it, at least 0."""
    settings = {**intervals(NEVER), name: 2}
    # Counted from 0, what happens every second step happens at the end of steps 1, 3, ...
    moments = our_moments(NET, for_steps(2 * events + 2), batch_size=SMALL_BATCH, settings=settings)
    seconds = [after - before for before, after in pairwise(moments)]
    first = WARM_STEPS + WARM_STEPS % 2  # an even one
    differences = [
        seconds[at + 1] - (seconds[at] + seconds[at + 2]) / 2 for at in range(first, len(seconds) - 2, 2)
    ]
    return max(0.0, statistics.median(differences))


def step_seconds(moments: Sequence[float]) -> float:
    """Mean over the steps that count: what happens only at some of them counts in proportion."""
    return (moments[-1] - moments[WARM_STEPS]) / (len(moments) - 1 - WARM_STEPS)


def memory(peer: Path | None) -> dict[str, Any]:
    """Peak GiB of both loops, each in a process of its own."""
    found = {"ours": round(child("benchmarks.train_overhead", "--memory"), 3)}
    if peer is not None:
        found["peer"] = round(peer_window(peer, 10.0).peak_gib, 3)
    return found


if __name__ == "__main__":
    main()
