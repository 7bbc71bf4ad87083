"""Training images out of indexed tars, by number: a map-style data set of uint8 pixels.

``open_shards`` opens an artifact, ``open_tars`` tars of any origin. Order is not decided here but by whoever
asks (``order.Sampler``).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import Manifest
from dcgan_core.errors import BadSamples, CorruptArtifact, DcganError, DecodeError, NotEnoughMemory
from dcgan_core.held_out import places
from dcgan_core.memory import free_memory
from dcgan_core.place import processors
from dcgan_core.progress import Progress, silent
from dcgan_core.shard.access import Span, TarBytes, access
from dcgan_core.shard.decode import decode_into
from dcgan_core.shard.index import Index, index_of, index_of_tars
from dcgan_core.shard.order import Indices
from dcgan_core.storage import Store

_TOGETHER = 256
"""Samples read and decoded together where all are wanted."""

MAX_BAD = 0.001
"""Share of samples that may be unreadable before reading stops."""


@dataclass(frozen=True)
class Images:
    """Samples of a shards artifact: pixels (N, 3, S, S) uint8, keys, labels (-1 where there is none)."""

    pixels_N3SS: NDArray[np.uint8]
    keys: list[str]
    labels_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class Shards:
    """Samples of a set of tars, by number from 0. Threads may share it; other processes take a copy.

    Every image is checked against the hash in the index whenever it is read. One that is damaged or cannot
    be decoded is left out: the next good one of its class in the order of the tars stands in its place, so
    that batches keep their size and every order its length. One that is held out never stands in for one that
    is trained on, nor the reverse. ``bad`` counts and names them; beyond ``max_bad`` of all samples reading
    stops with BadSamples.
    """

    store: Store
    index: Index
    size: int
    """Side of the images in pixels."""
    address: str = ""
    """The artifact they belong to, for errors; empty for tars of others."""
    max_bad: float = MAX_BAD
    true_labels: bool = False
    """What happens when a class has no good sample left: one of another class stands in and the label is not
    true, or (True, for whoever needs the classes) BadSamples."""
    held_below: float = 0.0
    """The threshold of what is held out of training (``held_out.threshold``); 0: nothing is."""
    bad: dict[int, str] = field(default_factory=dict)
    """Numbers of samples that are left out, and why."""
    _bytes: TarBytes | None = None
    _process: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_bytes", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _bytes=None, _lock=threading.Lock())

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def is_held_N(self) -> NDArray[np.bool_]:
        """Whether each sample is held out of training (N,): all crops of a photo are, or none."""
        if not self.held_below:
            return np.zeros(len(self), np.bool_)
        return places(self.index.photo_keys) < self.held_below

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], int]:
        """Pixels (3, S, S) uint8 and the class, -1 where there is none."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.pixels(np.array([number]))[0], int(self.index.label_N[number])

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[NDArray[np.uint8], int]]:
        """Several at once, as torch's DataLoader asks for them."""
        pixels = self.pixels(np.array(numbers, np.int64))
        return list(zip(pixels, self.index.label_N[list(numbers)].tolist(), strict=True))

    def encoded(self, numbers_N: Indices) -> list[bytes | DcganError]:
        """Encoded images, hashes checked; an error in the place of one that is not as it was written."""
        found = self._tar_bytes().read(self.spans(numbers_N))
        check = self.index.check_N
        if check is not None:
            for place, (data, wanted) in enumerate(zip(found, check[numbers_N].tolist(), strict=True)):
                if wanted and isinstance(data, bytes) and wanted != _check(data):
                    found[place] = CorruptArtifact(
                        self._path(int(numbers_N[place])), "its bytes differ from the hash in the index"
                    )
        return found

    def pixels(self, numbers_N: Indices) -> NDArray[np.uint8]:
        """Pixels (N, 3, S, S) uint8, in memory as (N, S, S, 3): what torch calls channels_last."""
        out = np.empty((len(numbers_N), self.size, self.size, 3), np.uint8)
        self.decode(numbers_N, out)
        return out.transpose(0, 3, 1, 2)

    def decode(self, numbers_N: Indices, out_NSS3: NDArray[np.uint8]) -> None:
        """Decode samples into ``out_NSS3`` (N, S, S, 3) uint8."""
        for place, data in enumerate(self.encoded(numbers_N)):
            why = _decoded(data, out_NSS3[place])
            if why:
                self._leave_out(int(numbers_N[place]), why)
                self._stand_in(int(numbers_N[place]), out_NSS3[place])

    def iterate(self) -> Iterator[tuple[str, int, bytes]]:
        """(key, class or -1, encoded image) of every sample, in the order of the tars; bad ones left out."""
        keys = self.index.keys
        for start in range(0, len(self), _TOGETHER):
            numbers = np.arange(start, min(start + _TOGETHER, len(self)))
            for number, data in zip(numbers.tolist(), self.encoded(numbers), strict=True):
                if isinstance(data, bytes):
                    yield keys[number], int(self.index.label_N[number]), data
                else:
                    self._leave_out(number, str(data))

    def spans(self, numbers_N: Indices) -> list[Span]:
        """Where samples are: number of the tar, first byte, bytes."""
        columns = (self.index.tar_of(numbers_N), self.index.offset_N[numbers_N], self.index.size_N[numbers_N])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _stand_in(self, number: int, out_SS3: NDArray[np.uint8]) -> None:
        label, same_side_N = int(self.index.label_N[number]), self.is_held_N == self.is_held_N[number]
        if self._next_good(number, np.flatnonzero((self.index.label_N == label) & same_side_N), out_SS3):
            return
        if self.true_labels:
            what = f"class {label} has no sample that can be read, the first is {self.index.key(number)}: "
            raise BadSamples(self._path(number), what + self.bad[number], self.address)
        if not self._next_good(number, np.flatnonzero(same_side_N), out_SS3):
            side = "held out of training" if self.is_held_N[number] else "trained on"
            what = f"none of the samples {side} can be read, the first is {self.index.key(number)}: "
            raise BadSamples(self._path(number), what + self.bad[number], self.address)

    def _next_good(self, number: int, among_M: Indices, out_SS3: NDArray[np.uint8]) -> bool:
        """Decode the next good sample after ``number`` of some, in ascending order; False: there is none."""
        after = int(np.searchsorted(among_M, number, side="right"))
        for other in np.roll(among_M, -after).tolist():
            if other in self.bad:
                continue
            why = _decoded(self.encoded(np.array([other]))[0], out_SS3)
            if not why:
                return True
            self._leave_out(other, why)
        return False

    def _leave_out(self, number: int, why: str) -> None:
        with self._lock:
            self.bad.setdefault(number, why)
            if len(self.bad) <= self.max_bad * len(self) and len(self.bad) < len(self):
                return
        first = min(self.bad)
        example = f"{self.index.key(first)}: {self.bad[first]}"
        what = f"{len(self.bad)} of {len(self)} samples cannot be read, the first in order is {example}"
        raise BadSamples(self._path(first), what, self.address)

    def _path(self, number: int) -> str:
        tar = int(self.index.tar_of(np.array([number]))[0])
        return self.store.uri(self.index.tars[tar].path)

    def _tar_bytes(self) -> TarBytes:
        with self._lock:
            if self._bytes is None or self._process != os.getpid():  # threads do not survive a fork
                self._bytes, self._process = access(self.store, self.index), os.getpid()
            return self._bytes


def open_shards(
    store: Store,
    manifest: Manifest,
    size: int,
    *,
    max_bad: float = MAX_BAD,
    true_labels: bool = False,
    held_below: float = 0.0,
) -> Shards:
    """The samples of an artifact of shards, of ``size`` pixels. CorruptArtifact where it is damaged."""
    index, address = index_of(store, manifest), str(manifest.address)
    return Shards(store, index, size, address, max_bad, true_labels, held_below)


def open_tars(store: Store, paths: Sequence[str], size: int, *, max_bad: float = MAX_BAD) -> Shards:
    """The samples of tars of any origin, as webdataset and img2dataset write them; paths under the store's
    root. Their headers are read once, to make the index that they lack."""
    return Shards(store, index_of_tars(store, paths), size, max_bad=max_bad)


def read_all_pixels(
    shards: Shards,
    out_NSS3: NDArray[np.uint8],
    progress: Progress = silent,
    *,
    threads: int = 1,
    numbers_N: Indices | None = None,
) -> None:
    """Decode the whole set, or the samples ``numbers_N`` of it, into ``out_NSS3`` (N, S, S, 3) uint8, in the
    order of the tars."""
    wanted_N = np.arange(len(shards)) if numbers_N is None else numbers_N

    def decode(start: int) -> int:
        stop = min(start + _TOGETHER, len(wanted_N))
        shards.decode(wanted_N[start:stop], out_NSS3[start:stop])
        return stop

    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(decode, start) for start in range(0, len(wanted_N), _TOGETHER)]
        try:
            for task in tasks:
                progress(task.result(), len(wanted_N), "reading images")
        finally:
            pool.shutdown(cancel_futures=True)


def pixel_bytes(shards: Shards) -> int:
    """Memory that all images take, decoded."""
    return len(shards) * 3 * shards.size**2


def read_images(
    store: Store, manifest: Manifest, size: int, progress: Progress = silent, *, held_below: float = 0.0
) -> Images:
    """Decode every sample of a shards artifact that a training with the threshold ``held_below`` has seen.

    Raises NotEnoughMemory before reading where the pixels would not fit, CorruptArtifact where a tar does
    not hold what its index says.
    """
    shards = open_shards(store, manifest, size, held_below=held_below)
    check_memory(f"holding {len(shards)} images of {size} px", pixel_bytes(shards), free_memory())
    numbers_N = np.flatnonzero(~shards.is_held_N)
    pixels = np.empty((len(numbers_N), size, size, 3), np.uint8)
    read_all_pixels(shards, pixels, progress, threads=processors(), numbers_N=numbers_N)
    keys = [shards.index.keys[number] for number in numbers_N.tolist()]
    return Images(pixels.transpose(0, 3, 1, 2), keys, shards.index.label_N[numbers_N].astype(np.int64))


def check_memory(what: str, needed_bytes: int, free_bytes: int) -> None:
    """Raise NotEnoughMemory where images would take more than most of what is free."""
    if needed_bytes > 0.8 * free_bytes:
        advice = "Lower shard.size or scrape.limit; training can decode as it goes: train.data=stream"
        raise NotEnoughMemory(what, needed_bytes, free_bytes, advice)


def sample_count(manifest: Manifest) -> int:
    """Samples of a shards artifact, by its manifest."""
    return sum(file.rows or 0 for file in manifest.named("train-") if file.name.endswith(".tar"))


def _check(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def _decoded(data: bytes | DcganError, out_SS3: NDArray[np.uint8]) -> str:
    """Decode into ``out_SS3``; empty, or why that is not possible."""
    if not isinstance(data, bytes):
        return str(data)
    try:
        decode_into(data, out_SS3)
    except DecodeError as error:
        return str(error)
    return ""
