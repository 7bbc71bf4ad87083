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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dcgan_core.errors import ConfigError, CorruptArtifact, DcganError, StorageError, StorageUnusable

if TYPE_CHECKING:
    import fsspec  # a tenth of a second, which a root on local disk need not wait for

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
class Patience:
    """How long an object store is waited for: time-outs of a request, and how often it is tried."""

    tries: int = 8
    """Tries of each request, the first included."""
    pause_seconds: float = 0.5
    """Upper bound of the first pause before a retry; doubles each time (to 20 at most), with full jitter."""
    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    """Longest silence of the store within an answer."""


@dataclass(frozen=True)
class Store:
    """A root and what is under it; paths are relative to the root, with slashes. Cheap to pickle.

    On S3 whatever fails and may pass is tried again; what does not pass is a StorageError.
    """

    root: str
    client_options: tuple[tuple[str, str], ...] = ()
    patience: Patience = Patience()
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
        options: dict[str, Any] = asdict(self.patience) if is_on_s3(self.root) else {}
        return options | ({"client_kwargs": dict(self.client_options)} if self.client_options else {})

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The root's fsspec file system; ConfigError where its package is not installed."""
        protocol = self.root.partition("://")[0] if "://" in self.root else "file"
        try:
            return _filesystem(protocol, **self.options)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"DCGAN_ROOT: {error}") from None

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
        """Bytes [start, end) of a file, all of them; CorruptArtifact where it ends before."""
        with _translated(self.uri(path)):
            data = read_whole(self.filesystem(), self.key(path), start, end)
        if len(data) != end - start:
            what = f"bytes {start} to {end} were asked for, and only {len(data)} of them are there"
            raise CorruptArtifact(self.uri(path), what)
        return data

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
    def writing(self, path: str, *, passing: bool = False) -> Iterator[Path]:
        """A local file to fill; it becomes ``path`` at the end of the block, nothing if the block raises.

        ``passing``: it is deleted soon and checked when it is read, so it need not outlive a power cut.
        """
        with _translated(self.uri(path)):
            if self.is_local:
                with self._temporary() as temporary:
                    yield temporary
                    self._commit(temporary, path, flush=not passing)
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
            fs, folder = self.filesystem(), f"{self.key(path)}/"
            fs.invalidate_cache()
            try:
                listing = [str(entry).rstrip("/") for entry in fs.ls(self.key(path), detail=False)]
            except FileNotFoundError:
                return []
            # A file lists itself, and so does an object that stands for a folder.
            return sorted(entry.rpartition("/")[2] for entry in listing if _is_below(fs, entry, folder))

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
                self.filesystem().cp_file(self.key(source), self.key(target))
                return
            with self._temporary() as temporary:
                try:
                    os.link(self.local_path(source), temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(self.local_path(source), temporary)
                self._commit(temporary, target)

    def move(self, source: str, target: str) -> None:
        """Rename inside the root; on local disk a file takes the place of another in one step.

        Elsewhere all is copied before anything is deleted, so that a move cut short can be made again.
        """
        with _translated(self.uri(target)):
            if self.is_local:
                self.local_path(source).replace(self.local_path(target))
                return
            fs, old, new = self.filesystem(), self.key(source), self.key(target)
            paths = cast("list[str]", fs.find(old))
            if not paths:
                raise FileNotFoundError(self.uri(source))
            start = paths[0].index(old) + len(old)  # some file systems put a slash before the key
            for path in paths:
                fs.cp_file(path, new + path[start:])
            fs.rm(old, recursive=True)

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

    def _commit(self, temporary: Path, path: str, *, flush: bool = True) -> None:
        target = self.local_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not flush:
            temporary.replace(target)
            return
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


def is_on_s3(location: str) -> bool:
    return location.partition("://")[0] in ("s3", "s3a") and "://" in location


def open_location(location: str, what: str, **options: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of any location a user names; ConfigError where it is not there.

    On S3 the endpoint and the patience are those of the place, unless ``options`` say otherwise.
    """
    from fsspec.core import url_to_fs

    try:
        if is_on_s3(location):
            from dcgan_core.place import load_place  # which knows this module

            fs = _filesystem("s3", **(load_place().s3_options | options))
            path = cast("str", fs._strip_protocol(location))
        else:
            local = "://" not in location
            fs, path = url_to_fs(str(Path(location).expanduser()) if local else location, **options)
        found = fs.exists(path)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{what}: cannot open {location!r}: {error}") from None
    except PermissionError as error:
        raise ConfigError(f"{what}: {location!r} may not be read: {error}{_credentials(location)}") from None
    if not found:
        raise ConfigError(f"{what}: there is nothing at {location!r}; give a path or fsspec url that exists")
    return fs, path


def _filesystem(protocol: str, **options: Any) -> fsspec.AbstractFileSystem:
    if protocol not in ("s3", "s3a"):
        import fsspec

        return fsspec.filesystem(protocol, **options)
    try:
        from dcgan_core.object_store import S3  # s3fs is an extra
    except ImportError as error:
        raise ImportError(f"{error}; for s3:// install the extra: pip install 'dcgan[s3]'") from None
    return S3(**options)


def _is_below(fs: fsspec.AbstractFileSystem, entry: str, folder: str) -> bool:
    return entry.lstrip("/").startswith(cast("str", fs._strip_protocol(folder)).strip("/") + "/")


def _credentials(location: str) -> str:
    if not is_on_s3(location):
        return ""
    return "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in this bucket"


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (DcganError, FileNotFoundError):
        raise
    except OSError as error:
        if isinstance(error, PermissionError) and is_on_s3(path):
            raise ConfigError(f"{path}: access denied: {error}{_credentials(path)}") from error
        if error.errno in _UNUSABLE:
            why, advice = _UNUSABLE[error.errno]
            raise StorageUnusable(path, why, advice) from error
        raise StorageError(f"{path}: {error}") from error
