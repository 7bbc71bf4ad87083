"""How fast samples are read: undecoded and decoded, beside webdataset's reader and torchvision's ImageFolder.

python -m benchmarks.shard_read [--data FOLDER] [--samples 20000] [--windows 5]

FOLDER (default $DCGAN_TEST_DATA) holds tiny-imagenet-32px-0.parquet: scaled up to 64 px and written as JPEG
at quality 95 into our shards and into a tree of files. All sides read every image once, in one process with
one thread: ours in a shuffled order with every hash checked, webdataset in the order of the tars with its own
decoder ("rgb8", Pillow), ImageFolder shuffled (Pillow). One window of each in turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from webdataset.compat import WebDataset

from benchmarks.common import print_result, training_images
from dcgan_core.shard.order import Shuffle
from dcgan_core.shard.reader import Shards, open_tars
from dcgan_core.shard.writer import Sample, write_tar
from dcgan_core.storage import Store

BATCH, SIZE, PER_TAR = 128, 64, 2048


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--windows", type=int, default=5)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data, or set DCGAN_TEST_DATA to the folder with tiny-imagenet-32px-0.parquet")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        images = training_images(options.data, options.samples, SIZE)
        shards, tars, files = written(Path(folder), images)
        order = Shuffle(len(shards), 1)(np.arange(len(shards)))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        tree = ImageFolder(str(files))
        sides: dict[str, Callable[[], object]] = {
            "ours": lambda: count(shards.pixels(batch) for batch in batches),
            "ours_undecoded": lambda: count(shards.encoded(batch) for batch in batches),
            "webdataset": lambda: count(WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("jpg")),
            "webdataset_undecoded": lambda: count(WebDataset(tars, shardshuffle=False)),
            "imagefolder": lambda: count(np.asarray(tree[int(number)][0]) for number in order),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.windows):
            for name, read in sides.items():
                rates[name].append(rate(read, len(order)))
        best = max(("webdataset", "imagefolder"), key=lambda name: np.median(rates[name]))
        medians = {name: round(float(np.median(each))) for name, each in rates.items()}
        spreads = {name: [round(min(each)), round(max(each))] for name, each in rates.items()}
        print_result(
            "shard_read",
            rates["ours"],
            "decoded images/s",
            peer=best,
            peer_values=rates[best],
            medians=medians,
            spreads=spreads,
            samples=len(order),
            mean_bytes=round(float(np.mean([len(image) for image in images]))),
            decoders=decoders(images[:4000], options.windows),
        )


def written(folder: Path, images: list[bytes]) -> tuple[Shards, list[str], Path]:
    """The images as our shards (their paths too) and as a tree of files with one class."""
    tree = folder / "tree" / "all"
    tree.mkdir(parents=True)
    for number, data in enumerate(images):
        (tree / f"{number:06d}.jpg").write_bytes(data)
    names = []
    for first in range(0, len(images), PER_TAR):
        names.append(f"train-{first // PER_TAR:05d}.tar")
        some = enumerate(images[first : first + PER_TAR], first)
        with (folder / names[-1]).open("wb") as file:
            write_tar(file, (Sample(f"k{number:06d}", "jpg", data, None, "") for number, data in some))
    shards = open_tars(Store(str(folder)), names, SIZE)
    hashes = [int.from_bytes(sha(data)[:8]) for data in images]  # as the index of an artifact has them
    index = shards.index.__class__(**{**vars(shards.index), "check_N": np.array(hashes, np.uint64)})
    return Shards(shards.store, index, SIZE), [str(folder / name) for name in names], folder / "tree"


def sha(data: bytes) -> bytes:
    """SHA-256."""
    import hashlib

    return hashlib.sha256(data).digest()


def decoders(images: list[bytes], windows: int) -> dict[str, int]:
    """Images a second of the decoders alone, bytes in memory."""
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    ways: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, buffer=out),
        "opencv": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "torchvision": lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(windows):
        for name, decode in ways.items():
            found[name].append(rate(lambda decode=decode: [decode(data) for data in images], len(images)))
    return {name: round(float(np.median(rates))) for name, rates in found.items()}


def rate(work: Callable[[], object], items: int) -> float:
    """Items a second."""
    began = time.perf_counter()
    work()
    return items / (time.perf_counter() - began)


def count(samples: Any) -> int:
    """Go through all."""
    return sum(1 for _ in samples)


if __name__ == "__main__":
    main()
