"""Where the pixels of the training set live, and batches of them on the training device in time.

Three placements, one order: which images are in a batch is decided by the sampler alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.errors import ConfigError
from dcgan_core.memory import free_memory
from dcgan_core.models.specs import NetSpec
from dcgan_core.place import processors
from dcgan_core.progress import Progress, silent
from dcgan_core.shard.order import Indices
from dcgan_core.shard.reader import Shards, check_memory, pixel_bytes, read_all_pixels
from dcgan_core.train.runtime import Runtime

Where = Literal["device", "host", "stream"]

_AHEAD = 4
"""Batches made before they are asked for."""
_PIECE_BYTES, _PIECE_THREADS = 2**24, 8
"""What is decoded together on its way to a GPU, and by how many threads at most."""
_PLACES: tuple[Where, ...] = ("stream", "host", "device")
"""From what takes the least memory of the device to what takes the most."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


@dataclass(frozen=True)
class Batch:
    """Some images of the set, on the training device."""

    pixels_N3SS: Tensor
    """Uint8, channels_last in memory."""
    label_N: Tensor | None = None
    """Classes, int64, -1 where there is none; None where nobody asked."""


class Pixels(Protocol):
    """A training set, decoded or not."""

    @property
    def in_background(self) -> bool:
        """Whether batches take long enough to be made by other threads."""
        ...

    def __len__(self) -> int: ...

    def batch(self, numbers_N: Indices) -> Tensor:
        """Images (N, 3, S, S) uint8 on the training device, channels_last in memory."""
        ...

    def labels(self, numbers_N: Indices) -> Tensor:
        """Classes (N,) int64 on the training device, -1 where there is none."""
        ...


@dataclass(frozen=True)
class DevicePixels:
    """The whole set on the training device; batches are taken there."""

    pixels_NSS3: Tensor
    label_N: NDArray[np.int32]
    in_background: bool = False

    def __len__(self) -> int:
        return len(self.pixels_NSS3)

    def batch(self, numbers_N: Indices) -> Tensor:
        device = self.pixels_NSS3.device
        chosen = torch.from_numpy(numbers_N).to(device, non_blocking=True)
        return self.pixels_NSS3.index_select(0, chosen).permute(0, 3, 1, 2)

    def labels(self, numbers_N: Indices) -> Tensor:
        return _taken(self.label_N, numbers_N, self.pixels_NSS3.device)


@dataclass(frozen=True)
class HostPixels:
    """The whole set decoded in main memory; batches go to the device through pinned memory."""

    pixels_NSS3: NDArray[np.uint8]
    label_N: NDArray[np.int32]
    device: torch.device
    in_background: bool = True

    def __len__(self) -> int:
        return len(self.pixels_NSS3)

    def batch(self, numbers_N: Indices) -> Tensor:
        out = _staging((len(numbers_N), *self.pixels_NSS3.shape[1:]), self.device)
        np.take(self.pixels_NSS3, numbers_N, axis=0, out=out.numpy(), mode="clip")  # else take() copies twice
        return out.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def labels(self, numbers_N: Indices) -> Tensor:
        return _taken(self.label_N, numbers_N, self.device)


@dataclass(frozen=True)
class StreamedPixels:
    """Images decoded when they are wanted."""

    shards: Shards
    device: torch.device
    in_background: bool = True

    def __len__(self) -> int:
        return len(self.shards)

    def batch(self, numbers_N: Indices) -> Tensor:
        out = _staging((len(numbers_N), self.shards.size, self.shards.size, 3), self.device)
        self.shards.decode(numbers_N, out.numpy())
        return out.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def labels(self, numbers_N: Indices) -> Tensor:
        return _taken(self.shards.index.label_N, numbers_N, self.device)


@dataclass(frozen=True)
class SomePixels:
    """Some images of a set, numbered through: those that are trained on, or those that are held out."""

    pixels: Pixels
    number_N: Indices

    @property
    def in_background(self) -> bool:
        return self.pixels.in_background

    def __len__(self) -> int:
        return len(self.number_N)

    def batch(self, numbers_N: Indices) -> Tensor:
        return self.pixels.batch(self.number_N[numbers_N])

    def labels(self, numbers_N: Indices) -> Tensor:
        return self.pixels.labels(self.number_N[numbers_N])


@dataclass
class Feed:
    """Batches in the order asked for, made ahead by ``threads``; an error comes where its batch would."""

    pixels: Pixels
    wanted: Iterator[Indices]
    threads: int = 2
    labelled: bool = False
    """Whether batches come with their classes."""
    waited_seconds: float = 0.0
    """How long ``next`` has waited for batches that were not ready."""
    _ahead: deque[Future[Batch]] = field(default_factory=deque)
    _pool: ThreadPoolExecutor | None = None

    def __post_init__(self) -> None:
        if self.pixels.in_background:
            self._pool = ThreadPoolExecutor(self.threads, "dcgan-data")

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        try:
            if self._pool is None:
                return self._made(next(self.wanted))
            self._ask()
            if not self._ahead:
                raise StopIteration
            batch = self._ahead.popleft().result()
            self._ask()
            return batch
        finally:
            self.waited_seconds += time.perf_counter() - began

    def close(self) -> None:
        """Let the threads end; batches that nobody will take are not made."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self) -> None:
        assert self._pool is not None
        while len(self._ahead) < max(_AHEAD, 2 * self.threads):
            numbers = next(self.wanted, None)
            if numbers is None:
                return
            self._ahead.append(self._pool.submit(self._made, numbers))

    def _made(self, numbers_N: Indices) -> Batch:
        pixels = self.pixels.batch(numbers_N)
        return Batch(pixels, self.pixels.labels(numbers_N) if self.labelled else None)


def place_pixels(
    shards: Shards, where: Where | Literal["auto"], runtime: Runtime, progress: Progress = silent
) -> Pixels:
    """The set where it is wanted or, with ``auto``, where it fits; all ranks call it together.

    Raises NotEnoughMemory before anything is read where it does not fit where it is wanted.
    """
    needed, labels = pixel_bytes(shards), shards.index.label_N
    # What a rank measures differs from rank to rank and moment to moment: they agree before any of them acts.
    chosen = _PLACES[runtime.least(_PLACES.index(choose(where, needed, runtime)))]
    what = f"holding {len(shards)} images of {shards.size} px ({chosen})"
    if chosen == "host":
        several = runtime.world_size > 1 and bool(shards.address)
        shared = bool(runtime.least(int(several and _shared_room() > needed)))
        own_fits = bool(runtime.least(int(needed <= 0.5 * free_memory() / runtime.world_size)))
        if shared:
            together = _decoded_together(shards, what, runtime, progress)
            return HostPixels(together, labels, runtime.device)
        if where != "auto" or own_fits:
            check_memory(what, needed, free_memory() // runtime.world_size)
            return HostPixels(_decoded_here(shards, progress), labels, runtime.device)
        chosen = "stream"
    if chosen == "stream":
        return StreamedPixels(shards, runtime.device)
    if runtime.device.type == "cuda":
        check_memory(what, pixel_bytes(shards), torch.cuda.mem_get_info(runtime.device)[0])
        return DevicePixels(_decoded_onto(runtime.device, shards, progress), labels)
    check_memory(what, pixel_bytes(shards) * runtime.world_size, free_memory())
    return DevicePixels(torch.from_numpy(_decoded_here(shards, progress)), labels)


def check_labels(shards: Shards, spec: NetSpec) -> None:
    """ConfigError where a net with classes is to learn from images that have none, or others."""
    if not spec.classes:
        return
    label_N = shards.index.label_N
    where = shards.address or shards.store.uri(shards.index.tars[0].path)
    if missing := int(np.count_nonzero(label_N < 0)):
        raise ConfigError(
            f"train.net {spec.name} learns a class with every image, and {missing} of the {len(label_N)} in "
            f"{where} have none: scrape a source with classes (scrape.label_column), or set another train.net"
        )
    if (largest := int(label_N.max())) >= spec.classes:
        raise ConfigError(
            f"train.net {spec.name} knows classes 0 to {spec.classes - 1}, and {where} holds class {largest}"
        )


def choose(where: Where | Literal["auto"], needed_bytes: int, runtime: Runtime) -> Where:
    """Where the pixels go: the device if they take at most half of what is free there, else main memory if
    they take at most half of that, else nowhere, and they are decoded as training goes."""
    if where != "auto":
        return where
    half_free = free_memory() // 2
    if runtime.device.type == "cuda":
        if needed_bytes <= torch.cuda.mem_get_info(runtime.device)[0] // 2:
            return "device"
    elif runtime.world_size == 1 and needed_bytes <= half_free:
        return "device"
    return "host" if needed_bytes <= half_free else "stream"


def in_memory(
    pixels_N3SS: NDArray[np.uint8], device: torch.device, label_N: NDArray[np.int32] | None = None
) -> DevicePixels:
    """A set that is there already (N, 3, S, S) uint8; without ``label_N`` it has no classes."""
    pixels = torch.from_numpy(np.ascontiguousarray(pixels_N3SS.transpose(0, 2, 3, 1)))
    labels = np.full(len(pixels), -1, np.int32) if label_N is None else label_N
    return DevicePixels(pixels.to(device), labels)


def _taken(label_N: NDArray[np.int32], numbers_N: Indices, device: torch.device) -> Tensor:
    """Through pinned memory to a GPU, as ``_staging`` does with images."""
    labels = torch.from_numpy(label_N[numbers_N].astype(np.int64))
    pinned = labels.pin_memory() if device.type == "cuda" else labels
    return pinned.to(device, non_blocking=True)


def _staging(shape: Sequence[int], device: torch.device) -> Tensor:
    """Memory for one batch; pinned where it goes to a GPU, from where it copies without waiting."""
    return torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=device.type == "cuda")


def _decoded_here(shards: Shards, progress: Progress) -> NDArray[np.uint8]:
    pixels = np.empty((len(shards), shards.size, shards.size, 3), np.uint8)
    read_all_pixels(shards, pixels, progress, threads=processors())
    return pixels


def _decoded_onto(device: torch.device, shards: Shards, progress: Progress) -> Tensor:
    """All pixels (N, S, S, 3) on a GPU, decoded some pieces ahead of the copies."""
    pixels = torch.empty((len(shards), shards.size, shards.size, 3), dtype=torch.uint8, device=device)
    each = max(1, _PIECE_BYTES // (3 * shards.size**2))
    starts = range(0, len(shards), each)
    pieces = (np.arange(start, min(start + each, len(shards))) for start in starts)
    feed = Feed(StreamedPixels(shards, device), pieces, min(_PIECE_THREADS, processors()))
    try:
        for start, piece in zip(starts, feed, strict=True):
            images = piece.pixels_N3SS.permute(0, 2, 3, 1)
            pixels[start : start + len(images)] = images
            progress(start + len(images), len(shards), "reading images")
    finally:
        feed.close()
    return pixels


def _decoded_together(shards: Shards, what: str, runtime: Runtime, progress: Progress) -> NDArray[np.uint8]:
    """Pixels in shared memory: the first worker of a machine decodes, the others wait and map the same."""
    import fcntl

    tars = [shards.store.uri(tar.path) + (tar.sha256 or "") for tar in shards.index.tars]
    decides = [*tars, str(shards.size), str(shards.held_below)]  # the last: what may stand in for what
    name = hashlib.sha256("\n".join(decides).encode()).hexdigest()[:24]
    path = _SHARED_MEMORY / f"dcgan-{os.getuid()}-{name}"
    shape = (len(shards), shards.size, shards.size, 3)
    with Path(f"{path}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep(path)
        if not path.exists():
            check_memory(what, pixel_bytes(shards), free_memory())
            temporary = Path(f"{path}.{os.getpid()}.part")
            try:
                pixels = np.memmap(temporary, np.uint8, "w+", shape=shape)
                read_all_pixels(shards, pixels, progress, threads=processors())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        pixels = np.memmap(path, np.uint8, "r", shape=shape)
    runtime.barrier()  # everybody holds it: now it may lose its name, and goes when the last one ends
    for gone in (path, Path(f"{path}.lock")):
        gone.unlink(missing_ok=True)
    return pixels


def _sweep(path: Path) -> None:
    """Remove what killed workers left half made."""
    for left in path.parent.glob(f"{path.name}.*.part"):
        if not Path(f"/proc/{left.suffixes[-2][1:]}").exists():
            left.unlink(missing_ok=True)


def _shared_room() -> int:
    with suppress(OSError):
        return shutil.disk_usage(_SHARED_MEMORY).free
    return 0
