"""What files hold, as SHA-256: each file is read once a process, as long as it does not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import fsspec

from dcgan_core.place import processors


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes. One that has kept its size, time of change and inode is not reread."""
    status = path.stat()
    return _file_sha256(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)


def files_sha256(paths: Sequence[Path]) -> list[str]:
    """Of each file, several at once (hashing lets go of Python's lock)."""
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(file_sha256, paths))


def joined(digests: Iterable[object]) -> str:
    """One hex digest of several digests or other JSON values, in their order."""
    total = hashlib.sha256()
    for each in digests:
        total.update(json.dumps(each).encode())
    return total.hexdigest()


def opened_sha256(files: Sequence[tuple[fsspec.AbstractFileSystem, str, str]]) -> list[str]:
    """Of files on any file system, (file system, path, state) each: read once for each state they are in."""
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(lambda file: _opened_sha256(*file), files))


@lru_cache(maxsize=2**14)
def _opened_sha256(fs: fsspec.AbstractFileSystem, path: str, state: str) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as opened:
        file = cast("IO[bytes]", opened)
        while block := file.read(2**23):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=2**17)
def _file_sha256(path: str, *state: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
