"""What the training benchmarks share: windows of our loop and of the peer's, work, matrix rate."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcgan_core.artifacts import Address
from dcgan_core.config import TrainConfig
from dcgan_core.models.specs import NetSpec, net_spec
from dcgan_core.shard.order import Indices
from dcgan_core.storage import Store
from dcgan_core.train.data import DevicePixels, in_memory
from dcgan_core.train.loop import train
from dcgan_core.train.runtime import LocalRuntime, Runtime
from dcgan_core.train.state import Job

BATCH = 128
WARM_STEPS = 3
"""Steps of either loop that no window counts."""
_PEER_IMAGES = 1000
"""Images in an epoch of torchvision's FakeData: the last batch of an epoch is a short one."""
_LINE = re.compile(r"\[\d+/\d+\]\[(\d+)/(\d+)\] Loss_D")
_MADE = """
import runpy, sys, torch, torchvision.datasets as sets
def made(image_size, transform):  # the peer's own set, made before the clock starts
    random = torch.rand(1000, *image_size)
    return torch.utils.data.TensorDataset(random, torch.zeros(1000))
sets.FakeData = made
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class _Enough(Exception):
    """The window is over."""


@dataclass
class TimedPixels:
    """A set in the training device's memory that notes when each batch is taken, and ends the run in time."""

    pixels: DevicePixels
    is_over: Callable[[Sequence[float]], bool]
    """Asked at each step with the moments at which batches were taken so far."""
    moments: list[float] = field(default_factory=list)
    in_background: bool = False
    looks: int = 0
    """Batches of real images that this rank still looks at before the run begins."""

    def __len__(self) -> int:
        return len(self.pixels)

    def labels(self, numbers_N: Indices) -> Tensor:
        return self.pixels.labels(numbers_N)

    def batch(self, numbers_N: Indices) -> Tensor:
        """As DevicePixels; raises _Enough when the window is over. First looks do not count."""
        if self.looks:
            self.looks -= 1
            return self.pixels.batch(numbers_N)
        over = self.is_over(self.moments)
        if over or len(self.moments) == WARM_STEPS:  # a GPU's queue must not count for the other side
            _synchronise(self.pixels.pixels_NSS3.device)
        self.moments.append(time.perf_counter())
        if over:
            raise _Enough
        return self.pixels.batch(numbers_N)


def our_moments(
    net: str,
    is_over: Callable[[Sequence[float]], bool],
    *,
    runtime: Runtime | None = None,
    batch_size: int = BATCH,
    images: int = 2048,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> list[float]:
    """When each step of the training loop began, until ``is_over``.

    The loop is the real one, both nets each step, all else at its defaults but ``settings``; its logs, grids
    and checkpoints go to the local disk.
    """
    config = TrainConfig.model_validate(
        {"net": net, "schedule": "both", "steps": 10**9, "batch_size": batch_size, **settings}
    )
    runtime = runtime or LocalRuntime(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    spec = net_spec(net)
    random = np.random.default_rng(0)
    pixels_N3SS = random.integers(0, 256, (images, 3, spec.size, spec.size), np.uint8)
    looks = math.ceil(config.score_images / 128) if runtime.rank == 0 else 0  # one rank judges for all
    pixels = TimedPixels(in_memory(pixels_N3SS, runtime.device), is_over, looks=looks)
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        try:
            train(pixels, Job(config, spec, 1, Store(folder), Address("train", "0" * 16), "key", runtime))
        except _Enough:
            return pixels.moments
    raise AssertionError("the loop ended before its window did")


def for_seconds(seconds: float) -> Callable[[Sequence[float]], bool]:
    """Over when so many seconds have passed since the first step that counts."""
    return lambda moments: (
        len(moments) > WARM_STEPS + 1 and time.perf_counter() - moments[WARM_STEPS] >= seconds
    )


def for_steps(steps: int) -> Callable[[Sequence[float]], bool]:
    """Over after so many steps that count."""
    return lambda moments: len(moments) >= WARM_STEPS + steps


def images_a_second(moments: Sequence[float], batch_size: int = BATCH) -> float:
    """Over all steps but the first few."""
    return (len(moments) - 1 - WARM_STEPS) * batch_size / (moments[-1] - moments[WARM_STEPS])


@dataclass(frozen=True)
class PeerWindow:
    """A stretch of the peer's loop."""

    images_a_second: float
    peak_gib: float
    """Largest resident memory of its main process; its two data workers are not counted."""


def peer_window(
    checkout: Path, seconds: float, *, made: bool = False, accelerator: bool = False, batch_size: int = BATCH
) -> PeerWindow:
    """``dcgan/main.py --dataset fake`` as it is in a process of its own, timed by the lines it prints.

    ``made``: with images made beforehand instead of torchvision's FakeData, and no data workers. The lines of
    the first ``WARM_STEPS`` steps do not count. RuntimeError with what it said where it ends by itself.
    """
    script = str((checkout / "dcgan" / "main.py").resolve())
    options = ["--dataset", "fake", "--batchSize", str(batch_size), "--niter", "1000000", "--manualSeed", "1"]
    options += ["--workers", "0"] if made else []
    options += ["--accel"] if accelerator else []
    with tempfile.TemporaryDirectory(prefix="dcgan-peer-") as folder:
        peer = subprocess.Popen(
            [sys.executable, "-u", *(["-c", _MADE] if made else []), script, *options, "--outf", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its data workers end with it
        )
        try:
            return _watched(peer, seconds, batch_size)
        finally:
            os.killpg(peer.pid, signal.SIGKILL)
            peer.communicate()


def _watched(peer: subprocess.Popen[str], seconds: float, batch_size: int) -> PeerWindow:
    assert peer.stdout is not None
    said: list[str] = []
    moments: list[float] = []
    images = 0
    for line in peer.stdout:
        said = [*said[-20:], line]
        found = _LINE.match(line)
        if not found:
            continue
        moments.append(time.perf_counter())
        last_of_epoch = int(found[1]) == int(found[2]) - 1
        if len(moments) > WARM_STEPS + 1:
            images += _PEER_IMAGES - int(found[1]) * batch_size if last_of_epoch else batch_size
            taken = moments[-1] - moments[WARM_STEPS]
            if taken >= seconds:
                status = Path(f"/proc/{peer.pid}/status").read_text()
                peak_kib = int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
                return PeerWindow(images / taken, peak_kib / 2**20)
    raise RuntimeError(f"the peer ended with {peer.wait()}: {''.join(said)}")


def child(module: str, *arguments: str, threads: int | None = None) -> Any:
    """The JSON that ``python -m module arguments`` prints last, in a process of its own."""
    env = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended: {done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def step_gflop(spec: NetSpec) -> float:
    """The least that a step of both nets needs an image, in GFLOP (a multiply-add is two).

    G forward, its gradients by maps and weights; D the same on real and on fake, but for gradients by images;
    for G's update D forward and its gradients by maps. Borders count as if they were not there; batch norm,
    activations and Adam are not counted.
    """
    side, filters = 4, spec.project
    projection = generator = spec.z_size * spec.project * 16
    for conv in spec.generator:
        generator += side**2 * filters * conv.filters * conv.kernel**2
        side, filters = side * conv.stride, conv.filters
    side, filters = spec.size, spec.channels
    layers = []
    for conv in spec.discriminator:
        side //= conv.stride
        layers.append(side**2 * filters * conv.filters * conv.kernel**2)
        filters = conv.filters
    discriminator = sum(layers) + filters * 16
    in_d = 2 * (3 * discriminator - layers[0])
    in_g = 3 * generator - projection + 2 * discriminator
    return 2 * (in_d + in_g) / 1e9


def matrix_gflops(device: torch.device, dtype: torch.dtype = torch.bfloat16, seconds: float = 1.0) -> float:
    """The best rate of ``torch.mm`` over square sizes, GFLOP a second: what this machine can do at all."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        over = time.perf_counter() + seconds / 2
        while time.perf_counter() < over:
            _synchronise(device)
            began = time.perf_counter()
            for _ in range(4):
                torch.mm(a, b)
            _synchronise(device)
            best = max(best, 4 * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
