"""From codes to groups, and from decoded pixels to codes: time and memory at 10 thousand to 10 million.

python -m benchmarks.dedup_speed [--radius 8] [--largest 10000000] [--windows 3]

Each size runs in a process of its own on one thread. ``random`` codes are 128 even bits, ``skewed`` ones have
bits that are set with a probability between 0.02 and 0.98 and gather around 1,000 centres. In both, one code
in ten is a copy of another with 0 to 6 bits flipped. Only the random codes run at every size and radius;
skewed codes have more real neighbours the more there are, so that no exact method is linear on them.
``shuffled`` is the stage `links` over the same random codes with 1, 4 and 16 times the codes that one task
compares, in two processes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.common import alone, peak_gib, print_result
from dcgan_core.artifacts import (
    SCHEMA,
    Address,
    Manifest,
    Receipt,
    read_manifest,
    write_manifest,
    write_part,
)
from dcgan_core.backend import LocalBackend
from dcgan_core.config import DedupConfig
from dcgan_core.dedup.autoencoder import Autoencoder
from dcgan_core.dedup.codes import encode, thumbnail
from dcgan_core.dedup.groups import group
from dcgan_core.dedup.links import Links, read_links
from dcgan_core.dedup.neighbours import links_within
from dcgan_core.stage import run as run_stage
from dcgan_core.storage import Store
from dcgan_core.tables import encode_table

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BYTES = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--radius", type=int, default=8)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, n, radius = options.one
        print(json.dumps(one(kind, int(n), int(radius))))
        return
    table = []
    for n in (size for size in SIZES if size <= options.largest):
        for kind in ("random", "skewed"):
            for radius in dict.fromkeys((0, options.radius)):
                if radius and (n > 1_000_000 or (kind == "skewed" and n > 100_000)):
                    continue
                table.append({"kind": kind, "n": n, "radius": radius, **run(kind, n, radius)})
                print(table[-1], flush=True)
    at_zero = {row["n"]: row["seconds"] for row in table if row["kind"] == "random" and row["radius"] == 0}
    exponent = None
    if 100_000 in at_zero and options.largest > 100_000:
        last = max(at_zero)
        exponent = math.log(at_zero[last] / at_zero[100_000]) / math.log(last / 100_000)
    most = min(1_000_000, options.largest)
    shuffled = {tasks: split(most, options.radius, tasks) for tasks in (1, 4, 16)}
    print(shuffled, flush=True)
    million = [run("random", most, options.radius) for _ in range(options.windows)]
    print_result(
        f"dedup_speed: codes to groups, {most:,} random codes, radius {options.radius}",
        [each["seconds"] for each in million],
        "s",
        peak_gib=max(each["peak_gib"] for each in million),
        growth_exponent_at_radius_0=exponent and round(exponent, 3),
        shuffled=shuffled,
        encoded_per_second=[round(encoding()) for _ in range(options.windows)],
        table=table,
    )


def run(kind: str, n: int, radius: int) -> dict[str, float]:
    """``one`` in a fresh process with one thread."""
    command = [sys.executable, "-m", "benchmarks.dedup_speed", "--one", kind, str(n), str(radius)]
    return alone(*command)


def one(kind: str, n: int, radius: int) -> dict[str, float]:
    """Seconds from codes to groups, and the process's peak memory (codes and all imports included)."""
    codes = codes_of(kind, n)
    rank = np.random.default_rng(1).permutation(n)
    started = time.perf_counter()
    links = links_within(codes, radius)
    groups = group(codes, links, rank, 2 * radius)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 3), "peak_gib": round(peak_gib(), 2), "kept": int(groups.kept_N.sum())}


def split(n: int, radius: int, tasks: int) -> dict[str, float]:
    """The stage `links` over random codes in files of 50,000, of which one task compares an equal share at
    most; in two processes."""
    most = -(-n // tasks)
    with tempfile.TemporaryDirectory() as root:
        store, address = Store(root), Address("codes", "0" * 16)
        codes, receipts = codes_of("random", n), []
        for number, start in enumerate(range(0, n, 50_000)):
            rows = pa.table({"code": [code.tobytes() for code in codes[start : start + 50_000]]})
            name = f"codes-{number:05d}.parquet"
            file = write_part(store, address, name, encode_table(rows), rows=rows.num_rows)
            receipts.append(Receipt(part=number, key=str(number), files=(file,)))
        nothing: dict[str, Any] = {"config": {}, "source": {}, "metrics": {}, "provenance": {}, "inputs": {}}
        manifest = Manifest(
            schema_version=SCHEMA,
            artifact=address.artifact,
            fingerprint=address.fingerprint,
            version=1,
            seed=0,
            predecessor=None,
            parts=tuple(receipts),
            counts={"crops": n},
            **nothing,
        )
        write_manifest(store, manifest)
        config = DedupConfig(radius=radius, codes_per_task=most)
        stage = Links(0, {"codes": address}, "faces64", config)
        made = run_stage(stage, store, LocalBackend(2))
        links = read_manifest(store, stage.address)
        assert links is not None
        found = len(read_links(store, links, n))
    return {"seconds": round(made.seconds, 1), "parts": len(links.parts), "pairs": found, **links.counts}


def codes_of(kind: str, n: int) -> NDArray[np.uint8]:
    """Packed codes (n, 16), a tenth of them near copies, in random order."""
    rng = np.random.default_rng(0)
    own = n - n // 10
    if kind == "random":
        codes = rng.integers(0, 256, (own, BYTES), np.uint8)
    else:
        bits = 8 * BYTES
        share = rng.uniform(0.02, 0.98, bits)
        centres = rng.random((1000, bits)) < share
        blocks = []
        for start in range(0, own, 100_000):
            rows = min(100_000, own - start)
            drawn = centres[rng.integers(0, 1000, rows)]
            again = rng.random((rows, bits)) < 0.35
            blocks.append(np.packbits(np.where(again, rng.random((rows, bits)) < share, drawn), axis=1))
        codes = np.concatenate(blocks)
    copies = codes[rng.integers(0, own, n // 10)]
    for _ in range(6):
        rows = np.flatnonzero(rng.random(len(copies)) < 0.5)
        copies[rows, rng.integers(0, BYTES, len(rows))] ^= np.uint8(1) << rng.integers(
            0, 8, len(rows), np.uint8
        )
    return np.concatenate([codes, copies])[rng.permutation(n)]


def encoding() -> float:
    """Crops a second and core, from decoded 64-pixel pictures to packed codes."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    model = Autoencoder(8 * BYTES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(0))
    pictures = np.random.default_rng(0).integers(0, 256, (4000, 64, 64, 3), np.uint8)
    started = time.process_time()
    encode(model, np.stack([thumbnail(each) for each in pictures]), np.zeros(8 * BYTES))
    return len(pictures) / (time.process_time() - started)


if __name__ == "__main__":
    main()
