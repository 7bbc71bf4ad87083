"""How fast the stage `shard` writes: small samples that are encoded already, and such as must be encoded.

python -m benchmarks.shard_write [--data FOLDER] [--counts 100000 300000 1000000] [--windows 3]

FOLDER (default $DCGAN_TEST_DATA) holds tiny-imagenet-32px-*.parquet. Crops of 64 px (JPEG, quality 95, about
2.9 kB) are laid out as `crop` and `dedup` leave them, with keys of their own, images repeated; then the stage
runs in a process of its own, one worker, one thread: crops read and checked, shuffled (through files beyond
16,384), every image hashed, tars and indexes written and flushed to disk. The first count has ``--windows``
windows, larger ones one each. ``reencoded`` brings 128 px crops to 64 px. webdataset's TarWriter writes the
same samples, from memory, unshuffled, without hashes or index.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from webdataset.writer import TarWriter

from benchmarks.common import alone, peak_gib, print_result, training_images
from dcgan_core.artifacts import SCHEMA, Address, Manifest, Receipt, write_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ShardConfig
from dcgan_core.crop.stage import CROPS
from dcgan_core.dedup.stage import DEDUP
from dcgan_core.shard.stage import Shard
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows, write_stream

CROPS_ADDRESS, DEDUP_ADDRESS = Address("crops", "c" * 16), Address("dedup", "d" * 16)
PER_TABLE, DISTINCT = 4096, 5000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    if options.data is None:
        parser.error("give --data, or set DCGAN_TEST_DATA to the folder with tiny-imagenet-32px-0.parquet")
    small, large = (training_images(options.data, DISTINCT, size) for size in (64, 128))
    counts = sorted(options.counts)
    windows = [window(small, counts[0]) for _ in range(options.windows)]
    by_count = {counts[0]: windows[0]} | {count: window(small, count) for count in counts[1:]}
    reencoded = window(large, 20_000)
    rates = [counts[0] / each["seconds"] for each in windows]
    details: dict[str, Any] = {
        "by_count": {
            count: {
                "samples/s": round(count / each["seconds"]),
                "samples/CPU-s": round(count / each["cpu_seconds"]),
                "peak_gib": round(each["peak_gib"], 3),
            }
            for count, each in by_count.items()
        },
        "reencoded": round(20_000 / reencoded["seconds"]),
        "parts": {count: each["parts"] for count, each in by_count.items()},
    }
    if len(counts) > 1:
        first, last = counts[0], counts[-1]
        for name in ("seconds", "cpu_seconds"):
            grown = by_count[last][name] / by_count[first][name]
            details[f"exponent of {name}"] = round(math.log(grown) / math.log(last / first), 3)
    peer = [tar_writer(small, 20_000) for _ in range(options.windows)]
    print_result("shard_write", rates, "samples/s", peer="webdataset TarWriter", peer_values=peer, **details)


def window(images: list[bytes], count: int) -> dict[str, Any]:
    """Lay out so many crops and let a process of its own write their shards."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        lay_out(Store(folder), images, count)
        return alone(sys.executable, "-m", "benchmarks.shard_write", "--measure", folder)


def measured(root: str) -> dict[str, Any]:
    """Seconds, peak memory and parts of the stage, run here."""
    cv2.setNumThreads(1)
    stage = Shard(1, {"crops": CROPS_ADDRESS, "dedup": DEDUP_ADDRESS}, "none", ShardConfig(size=64))
    store = Store(root)
    began, worked = time.perf_counter(), time.process_time()
    run(stage, store, LocalBackend(1))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_gib": peak_gib(),
        "parts": len(stage.plan(store)),
    }


def lay_out(store: Store, images: list[bytes], count: int) -> None:
    """Crops, all kept, as `crop` and `dedup` write them."""
    receipts: dict[Address, list[Receipt]] = {CROPS_ADDRESS: [], DEDUP_ADDRESS: []}
    for part, first in enumerate(range(0, count, PER_TABLE)):
        numbers = range(first, min(first + PER_TABLE, count))
        crops = write_stream(
            store, CROPS_ADDRESS, f"crops-{part:05d}.parquet", crop_rows(images, numbers), CROPS
        )
        kept = [{"key": f"{number:016x}_0", "keep": True} for number in numbers]
        decided = write_rows(store, DEDUP_ADDRESS, f"dedup-{part:05d}.parquet", kept, DEDUP)
        for address, file in ((CROPS_ADDRESS, crops), (DEDUP_ADDRESS, decided)):
            receipts[address].append(Receipt(part=part, key=str(part), files=(file,)))
    for address, parts in receipts.items():
        write_manifest(
            store,
            Manifest(
                schema_version=SCHEMA,
                artifact=address.artifact,
                fingerprint=address.fingerprint,
                version=1,
                config={},
                source={},
                seed=0,
                inputs={},
                predecessor=None,
                parts=tuple(parts),
                counts={},
                metrics={},
                provenance={"finished": "2026-01-01T00:00:00+00:00"},
            ),
        )


def crop_rows(images: list[bytes], numbers: range) -> Iterator[dict[str, Any]]:
    """Rows of a table of crops."""
    for number in numbers:
        key, image = f"{number:016x}", images[number % len(images)]
        yield {"key": f"{key}_0", "photo_key": key, "label": None, "status": "ok", "image": image}


def tar_writer(images: list[bytes], count: int) -> float:
    """Samples a second of webdataset's writer alone."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        began = time.perf_counter()
        with TarWriter(f"{folder}/a.tar", encoder=False) as tar:
            for number in range(count):
                tar.write({"__key__": f"{number:016x}_0", "jpg": images[number % len(images)]})
        return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
