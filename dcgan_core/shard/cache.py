"""Whole shards of a remote store kept on local disk: fetched once a machine, checked, the oldest dropped."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcgan_core.errors import CorruptArtifact, StorageUnusable
from dcgan_core.storage import Store

_PIECE = 16 * 2**20


@dataclass(frozen=True)
class ShardCache:
    """A directory of files named by their SHA-256, at most ``limit_bytes``, for any number of processes."""

    folder: Path
    limit_bytes: int

    def fetch(self, store: Store, path: str, sha256: str, size: int) -> Path:
        """The local copy of a file, fetched where it is not there yet: by one process, others wait for it.

        Raises CorruptArtifact where what arrives, and arrives again, is not what its hash says, and
        StorageUnusable where the directory cannot be written.
        """
        target = self.folder / sha256
        try:
            if not _touch(target, size):
                with self._lock(sha256):
                    if not _touch(target, size):  # another process may have fetched it meanwhile
                        self._make_room(size)
                        self._download(store, path, sha256, size, target)
        except FileNotFoundError:
            raise  # of the store
        except OSError as error:
            advice = "Set DCGAN_CACHE to a directory with room that can be written, or empty: no cache"
            raise StorageUnusable(str(self.folder), error.strerror or str(error), advice) from error
        return target

    def size(self) -> int:
        """Bytes in the cache."""
        return sum(entry.st_size for entry, _ in self._files())

    def _download(self, store: Store, path: str, sha256: str, size: int, target: Path) -> None:
        temporary = target.with_suffix(f".{os.getpid()}.part")
        try:
            for _ in range(2):
                digest = hashlib.sha256()
                with temporary.open("wb") as file:
                    for start in range(0, size, _PIECE):
                        piece = store.read_range(path, start, min(start + _PIECE, size))
                        digest.update(piece)
                        file.write(piece)
                if digest.hexdigest() == sha256:
                    temporary.replace(target)
                    return
        finally:
            temporary.unlink(missing_ok=True)
        raise CorruptArtifact(store.uri(path), "its sha256 differs from the manifest's, twice")

    def _make_room(self, size: int) -> None:
        """Drop what was used longest ago. Who still reads a dropped file keeps it until it is closed."""
        with self._lock("room"):
            files = sorted(self._files(), key=lambda entry: entry[0].st_mtime_ns)
            free = self.limit_bytes - sum(stat.st_size for stat, _ in files)
            for stat, path in files:
                if free >= size:
                    break
                path.unlink(missing_ok=True)
                free += stat.st_size

    def _files(self) -> Iterator[tuple[os.stat_result, Path]]:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if len(path.name) == 64:
                try:
                    yield path.stat(), path
                except FileNotFoundError:
                    continue

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process that holds it, whatever becomes of that
            yield


def _touch(path: Path, size: int) -> bool:
    """Note that a file is used; False where it is not there, or was cut off by a power cut or a full disk."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
