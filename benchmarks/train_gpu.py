"""Training on a GPU: our loop beside dcgan/main.py of pytorch/examples, and where the time of a step goes.

python -m benchmarks.train_gpu [--peer CHECKOUT] [--windows 5] [--seconds 4] [--nets torch64 ...]

Batch 128, both nets each step, the loop with its defaults on images in the GPU's memory. The peer (which
needs torchvision) runs as it is with `--dataset fake --accel`, and with images made beforehand (`made`),
since making them on its processors may be what limits it; windows of all in turn. For each net: images a
second, the share of the GPU's best bf16 matrix rate (measured here) by the step's least work, and the split
of a step's time.

The split comes from two short runs of the same loop. `busy` is the share of time in which a kernel or copy
runs, by torch.profiler, and `kernels` how that divides by what the kernels are for; `idle` is the rest.
`spans` are the stretches on the GPU's own clock between the first and last kernel of taking a batch, of D's
and of G's update, idle time within them included; an update whose function is not found there is left out.
The optimisers' kernels are part of the updates' spans.

Without a GPU it measures nothing and ends with 1; ``--device cpu`` tries the script out, with figures of no
use. It needs neither Prefect nor Ray.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import print_result
from benchmarks.training import (
    WARM_STEPS,
    for_seconds,
    images_a_second,
    matrix_gflops,
    our_moments,
    peer_window,
    step_gflop,
)
from dcgan_core.models.specs import net_spec
from dcgan_core.train import step
from dcgan_core.train.data import DevicePixels
from dcgan_core.train.runtime import LocalRuntime

STUDIOGAN = 2730
"""Images a second in StudioGAN's published log of its DCGAN on CIFAR-10 (dcgan.md, section 4)."""
_KINDS = {
    "optimiser": ("adam", "multi_tensor", "foreach"),
    "convolutions": (
        "conv",
        "gemm",
        "cudnn",
        "cutlass",
        "xmma",
        "dgrad",
        "wgrad",
        "fprop",
        "nvjet",
        "matmul",
    ),
    "batch norm": ("batch_norm", "batchnorm", "bn_"),
    "copies": ("memcpy", "memset", "copy", "nchwtonhwc", "nhwctonchw"),
}
"""Words by which a kernel's name tells what it is for; the first that fits; all else is `elementwise`."""
_SPANS = {"D": "_update_discriminator", "G": "_update_generator"}
"""Functions of ``train.step`` whose time on the GPU is taken, without CUDA graphs."""


def main() -> int:
    """Measure and print; 1 where there is nothing to measure on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, help="a checkout of pytorch/examples")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--nets", nargs="+", default=["torch64", "paper64", "imagenet32"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("train_gpu: there is no GPU here; nothing was measured", file=sys.stderr)
        return 1
    device = torch.device(options.device)
    rates: dict[str, list[float]] = {net: [] for net in options.nets}
    theirs: dict[bool, list[float]] = {False: [], True: []}
    peer_error = None if options.peer else "no --peer was given"
    for _ in range(options.windows):
        for net, seen in rates.items():
            moments = our_moments(net, for_seconds(options.seconds), runtime=LocalRuntime(device))
            seen.append(images_a_second(moments))
            print(f"{net} {seen[-1]:,.0f} images/s", flush=True)
        for made, seen in theirs.items():
            if peer_error is None:
                try:
                    window = peer_window(
                        options.peer, options.seconds, made=made, accelerator=device.type == "cuda"
                    )
                except RuntimeError as error:
                    peer_error = str(error)[-500:]
                else:
                    seen.append(window.images_a_second)
                    print(f"peer {seen[-1]:,.0f} images/s, made beforehand: {made}", flush=True)
    gflops = matrix_gflops(device)
    first = options.nets[0]
    print_result(
        "train_gpu",
        rates[first],
        f"images/s ({first})",
        peer="pytorch/examples dcgan/main.py --dataset fake --accel" if theirs[False] else None,
        peer_values=theirs[False] or None,
        made=beside(rates[first], theirs[True]),
        peer_not_measured=peer_error,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else "none: the processor",
        torch=torch.__version__,
        bf16_tflops=round(gflops / 1000, 1),
        nets={net: described(net, seen, gflops, device) for net, seen in rates.items()},
        studiogan_images_a_second=STUDIOGAN,
    )
    return 0


def beside(rates: list[float], others: list[float]) -> dict[str, Any] | None:
    """The peer with images made beforehand: its median, and the median ratio window by window."""
    if not others:
        return None
    ratios = [one / other for one, other in zip(rates, others, strict=False)]
    return {
        "peer": round(statistics.median(others), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def described(net: str, rates: list[float], gflops: float, device: torch.device) -> dict[str, Any]:
    """A net's rate, its share of what the device can do, and the split of a step."""
    rate = statistics.median(rates)
    return {
        "images/s": round(rate, 1),
        "spread": [round(min(rates), 1), round(max(rates), 1)],
        "gflop_an_image": round(step_gflop(net_spec(net)), 3),
        "share_of_matrix_rate": round(rate * step_gflop(net_spec(net)) / gflops, 3),
        "split": {**busy(net, device), "spans": spans(net, device)},
    }


def busy(net: str, device: torch.device, steps: int = 20) -> dict[str, Any]:
    """Shares of the time of ``steps`` steps: kernels by what they are for, and none at all."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    profiler = profile(activities=activities)
    start = WARM_STEPS + 10  # after compiling and capturing, where the loop does that
    began = 0.0

    def is_over(moments: Any) -> bool:
        nonlocal began
        if len(moments) == start:
            settle(device)
            profiler.start()
            began = time.perf_counter()
        return len(moments) >= start + (steps if on_gpu else 2)

    our_moments(net, is_over, runtime=LocalRuntime(device))
    wall = time.perf_counter() - began
    profiler.stop()
    kinds = dict.fromkeys([*_KINDS, "elementwise"], 0.0)
    for event in profiler.key_averages():
        seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        kinds[kind_of(event.key)] += seconds / wall
    return {
        "busy": round(sum(kinds.values()), 3),
        "idle": round(max(0.0, 1 - sum(kinds.values())), 3),
        "kernels": {kind: round(share, 3) for kind, share in kinds.items()},
    }


def kind_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in _KINDS.items() if any(w in name for w in words)), "elementwise")


def spans(net: str, device: torch.device, steps: int = 30) -> dict[str, float]:
    """Shares of a step's time, on the GPU's clock, of taking the batch and of both updates."""
    if device.type != "cuda":
        return {}
    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
    start = WARM_STEPS + 10
    with marked(marks):
        moments = our_moments(
            net,
            lambda seen: len(seen) >= start + steps,
            runtime=LocalRuntime(device),
            settings={"cuda_graphs": False},
        )
    wall = 1000 * (moments[-1] - moments[start])
    return {
        name: round(sum(one.elapsed_time(other) for one, other in pairs[start : start + steps - 1]) / wall, 3)
        for name, pairs in marks.items()
    }


@contextmanager
def marked(marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]]) -> Iterator[None]:
    """While within, the loop's parts note on the GPU's clock when they begin and end."""
    found = {name: attribute for name, attribute in _SPANS.items() if hasattr(step, attribute)}
    before = {name: getattr(step, attribute) for name, attribute in found.items()}
    batch = DevicePixels.batch
    for name, attribute in found.items():
        setattr(step, attribute, _noting(before[name], marks.setdefault(name, [])))
    DevicePixels.batch = _noting(batch, marks.setdefault("data", []))  # type: ignore[method-assign]
    try:
        yield
    finally:
        DevicePixels.batch = batch  # type: ignore[method-assign]
        for name, attribute in found.items():
            setattr(step, attribute, before[name])


def _noting(
    work: Callable[..., Any], pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]]
) -> Callable[..., Any]:
    def noted(*arguments: Any, **named: Any) -> Any:
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        pair[0].record()
        try:
            return work(*arguments, **named)
        finally:
            pair[1].record()
            pairs.append(pair)

    return noted


def settle(device: torch.device) -> None:
    """Wait until a GPU has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
