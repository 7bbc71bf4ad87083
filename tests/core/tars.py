"""Small sets for tests: tars of pictures that say their numbers, and crops to make shards of."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Address, Manifest, Receipt, read_manifest, write_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ShardConfig
from dcgan_core.crop.stage import CROPS
from dcgan_core.dedup.stage import DEDUP
from dcgan_core.shard.reader import Shards, open_tars
from dcgan_core.shard.stage import Shard
from dcgan_core.shard.writer import Sample, write_tar
from dcgan_core.stage import Backend, run
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows
from tests.conftest import bare_manifest

SIZE = 8


def picture(number: int) -> NDArray[np.uint8]:
    """A picture (8, 8, 3) that says its number."""
    return np.full((SIZE, SIZE, 3), (number % 256, number // 256 % 256, 7), np.uint8)


def numbers_in(pixels_N3SS: NDArray[np.uint8]) -> list[int]:
    """The numbers that pictures say."""
    assert (pixels_N3SS == pixels_N3SS[:, :, :1, :1]).all()
    low, high = pixels_N3SS[:, 0, 0, 0].astype(int), pixels_N3SS[:, 1, 0, 0].astype(int)
    return (low + 256 * high).tolist()


def sample(number: int) -> Sample:
    return Sample(f"k{number:05d}", "png", images.encode_png(picture(number)), number % 10, "p")


def write_tars(folder: Path, counts: Sequence[int]) -> list[str]:
    """Tars with so many samples each, numbered through; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names, first = [], 0
    for tar, count in enumerate(counts):
        names.append(f"{tar:03d}.tar")
        with (folder / names[-1]).open("wb") as file:
            write_tar(file, (sample(number) for number in range(first, first + count)))
        first += count
    return names


def opened(folder: Path, counts: Sequence[int], max_bad: float = 0.0) -> Shards:
    return reopened(folder, len(write_tars(folder, counts)), max_bad)


def reopened(folder: Path, tars: int, max_bad: float = 0.0) -> Shards:
    """Tars that ``write_tars`` wrote."""
    names = [f"{tar:03d}.tar" for tar in range(tars)]
    return open_tars(Store(str(folder)), names, SIZE, max_bad=max_bad)


def rewrite(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


CROPS_ADDRESS, DEDUP_ADDRESS = Address("crops", "c" * 16), Address("dedup", "d" * 16)
HERE = LocalBackend(1)


def write_inputs(store: Store, kept_and_not: Sequence[tuple[int, int]]) -> list[str]:
    """Tables of crops and of what is kept of them; the keys of what is kept, in the order of the tables."""
    keys: list[str] = []
    files: dict[Address, list[Receipt]] = {CROPS_ADDRESS: [], DEDUP_ADDRESS: []}
    number = 0
    for part, (kept, dropped) in enumerate(kept_and_not):
        crops, decisions = [], []
        for place in range(kept + dropped):
            is_kept = place % 2 == 0 if place < 2 * min(kept, dropped) else kept > dropped
            key = f"k{number:05d}_0"
            number += 1
            image = images.encode_png(np.full((8, 8, 3), number % 256, np.uint8))
            crops.append(
                {"key": key, "photo_key": key[:-2], "label": number % 3, "status": "ok", "image": image}
            )
            decisions.append({"key": key, "keep": is_kept, "kept_key": key})
            keys += [key] if is_kept else []
        crops.append({"key": f"n{part}", "photo_key": f"n{part}", "status": "no_face"})
        for address, rows, schema in ((CROPS_ADDRESS, crops, CROPS), (DEDUP_ADDRESS, decisions, DEDUP)):
            name = f"{address.artifact}-{part:05d}.parquet"
            file = write_rows(store, address, name, rows, schema)
            files[address].append(Receipt(part=part, key=f"{part}", files=(file,)))
    for address, receipts in files.items():
        write_manifest(store, bare_manifest(address, receipts))
    return keys


def shard_stage(samples_per_shard: int, samples_per_task: int, **settings: Any) -> Shard:
    config = ShardConfig(
        size=8, samples_per_shard=samples_per_shard, samples_per_task=samples_per_task, **settings
    )
    return Shard(3, {"crops": CROPS_ADDRESS, "dedup": DEDUP_ADDRESS}, "PRESET", config)


def made(stage: Shard, store: Store, backend: Backend = HERE, *, refresh: bool = False) -> Manifest:
    run(stage, store, backend, refresh=refresh)
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest
