"""How fast batches come from each placement of the pixels, and how long training waits for them.

python -m benchmarks.loader [--data FOLDER] [--samples 20000] [--windows 5] [--steps 12]

FOLDER (default $DCGAN_TEST_DATA) holds tiny-imagenet-32px-*.parquet, scaled up to 64 px and sharded. Batches
of 128 as the trainer takes them, in its order. ``images/s``: batches taken as fast as they come, `stream` and
`host` made by two threads. ``waiting``: share of the loop's time in which `torch64` (batch 128, both nets
each step, the precision that this processor computes natively) waits for a batch, over ``--steps`` steps; on
two cores the threads that decode take time from the net, so steps/s says what that costs. One window of each
in turn. Without a GPU `device` is main memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import print_result, training_images
from benchmarks.shard_read import written
from dcgan_core.artifacts import Address
from dcgan_core.config import TrainConfig
from dcgan_core.models.specs import net_spec
from dcgan_core.shard.order import Sampler
from dcgan_core.shard.reader import Shards
from dcgan_core.storage import Store
from dcgan_core.train.data import Feed, Pixels, place_pixels
from dcgan_core.train.loop import train
from dcgan_core.train.runtime import LocalRuntime, local_device
from dcgan_core.train.state import Job

BATCH = 128
PLACES = ("device", "host", "stream")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data, or set DCGAN_TEST_DATA to the folder with tiny-imagenet-32px-0.parquet")
    runtime = LocalRuntime(local_device())
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        shards, _, _ = written(Path(folder), training_images(options.data, options.samples, 64))
        placed = {where: placed_in(where, shards, runtime) for where in PLACES}
        rates: dict[str, list[float]] = {where: [] for where in PLACES}
        waits: dict[str, list[float]] = {where: [] for where in PLACES}
        speeds: dict[str, list[float]] = {where: [] for where in PLACES}
        for _ in range(options.windows):
            for where, (pixels, _) in placed.items():
                rates[where].append(images_a_second(pixels))
                waited, speed = trained(pixels, options.steps, runtime, Path(folder) / "root")
                waits[where].append(waited)
                speeds[where].append(speed)
        details: dict[str, Any] = {
            where: {
                "images/s": round(float(np.median(rates[where]))),
                "images/s spread": [round(min(rates[where])), round(max(rates[where]))],
                "waiting": round(float(np.median(waits[where])), 5),
                "waiting spread": [round(min(waits[where]), 5), round(max(waits[where]), 5)],
                "steps/s": round(float(np.median(speeds[where])), 3),
                "placing_seconds": round(placed[where][1], 2),
            }
            for where in PLACES
        }
        details["torch device"] = str(runtime.device)
        print_result("loader", rates["stream"], "images/s (stream, 2 threads)", **details)


def placed_in(where: str, shards: Shards, runtime: LocalRuntime) -> tuple[Pixels, float]:
    """The set where it is wanted, and the seconds that takes."""
    began = time.perf_counter()
    pixels = place_pixels(shards, where, runtime)  # pyright: ignore[reportArgumentType]
    return pixels, time.perf_counter() - began


def images_a_second(pixels: Pixels) -> float:
    """Batches taken as fast as they come, an epoch of them."""
    sampler = Sampler(len(pixels), 1, BATCH)
    steps = len(pixels) // BATCH
    feed = Feed(pixels, (next(sampler) for _ in range(steps)), threads=2)
    began = time.perf_counter()
    for batch in feed:
        del batch
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    feed.close()
    return steps * BATCH / seconds


def trained(pixels: Pixels, steps: int, runtime: LocalRuntime, root: Path) -> tuple[float, float]:
    """Share of the loop's time waited for data, and steps a second, of a fresh run."""
    config = TrainConfig(
        net="torch64",
        schedule="both",
        steps=steps,
        batch_size=BATCH,
        log_every=steps,
        sample_every=10**6,
        checkpoint_every=10**6,
    )
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        spec = net_spec("torch64")
        job = Job(config, spec, 1, Store(folder), Address("train", "0" * 16), "key", runtime)
        run = train(pixels, job)
    return run.waited_seconds / run.seconds, steps / run.seconds


if __name__ == "__main__":
    main()
