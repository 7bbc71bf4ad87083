"""Bytes of samples out of tars: mapped where the tar is on local disk, in ranges where it is not."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dcgan_core.errors import CorruptArtifact, DcganError
from dcgan_core.shard.cache import ShardCache
from dcgan_core.shard.index import Index, Tar
from dcgan_core.storage import Store

Span = tuple[int, int, int]
"""Number of the tar, first byte, number of bytes."""

_REQUESTS = 32
_GAP, _LARGEST = 2**16, 2**24
"""Bytes between two samples that cost less than a request of their own, and bytes of one request."""


class TarBytes(Protocol):
    """Reads spans. What cannot be read is an error in its place, so that one sample costs no other."""

    def read(self, spans: Sequence[Span]) -> list[bytes | DcganError]: ...


def access(store: Store, index: Index) -> TarBytes:
    """How the tars of a set are read best.

    Local ones are mapped. Of a remote set, whole tars are kept in the store's cache if all of them fit into
    it; else each sample is one request, because in a global order no tar would be used twice in a row.
    """
    if store.is_local:
        return MappedTars(store, index.tars)
    known = [(tar.sha256, tar.bytes or 0) for tar in index.tars]
    total = sum(size for _, size in known)
    if store.cache and all(sha256 for sha256, _ in known) and total <= store.cache_bytes:
        cache = ShardCache(Path(store.cache), store.cache_bytes)
        return MappedTars(store, index.tars, cache)
    return RangedTars(store, index.tars)


@dataclass
class MappedTars:
    """Tars mapped into memory as they are needed, from local disk or from the cache."""

    store: Store
    tars: Sequence[Tar]
    cache: ShardCache | None = None
    _maps: dict[int, mmap.mmap | DcganError] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, spans: Sequence[Span]) -> list[bytes | DcganError]:
        return [self._read(*span) for span in spans]

    def _read(self, tar: int, start: int, size: int) -> bytes | DcganError:
        mapped = self._maps.get(tar)
        if mapped is None:
            mapped = self._open(tar)
        return mapped if isinstance(mapped, DcganError) else mapped[start : start + size]

    def _open(self, tar: int) -> mmap.mmap | DcganError:
        found: mmap.mmap | DcganError
        try:
            path = self._path(self.tars[tar])
            with path.open("rb") as file:
                found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            found = CorruptArtifact(self.store.uri(self.tars[tar].path), "the file is missing")
        except ValueError:
            found = CorruptArtifact(self.store.uri(self.tars[tar].path), "the file is empty")
        except CorruptArtifact as error:
            found = error
        with self._lock:
            return self._maps.setdefault(tar, found)

    def _path(self, tar: Tar) -> Path:
        if self.cache is None:
            return self.store.local_path(tar.path)
        return self.cache.fetch(self.store, tar.path, tar.sha256 or "", tar.bytes or 0)


@dataclass
class RangedTars:
    """Tars on a remote store, in ranges, many requests at once; samples that lie together share one."""

    store: Store
    tars: Sequence[Tar]
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_REQUESTS))

    def read(self, spans: Sequence[Span]) -> list[bytes | DcganError]:
        found: list[bytes | DcganError] = [b""] * len(spans)
        for group, data in self._pool.map(self._read_group, _together(spans)):
            for place, each in zip(group, data, strict=True):
                found[place] = each
        return found

    def _read_group(self, group: list[tuple[int, Span]]) -> tuple[list[int], list[bytes | DcganError]]:
        places, spans = [place for place, _ in group], [span for _, span in group]
        tar, first, _ = spans[0]
        size = max(start + size for _, start, size in spans) - first
        data = self._read((tar, first, size))
        if isinstance(data, bytes):
            return places, [data[start - first : start - first + size] for _, start, size in spans]
        return places, [data] if len(spans) == 1 else [self._read(span) for span in spans]

    def _read(self, span: Span) -> bytes | DcganError:
        tar, start, size = span
        try:
            return self.store.read_range(self.tars[tar].path, start, start + size)
        except FileNotFoundError:
            return CorruptArtifact(self.store.uri(self.tars[tar].path), "the file is missing")
        except CorruptArtifact as error:  # it ends before
            return error


def _together(spans: Sequence[Span]) -> list[list[tuple[int, Span]]]:
    """Spans with their places, grouped into those worth one request: near each other in one tar."""
    groups: list[list[tuple[int, Span]]] = []
    first, end = (-1, 0), 0
    for place, span in sorted(enumerate(spans), key=lambda pair: pair[1]):
        tar, start, size = span
        near = tar == first[0] and start - end < _GAP and start + size - first[1] < _LARGEST
        if not near:
            groups.append([])
            first = (tar, start)
        groups[-1].append((place, span))
        end = start + size
    return groups
