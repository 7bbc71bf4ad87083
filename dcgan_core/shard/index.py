"""Where every sample of a set of tars is: small arrays, read from the indexes or from the tars themselves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import Address, Manifest, PartFile, read_part
from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.shard.order import Indices
from dcgan_core.storage import Store
from dcgan_core.tables import read_rows
from dcgan_core.tars import TarSample, scan

_OPEN_AT_ONCE = 16


@dataclass(frozen=True)
class Tar:
    """One tar of a set: its path under a store's root and, where it is ours, its size and hash."""

    path: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Index:
    """All samples of a set, numbered through in the order of the tars. About 24 bytes a sample."""

    tars: tuple[Tar, ...]
    first_T: Indices
    """Number of the first sample of each tar, and at the end that of all samples."""
    offset_N: NDArray[np.int64]
    size_N: NDArray[np.int32]
    label_N: NDArray[np.int32]
    """-1 where there is none."""
    check_N: NDArray[np.uint64] | None
    """First 8 bytes of the SHA-256 of each image; None for tars that came without."""
    load: Callable[[int], _Columns] = field(repr=False)
    """Reads one tar's part again, keys included, which are not held."""

    def __len__(self) -> int:
        return len(self.offset_N)

    def tar_of(self, numbers_N: Indices) -> Indices:
        """Number of the tar that each sample is in (N,)."""
        return np.searchsorted(self.first_T, numbers_N, side="right") - 1

    def key(self, number: int) -> str:
        """The key of one sample; reads its tar's index again."""
        tar = int(self.tar_of(np.array([number]))[0])
        return self.load(tar).keys[number - int(self.first_T[tar])]

    @cached_property
    def keys(self) -> list[str]:
        """All keys."""
        return [key for tar in range(len(self.tars)) for key in self.load(tar).keys]

    @cached_property
    def photo_keys(self) -> list[str]:
        """For each sample of our own tars, the key of the photo that it was cut from."""
        return [key.rpartition("_")[0] or key for key in self.keys]


def index_of(store: Store, manifest: Manifest) -> Index:
    """The index of an artifact of shards. A tar whose index is gone or damaged is looked through instead.

    Raises CorruptArtifact where that is not possible either.
    """
    pairs = _pairs(manifest)
    tars = [Tar(manifest.address.part_path(tar.name), tar.bytes, tar.sha256) for tar, _ in pairs]
    return _loaded(tars, _Indexed(store, manifest.address, tuple(pairs)))


def index_of_tars(store: Store, paths: Sequence[str]) -> Index:
    """The index of tars of any origin (webdataset, img2dataset), made by reading their headers.

    ``paths`` lie under the store's root. ConfigError where there is none, CorruptArtifact for one that is
    damaged or holds a sample twice.
    """
    if not paths:
        raise ConfigError(f"there is no tar to read under {store.root}")
    index = _loaded([Tar(path) for path in paths], _Scanned(store, tuple(paths)))
    if not len(index):
        raise ConfigError(f"{store.uri(paths[0])} and the others ({len(paths)}) hold no image")
    return index


@dataclass(frozen=True)
class _Indexed:
    """Reads the part of one of our tars."""

    store: Store
    address: Address
    pairs: tuple[tuple[PartFile, PartFile | None], ...]

    def __call__(self, number: int) -> _Columns:
        tar, index = self.pairs[number]
        if index is not None:
            try:
                return _from_table(self.store, self.address, index)
            except CorruptArtifact:
                pass
        return _from_tar(io.BytesIO(read_part(self.store, self.address, tar)), tar.name)


@dataclass(frozen=True)
class _Scanned:
    """Reads the part of one of others' tars."""

    store: Store
    paths: tuple[str, ...]

    def __call__(self, number: int) -> _Columns:
        path = self.paths[number]
        with self.store.filesystem().open(self.store.key(path), "rb") as file:
            return _from_tar(cast("IO[bytes]", file), self.store.uri(path))


@dataclass(frozen=True)
class _Columns:
    """One tar's part of an index."""

    keys: list[str]
    offset: NDArray[np.int64]
    size: NDArray[np.int32]
    label: NDArray[np.int32]
    check: NDArray[np.uint64] | None


def _pairs(manifest: Manifest) -> list[tuple[PartFile, PartFile | None]]:
    files = manifest.named("train-")
    indexes = {file.name.partition(".")[0]: file for file in files if file.name.endswith(".index.parquet")}
    tars = [file for file in files if file.name.endswith(".tar")]
    return [(tar, indexes.get(tar.name.partition(".")[0])) for tar in tars]


def _from_table(store: Store, address: Address, file: PartFile) -> _Columns:
    table = read_rows(store, address, file, ["key", "offset", "size", "sha256", "label"])
    hashes = "".join(table.column("sha256").to_pylist())
    return _Columns(
        keys=table.column("key").to_pylist(),
        offset=table.column("offset").to_numpy(),
        size=table.column("size").to_numpy().astype(np.int32),
        label=table.column("label").fill_null(-1).to_numpy().astype(np.int32),
        check=np.frombuffer(bytes.fromhex(hashes), ">u8")[::4].astype(np.uint64),
    )


def _from_tar(file: IO[bytes], name: str) -> _Columns:
    samples: list[TarSample] = scan(file, name)
    return _Columns(
        keys=[sample.key for sample in samples],
        offset=np.array([sample.offset for sample in samples], np.int64),
        size=np.array([sample.size for sample in samples], np.int32),
        label=np.array([-1 if sample.label is None else sample.label for sample in samples], np.int32),
        check=None,
    )


def _loaded(tars: Sequence[Tar], load: Callable[[int], _Columns]) -> Index:
    with ThreadPoolExecutor(min(_OPEN_AT_ONCE, len(tars))) as pool:
        each = list(pool.map(lambda tar: replace(load(tar), keys=[]), range(len(tars))))
    counts = [len(one.offset) for one in each]
    checks = [one.check for one in each]
    known = [check for check in checks if check is not None]
    if known and len(known) < len(each):  # one tar had lost its index: what is not known is not checked
        known = [
            np.zeros(count, np.uint64) if check is None else check
            for check, count in zip(checks, counts, strict=True)
        ]
    return Index(
        tars=tuple(tars),
        first_T=np.cumsum([0, *counts]),
        offset_N=np.concatenate([one.offset for one in each]),
        size_N=np.concatenate([one.size for one in each]),
        label_N=np.concatenate([one.label for one in each]),
        check_N=np.concatenate(known) if known else None,
        load=load,
    )
