"""Training's reads from an object store beside those from local disk: first and second epoch, and in ranges.

python -m benchmarks.shard_s3 --peer PYTHON [--data FOLDER] [--samples 20000] [--windows 3]

PYTHON has the package swift (`make test` makes `.venv-swift/bin/python`): OpenStack Swift with its S3 API
serves on loopback, on the same machine and disk. FOLDER (default $DCGAN_TEST_DATA) holds
tiny-imagenet-32px-*.parquet, scaled up to 64 px and sharded. An epoch reads and decodes every image once,
batches of 128 in a shuffled order, made by two threads. ``first``: with an empty cache, ``second``: whole
shards are in it, ``ranges``: no cache, a request an image, an eighth of an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import print_result, training_images
from benchmarks.shard_write import CROPS_ADDRESS, DEDUP_ADDRESS, lay_out
from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ShardConfig
from dcgan_core.shard.order import Sampler
from dcgan_core.shard.reader import open_shards
from dcgan_core.shard.stage import Shard
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.train.data import Feed, StreamedPixels

BATCH, SIZE = 128, 64
WAYS = ("local", "first", "second", "ranges")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True, help="a Python that has swift")
    parser.add_argument("--data", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--windows", type=int, default=3)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data, or set DCGAN_TEST_DATA to the folder with tiny-imagenet-32px-0.parquet")
    script = Path(__file__).parents[1] / "tests" / "web" / "swift_server.py"
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as name:
        folder = Path(name)
        with subprocess.Popen([options.peer, script, folder / "swift"], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                served = json.loads(server.stdout.readline())
                os.environ.update(
                    AWS_ACCESS_KEY_ID=served["key"],
                    AWS_SECRET_ACCESS_KEY=served["secret"],
                    AWS_EC2_METADATA_DISABLED="true",
                )
                measure(folder, served["endpoint"], options)
            finally:
                server.terminate()


def measure(folder: Path, endpoint: str, options: argparse.Namespace) -> None:
    """Make the same shards on both, read them, print."""
    remote = Store("s3://bench/root", (("endpoint_url", endpoint),))
    remote.filesystem().mkdir("bench")
    images = training_images(options.data, options.samples, SIZE)
    local = Store(str(folder / "local"))
    (here, here_seconds), (there, there_seconds) = (made(store, images) for store in (local, remote))
    assert here.content == there.content
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for window in range(options.windows):
        cached = replace(remote, cache=str(folder / f"cache-{window}"), cache_bytes=2**33)
        rates["local"].append(epoch(local, here))
        rates["first"].append(epoch(cached, there))
        rates["second"].append(epoch(cached, there))
        rates["ranges"].append(epoch(remote, there, share=8))
    details: dict[str, Any] = {
        way: {"images/s": round(float(np.median(each))), "spread": [round(min(each)), round(max(each))]}
        for way, each in rates.items()
    }
    details["shard stage seconds"] = {"local": round(here_seconds, 1), "s3": round(there_seconds, 1)}
    print_result(
        "shard_s3",
        rates["second"],
        "images/s (second epoch)",
        peer="local disk",
        peer_values=rates["local"],
        **details,
    )


def made(store: Store, images: list[bytes]) -> tuple[Manifest, float]:
    """A set of shards, and the seconds the stage took."""
    lay_out(store, images, len(images))
    stage = Shard(1, {"crops": CROPS_ADDRESS, "dedup": DEDUP_ADDRESS}, "none", ShardConfig(size=SIZE))
    seconds = run(stage, store, LocalBackend(1)).seconds
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest, seconds


def epoch(store: Store, manifest: Manifest, share: int = 1) -> float:
    """Images a second over an epoch, or a share of one; opening the set is included."""
    began = time.perf_counter()
    shards = open_shards(store, manifest, SIZE)
    sampler = Sampler(len(shards), 1, BATCH)
    steps = len(shards) // BATCH // share
    feed = Feed(StreamedPixels(shards, torch.device("cpu")), (next(sampler) for _ in range(steps)), threads=2)
    for batch in feed:
        del batch
    feed.close()
    return steps * BATCH / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
