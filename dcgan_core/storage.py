"""Files under a root, on local disk or any fsspec store, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import fsspec
from fsspec.core import url_to_fs

from dcgan_core.errors import ConfigError, DcganError, StorageError, StorageUnusable

_UNUSABLE = {
    errno.ENOSPC: (
        "the disk is full",
        "Free space (dcgan gc removes old artifacts) and run it again: it goes on",
    ),
    errno.EDQUOT: ("the disk quota is used up", "Free space (dcgan gc) and run it again: it goes on"),
    errno.EROFS: ("the file system is read-only", "Set DCGAN_ROOT to a place that can be written"),
    errno.EACCES: ("no permission", "Set DCGAN_ROOT to a place you may write, or change the permissions"),
    errno.EPERM: ("not permitted", "Set DCGAN_ROOT to a place you may write, or change the permissions"),
    errno.ENOTDIR: ("a file stands where a directory is needed", "Set DCGAN_ROOT to a directory"),
}
_TEMPORARY = "tmp"


@dataclass(frozen=True)
class Store:
    """A root and what is under it; paths are relative to the root, with slashes. Cheap to pickle."""

    root: str
    client_options: tuple[tuple[str, str], ...] = ()
    cache: str = ""
    """Local directory for files of a remote root that are read again and again (shards); empty: none."""
    cache_bytes: int = 0
    """Largest size of that directory."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    def uri(self, path: str) -> str:
        """Where a path is, for people and for other tools."""
        return f"{self.root}/{path}"

    def local_path(self, path: str) -> Path:
        """The path on local disk; only where ``is_local``."""
        return Path(self.root) / path

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the root's fsspec file system."""
        return {"client_kwargs": dict(self.client_options)} if self.client_options else {}

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The root's fsspec file system; ConfigError where its package is not installed."""
        protocol = self.root.partition("://")[0] if "://" in self.root else "file"
        return _filesystem(protocol, **self.options)

    def key(self, path: str) -> str:
        """The path as the file system knows it, without the protocol."""
        return f"{self.root.partition('://')[2] or self.root}/{path}"

    def read_bytes(self, path: str) -> bytes:
        """Content of a file; FileNotFoundError where there is none."""
        with _translated(self.uri(path)):
            if self.is_local:
                return self.local_path(path).read_bytes()
            return read_whole(self.filesystem(), self.key(path))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of a file."""
        with _translated(self.uri(path)):
            return read_whole(self.filesystem(), self.key(path), start, end)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically: readers see the old content or the new, never a part."""
        with _translated(self.uri(path)):
            if self.is_local:
                with self._temporary() as temporary:
                    with temporary.open("wb") as file:
                        file.write(data)
                    self._commit(temporary, path)
            else:
                self.filesystem().pipe_file(
                    self.key(path), data
                )  # one PUT (or a completed multipart) is atomic

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A local file to fill; it becomes ``path`` at the end of the block, nothing if the block raises."""
        with _translated(self.uri(path)):
            if self.is_local:
                with self._temporary() as temporary:
                    yield temporary
                    self._commit(temporary, path)
            else:
                with tempfile.TemporaryDirectory(prefix="dcgan-") as folder:
                    temporary = Path(folder) / "file"
                    yield temporary
                    self.filesystem().put_file(str(temporary), self.key(path))

    def exists(self, path: str) -> bool:
        with _translated(self.uri(path)):
            return (
                self.local_path(path).exists() if self.is_local else self.filesystem().exists(self.key(path))
            )

    def names(self, path: str) -> list[str]:
        """Names directly below a directory, sorted; empty where there is none."""
        with _translated(self.uri(path)):
            if self.is_local:
                folder = self.local_path(path)
                return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
            fs = self.filesystem()
            fs.invalidate_cache()
            try:
                listing = fs.ls(self.key(path), detail=False)
            except FileNotFoundError:
                return []
            return sorted(name for entry in listing if (name := entry.rstrip("/").rpartition("/")[2]))

    def delete(self, path: str) -> None:
        """Remove a file or a whole directory; nothing happens where there is none."""
        with _translated(self.uri(path)):
            if self.is_local:
                target = self.local_path(path)
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
            else:
                with suppress(FileNotFoundError):
                    self.filesystem().rm(self.key(path), recursive=True)

    def copy(self, source: str, target: str) -> None:
        """Copy a committed file inside the root: a hard link on local disk, a server-side copy on S3."""
        with _translated(self.uri(target)):
            if not self.is_local:
                self.filesystem().copy(self.key(source), self.key(target))
                return
            with self._temporary() as temporary:
                try:
                    os.link(self.local_path(source), temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.local_path(source), temporary)
                self._commit(temporary, target)

    def move(self, source: str, target: str) -> None:
        """Rename inside the root; on local disk a file takes the place of another in one step."""
        with _translated(self.uri(target)):
            if self.is_local:
                self.local_path(source).replace(self.local_path(target))
            else:
                self.filesystem().mv(self.key(source), self.key(target), recursive=True)

    def sweep(self) -> int:
        """Remove what killed writers left behind; returns the bytes freed. Not while others write."""
        freed = 0
        for name in self.names(_TEMPORARY):
            path = f"{_TEMPORARY}/{name}"
            if self.is_local:
                freed += self.local_path(path).stat().st_size
            self.delete(path)
        return freed

    def check_writable(self) -> None:
        """Raise StorageUnusable unless a file can be written under the root now."""
        path = f"{_TEMPORARY}/check-{uuid.uuid4().hex}"
        self.write_bytes(path, b"x" * 4096)
        self.delete(path)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.local_path(_TEMPORARY)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:
            why = "the directory cannot be made"
            raise StorageUnusable(self.root, why, "Set DCGAN_ROOT to a place that can be written") from error
        temporary = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _commit(self, temporary: Path, path: str) -> None:
        target = self.local_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_whole(
    fs: fsspec.AbstractFileSystem, path: str, start: int | None = None, end: int | None = None
) -> bytes:
    """Content of a file of any fsspec file system, or its bytes [start, end)."""
    return cast("bytes", fs.cat_file(path, start=start, end=end))


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_location(location: str, what: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of any location a user names; ConfigError where it is not there."""
    try:
        local = "://" not in location
        fs, path = url_to_fs(str(Path(location).expanduser()) if local else location, **options)
        found = fs.exists(path)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{what}: cannot open {location!r}: {error}") from None
    if not found:
        raise ConfigError(f"{what}: there is nothing at {location!r}; give a path or fsspec url that exists")
    return fs, path


def _filesystem(protocol: str, **options: Any) -> fsspec.AbstractFileSystem:
    try:
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"DCGAN_ROOT: {error}; for s3:// install the extra: pip install 'dcgan[s3]'"
        ) from None


def _raise_of_client(path: str, error: Exception) -> None:
    """Errors of the S3 client, which is not always installed: known by where they are defined."""
    if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
        return
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        raise ConfigError(f"{path}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    raise StorageError(f"{path}: {error}; check DCGAN_ROOT and DCGAN_S3_ENDPOINT_URL") from error


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (DcganError, FileNotFoundError):
        raise
    except Exception as error:
        _raise_of_client(path, error)
        if not isinstance(error, OSError):
            raise
        if error.errno in _UNUSABLE:
            why, advice = _UNUSABLE[error.errno]
            raise StorageUnusable(path, why, advice) from error
        raise StorageError(f"{path}: {error}") from error
