"""Training on processors: our loop beside dcgan/main.py of pytorch/examples.

python -m benchmarks.train_cpu --peer CHECKOUT [--windows 7] [--seconds 20] [--made-windows 3]

`torch64` at batch 128, both nets each step. Ours is the whole loop with its defaults on images in memory, at
`train.precision` auto and at float32; theirs is the script as it is with `--dataset fake`, timed by the lines
it prints. Each window is a fresh process, all in turn; the first steps of each do not count. Ratios are of
windows next to each other. `made`: the peer with images made beforehand and no data workers, so that only the
training differs. `share`: of this machine's best bf16 matrix rate, by the step's least work (step_gflop).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import peak_gib, print_result
from benchmarks.training import (
    child,
    for_seconds,
    images_a_second,
    matrix_gflops,
    our_moments,
    peer_window,
    step_gflop,
)
from dcgan_core.models.specs import net_spec
from dcgan_core.train.runtime import autocast_dtype

NET = "torch64"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, help="a checkout of pytorch/examples")
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--made-windows", type=int, default=3)
    parser.add_argument("--precision", help="ours alone, one window, in this process")
    options = parser.parse_args()
    if options.precision:
        print(json.dumps(ours(options.precision, options.seconds)))
        return
    if options.peer is None:
        parser.error("give --peer, a checkout of pytorch/examples")
    auto, float32, theirs, made = [], [], [], []
    for window in range(options.windows):
        auto.append(window_of("auto", options.seconds))
        theirs.append(peer_window(options.peer, options.seconds))
        float32.append(window_of("float32", options.seconds))
        if window < options.made_windows:
            made.append(peer_window(options.peer, options.seconds, made=True))
        print(auto[-1]["rate"], theirs[-1].images_a_second, float32[-1]["rate"], flush=True)
    ours_rates, their_rates = [each["rate"] for each in auto], [each.images_a_second for each in theirs]
    gflops = max(each["matrix_gflops"] for each in auto)
    ratios = [one / other for one, other in zip(ours_rates, their_rates, strict=True)]
    print_result(
        "train_cpu",
        ours_rates,
        "images/s",
        peer="pytorch/examples dcgan/main.py --dataset fake",
        peer_values=their_rates,
        ratio_spread=rounded([min(ratios), max(ratios)]),
        peer_spread=rounded([min(their_rates), max(their_rates)]),
        precision=auto[0]["dtype"],
        float32=compared([each["rate"] for each in float32], their_rates),
        made=compared(ours_rates[: len(made)], [each.images_a_second for each in made]) if made else None,
        matrix_gflops=round(gflops, 1),
        share=round(statistics.median(ours_rates) * step_gflop(net_spec(NET)) / gflops, 3),
        seconds=options.seconds,
        peak_gib={
            "ours": round(max(each["peak_gib"] for each in auto), 2),
            "peer": round(max(each.peak_gib for each in theirs), 2),
        },
    )


def window_of(precision: str, seconds: float) -> Any:
    """Our loop in a process of its own."""
    return child("benchmarks.train_cpu", "--precision", precision, "--seconds", str(seconds))


def ours(precision: str, seconds: float) -> dict[str, Any]:
    """One window of our loop, here, and then the matrix rate."""
    cpu = torch.device("cpu")
    rate = images_a_second(our_moments(NET, for_seconds(seconds), settings={"precision": precision}))
    peak = peak_gib()
    dtype = autocast_dtype(precision, cpu)
    return {
        "rate": rate,
        "peak_gib": peak,
        "dtype": str(dtype),
        "matrix_gflops": matrix_gflops(cpu),
    }


def compared(rates: list[float], others: list[float]) -> dict[str, Any]:
    """Medians of both, and of the ratios window by window."""
    ratios = [one / other for one, other in zip(rates, others, strict=True)]
    return {
        "images/s": round(statistics.median(rates), 1),
        "peer": round(statistics.median(others), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": rounded([min(ratios), max(ratios)]),
    }


def rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


if __name__ == "__main__":
    main()
