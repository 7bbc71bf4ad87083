"""How training scales over workers on this machine, and what they send each other in a step.

python -m benchmarks.train_scale [--windows 5] [--seconds 20] [--net torch64] [--batch 128]

Workers are plain processes of one thread each that exchange gradients over gloo through the runtime that
Ray's workers use (tasks.training.RayRuntime); the global batch is the same for all. ``value``: efficiency of
two, their rate over twice that of one. One worker and two in turn, a fresh set of processes each.
``all_reduced``: bytes a worker gives to all-reduce in a step, by counting them, beside the bytes of the
gradients of both nets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.common import print_result
from benchmarks.training import WARM_STEPS, for_steps, images_a_second, our_moments
from dcgan_core.models.dcgan import build, parameter_count
from dcgan_core.models.specs import net_spec
from dcgan_core.progress import silent
from tasks.training import RayRuntime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--net", default="torch64")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--worker", help="JSON: rank, world size, meeting place and steps of this process")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(options.net, options.batch, **json.loads(options.worker))))
        return
    alone = run_of(options, 1, 4)
    steps = max(6, round(options.seconds * alone["images/s"] / options.batch))
    together: dict[str, float] = {}
    one: list[float] = []
    two: list[float] = []
    for _ in range(options.windows):
        one.append(run_of(options, 1, steps)["images/s"])
        together |= run_of(options, 2, 2 * steps)
        two.append(together["images/s"])
    gradients = 4 * sum(parameter_count(net) for net in build(net_spec(options.net), 0))
    print_result(
        "train_scale",
        [pair / (2 * single) for single, pair in zip(one, two, strict=True)],
        "efficiency of 2 workers of one thread each",
        one=round(statistics.median(one), 1),
        two=round(statistics.median(two), 1),
        one_spread=[round(min(one), 1), round(max(one), 1)],
        two_spread=[round(min(two), 1), round(max(two), 1)],
        all_reduced={"bytes_a_step": together["bytes_a_step"], "calls_a_step": together["calls_a_step"]},
        gradient_bytes=gradients,
        net=options.net,
        batch=options.batch,
    )


def run_of(options: argparse.Namespace, workers: int, steps: int) -> Any:
    """What the first of so many workers says about so many steps of all of them."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        processes = []
        for rank in range(workers):
            told = {"rank": rank, "workers": workers, "meet": f"{folder}/meet", "steps": steps}
            command = ["-m", "benchmarks.train_scale", "--net", options.net, "--batch", str(options.batch)]
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, "--worker", json.dumps(told)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            )
        said = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"a worker ended with {process.returncode}: {error[-4000:]}")
    return json.loads(said[0][0].splitlines()[-1])


def worker(net: str, batch: int, rank: int, workers: int, meet: str, steps: int) -> dict[str, float]:
    """One rank's training; all leave after the same step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=Path(meet).as_uri(), rank=rank, world_size=workers)
    sent = [0, 0]
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *rest: Any, **named: Any) -> Any:
        sent[0] += tensor.numel() * tensor.element_size()
        sent[1] += 1
        return all_reduce(tensor, *rest, **named)

    dist.all_reduce = counted
    runtime = RayRuntime(rank, workers, torch.device("cpu"), silent, lambda: False)
    moments = our_moments(net, for_steps(steps), runtime=runtime, batch_size=batch)
    taken = len(moments) - 1
    assert taken >= WARM_STEPS
    dist.barrier()
    dist.destroy_process_group()
    return {
        "images/s": images_a_second(moments, batch),
        "bytes_a_step": round(sent[0] / taken),
        "calls_a_step": round(sent[1] / taken, 2),
    }


if __name__ == "__main__":
    main()
