"""Files of a source known again by their bytes: a copy with other times is the file that it was.

A source is identified by the names, sizes and times of its files: to read all of them only to plan a run
would cost as much as the run. But ``touch``, ``rsync`` without ``-t``, a checkout and an upload change times
and no bytes. So each edition of photos notes the files it was made from (``listing.parquet``). A file that is
listed with another time is compared with what was noted of that name and size. If the bytes are the same it
goes by its first time, so the identity of the source, and with it every address, is as before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import pyarrow as pa

from dcgan_core.artifacts import Address, Manifest, all_manifests
from dcgan_core.config import Json
from dcgan_core.errors import StorageError
from dcgan_core.storage import Store
from dcgan_core.tables import decode_table, encode_rows

LISTING = pa.schema(
    [
        ("key", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("seen", pa.string()),
        ("tag", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""A row per file and time with which it was seen: the time that it goes by, and what tells its bytes. Names
are left out (``key`` is their hash), so that a takedown has nothing to look for here but the sha256."""

_FILE = "listing.parquet"
_EDITIONS_LOOKED_AT = 4
_READERS = 8
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Listed:
    """A file as its source lists it; ``stamp`` is what changes when its bytes may have changed."""

    name: str
    size: int
    stamp: Json
    tag: str | None = None
    """What an object store says of the bytes (ETag): equal tags and sizes are equal bytes."""

    @property
    def key(self) -> str:
        return item_key(self.name)


def item_key(locator: str) -> str:
    """A key of 16 hex digits: safe in tars (no dots), in paths and in urls."""
    return sha256(locator.encode("utf-8", "surrogateescape")).hexdigest()[:16]


Digest = Callable[[Listed], str | None]
"""Reads a file and returns its sha256; None if that cannot be told, or the file is not the one listed."""


@dataclass(frozen=True)
class _Known:
    size: int
    stamp: str
    seen: str
    tag: str | None
    sha256: str | None


class Listings:
    """What earlier editions noted of their files; without a store nothing is known, and times count."""

    def __init__(self, store: Store | None = None, source: str = "") -> None:
        self._store, self._source = store, source
        self._noted: list[tuple[Listed, str, str | None]] = []
        self._whole: Digest | None = None
        self._has_news = False

    def stamps(
        self, files: Sequence[Listed], digest: Digest, *, noted_whole: Digest | None = None
    ) -> list[Json]:
        """The stamp that each file goes by: of the first time that its bytes were seen under its name.

        Only files whose name and size are known and whose stamp is not are read, by ``digest``.
        ``noted_whole`` reads a file that holds many photos, to be noted once the photos are there.
        """
        found: list[str | None] = [None] * len(files)
        sums: dict[int, str | None] = {}
        seen = [json.dumps(file.stamp) for file in files]
        for number, known in enumerate(self._editions() if files else ()):
            rows = [known.get(file.key, []) for file in files]
            for place, file in enumerate(files):
                if found[place] is None:
                    found[place] = _by_stamp(rows[place], file, seen[place])
            unknown = [place for place, stamp in enumerate(found) if stamp is None]
            self._has_news |= number == 0 and bool(unknown)
            doubtful = [
                place
                for place in unknown
                if place not in sums and any(_may_be(each, files[place]) for each in rows[place])
            ]
            with ThreadPoolExecutor(_READERS) as readers:
                read = readers.map(lambda place: digest(files[place]), doubtful)
                sums.update(zip(doubtful, read, strict=True))
            for place in unknown:
                found[place] = _by_bytes(rows[place], files[place], sums.get(place))
            if None not in found:
                break
        self._whole = noted_whole
        self._noted = [
            (file, stamp or own, sums.get(place))
            for place, (file, stamp, own) in enumerate(zip(files, found, seen, strict=True))
        ]
        return [json.loads(stamp) if stamp else file.stamp for file, stamp, _ in self._noted]

    def note(self, address: Address, sha256_of: Mapping[str, str] | Callable[[], Mapping[str, str]]) -> None:
        """Note the files of the edition at an address, so that they are known again next time.

        ``sha256_of`` gives hashes by key, of photos that are files of their own.
        """
        path = f"{address.path}/{_FILE}"
        store = self._store
        if store is None or not self._noted or (store.exists(path) and not self._has_news):
            return
        hashes = sha256_of() if callable(sha256_of) else sha256_of
        rows = {(row["key"], row["seen"]): row for row in _rows(store, address)}
        sums = {key: row["sha256"] for (key, _), row in rows.items() if row["sha256"]}
        for file, stamp, digest in self._noted:
            seen = json.dumps(file.stamp)
            if (file.key, seen) in rows:
                continue
            known = digest or hashes.get(file.key) or sums.get(file.key)
            if known is None and file.tag is None and self._whole:
                known = self._whole(file)
            rows[file.key, seen] = {
                "key": file.key,
                "size": file.size,
                "stamp": stamp,
                "seen": seen,
                "tag": file.tag,
                "sha256": known,
            }
        store.write_bytes(path, encode_rows(list(rows.values()), LISTING))
        self._has_news = False

    def _editions(self) -> Iterator[dict[str, list[_Known]]]:
        """Files of earlier editions of the same kind of source by key, newest edition first."""
        if self._store is None:
            return
        for manifest in _like(self._store, self._source):
            known: dict[str, list[_Known]] = {}
            for row in _rows(self._store, manifest.address):
                known.setdefault(row.pop("key"), []).append(_Known(**row))
            if known:
                yield known


def sha256_of(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    """The sha256 of a file anywhere; None if it cannot be read."""
    whole = sha256()
    try:
        with fs.open(path, "rb") as opened:
            file = cast("IO[bytes]", opened)
            while chunk := file.read(_CHUNK_BYTES):
                whole.update(chunk)
    except (OSError, StorageError):
        return None
    return whole.hexdigest()


def sha256_unchanged(path: Path, size: int, changed: float) -> str | None:
    """The sha256 of a local file; None if it has changed since it was listed, or cannot be read."""
    found = sha256_of(fsspec.filesystem("file"), str(path))
    try:
        status = path.stat()
    except OSError:
        return None
    return found if (status.st_size, status.st_mtime) == (size, changed) else None


def _like(store: Store, source: str) -> list[Manifest]:
    found = [each for each in all_manifests(store, "photos") if each.config.get("source") == source]
    return found[: -_EDITIONS_LOOKED_AT - 1 : -1]


def _rows(store: Store, address: Address) -> list[dict[str, Any]]:
    try:
        return decode_table(store.read_bytes(f"{address.path}/{_FILE}")).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return []


def _by_stamp(known: Sequence[_Known], file: Listed, seen: str) -> str | None:
    for each in known:
        if each.size == file.size and (each.seen == seen or (each.tag is not None and each.tag == file.tag)):
            return each.stamp
    return None


def _may_be(known: _Known, file: Listed) -> bool:
    return known.size == file.size and known.sha256 is not None


def _by_bytes(known: Sequence[_Known], file: Listed, digest: str | None) -> str | None:
    if digest is None:
        return None
    return next((each.stamp for each in known if _may_be(each, file) and each.sha256 == digest), None)
