"""How fast features of images are made, and how much of that is D's own forward pass.

python -m benchmarks.features [--nets svhn32 imagenet32] [--images 2048] [--batch 128] [--windows 5]
    [--dtype float32] [--autocast] [--device auto] [--folder FOLDER]

Ours: uint8 images in memory to a file of features on disk: scaling, all layers, pooling, joining, writing.
The peer: `feature_maps` alone on the same batches as prepared float inputs, on the device and in the memory
format that ours uses. Ratio: the forward pass's share of the whole. One window of each in turn; one result a
net.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import peak_gib, print_result
from dcgan_core.evaluate.feature_files import create, fill
from dcgan_core.evaluate.features import (
    batch_norm_mode,
    calibration_batches,
    extract,
    feature_width,
    inputs_of,
    maps_of,
)
from dcgan_core.evaluate.rows import batches_of
from dcgan_core.models.dcgan import Discriminator, build
from dcgan_core.models.sampling import chosen_device
from dcgan_core.models.specs import net_spec


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", nargs="+", default=["svhn32", "imagenet32"])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--autocast", action="store_true", help="convolutions in bfloat16, of both sides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where the file is written (default: a temporary one)")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # as ours does it, for the peer
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-", dir=options.folder) as folder:
        for name in options.nets:
            measured(name, options, Path(folder))


def measured(name: str, options: argparse.Namespace, folder: Path) -> None:
    """One net's windows, and its line."""
    device = chosen_device(options.device)
    net = build(net_spec(name), seed=0)[1]
    side = net.spec.size
    images = np.random.default_rng(0).integers(0, 256, (options.images, side, side, 3), dtype=np.uint8)
    ready = batch_norm_mode(net, "recalibrated", calibration_batches(net, images[: 2 * options.batch]))
    width = feature_width(ready, side)
    file = create(folder / f"{name}.npy", len(images), width, options.dtype)
    extract(ready, images[: options.batch], device=device)  # moves the net there, in channels_last
    batches = batches_of(images, range(len(images)), options.batch)
    prepared = [inputs_of(ready, batch.images_BHW3, device) for batch in batches]
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: fill(
            file, ready, images, device=device, autocast=options.autocast, batch_size=options.batch
        ),
        "forward": lambda: forward(ready, prepared, options.autocast),
    }
    rates: dict[str, list[float]] = {each: [] for each in sides}
    for window in range(options.windows + 1):
        for each, work in sides.items():
            rate = images_a_second(work, len(images), device)
            if window:  # the first one warms up
                rates[each].append(rate)
    print_result(
        f"features of {name}",
        rates["ours"],
        "images/s",
        peer="feature_maps alone, inputs prepared",
        peer_values=rates["forward"],
        width=width,
        dtype=options.dtype,
        autocast=options.autocast,
        images=len(images),
        batch=options.batch,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        file_mib=round(file.bytes / 2**20),
        peak_gib=round(peak_gib(), 2),
        bfloat16=differences(ready, images[: 2 * options.batch], device),
        load_before=os.getloadavg()[0],
    )


@torch.inference_mode()
def forward(net: torch.nn.Module, prepared: list[Tensor], autocast: bool) -> None:
    """D's layers alone; the maps are dropped."""
    with torch.autocast(prepared[0].device.type, torch.bfloat16, enabled=autocast):
        for inputs_BCHW in prepared:
            maps_of(net, inputs_BCHW)


def differences(net: Discriminator | torch.nn.Module, images: np.ndarray, device: str) -> dict[str, float]:
    """What bfloat16 changes: the root mean square and the largest difference, over the features' spread."""
    exact, near = (
        extract(net, images, device=device, autocast=autocast).astype(np.float64)
        for autocast in (False, True)
    )
    difference = np.abs(near - exact)
    spread = float(exact.std())
    return {
        "rms": round(float(np.sqrt(np.mean(difference**2))) / spread, 5),
        "largest": round(float(difference.max()) / spread, 4),
    }


def images_a_second(work: Callable[[], None], count: int, device: str) -> float:
    """Of one window, all that was launched included."""
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
