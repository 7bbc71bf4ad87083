"""Photos of earlier editions by key: taken over, asked for only if they have changed, or carried over."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.artifacts import Manifest, PartFile, all_manifests
from dcgan_core.scrape.fetch import Validators
from dcgan_core.scrape.photos import may_pass
from dcgan_core.scrape.sources import Outcome
from dcgan_core.storage import Store

_TABLES_HELD = 3
_EDITIONS_HELD = 4
"""Editions looked through, newest first. One that could not fetch a photo has carried it over, so the newest
is enough unless lists alternate or an edition was made before photos were carried over."""

_FAILED, _MAY_PASS, _USABLE = 0, 1, 2


@dataclass(frozen=True)
class Known:
    """An earlier photo: where its bytes are, and what was said of it."""

    body: Callable[[], bytes | None]
    """Reads its bytes; None if the edition lost them."""
    validators: Validators
    final_url: str | None
    licence: str | None
    as_of: str | None
    """The day of the edition that holds it."""
    since: str
    """The day or the edition for which its bytes were fetched: another one if it was carried over."""
    was_carried: bool


class Edition:
    """One earlier edition of photos; thirteen bytes of memory a photo."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self.manifest = store, manifest
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._tables: OrderedDict[tuple[str, int], list[dict[str, Any]]] = OrderedDict()

    @property
    def as_of(self) -> str | None:
        """The day whose state of the web it holds."""
        return self.manifest.config.get("as_of")

    def look(self, key: str) -> Known | int:
        """The photo of a key if it was usable; else how it failed, or -1 if it was not listed."""
        keys, files, rows, verdicts = self._index
        number = np.uint64(int(key[:16], 16))
        place = int(np.searchsorted(keys, number))
        if place >= len(keys) or keys[place] != number or len(key) > 16:
            return -1
        if verdicts[place] != _USABLE:
            return int(verdicts[place])
        file, row = int(files[place]), int(rows[place])
        fetched = self._table("fetches-", file)[row]
        if fetched["key"] != key:
            return -1
        since = fetched.get("carried_over")
        return Known(
            body=lambda: self._body(file, row),
            validators=Validators(fetched["etag"], fetched["last_modified"]),
            final_url=fetched["final_url"],
            licence=self._table("photos-", file)[row]["licence"],
            as_of=self.as_of,
            since=since or self.as_of or str(self.manifest.address),
            was_carried=since is not None,
        )

    def _body(self, number: int, row: int) -> bytes | None:
        try:
            with self._open(self._files["photos-"][number]) as file:
                reader = pq.ParquetFile(file)
                first = 0
                for group in range(reader.num_row_groups):
                    rows = reader.metadata.row_group(group).num_rows
                    if row < first + rows:
                        return self._group(reader, number, group)[row - first]
                    first += rows
        except FileNotFoundError:
            pass
        return None

    def _group(self, reader: pq.ParquetFile, file: int, group: int) -> list[bytes | None]:
        if (file, group) not in self._groups:
            self._groups[file, group] = reader.read_row_group(group, columns=["image"], use_threads=False)[
                "image"
            ].to_pylist()
            if len(self._groups) > _TABLES_HELD:
                self._groups.popitem(last=False)
        return self._groups[file, group]

    def _table(self, prefix: str, number: int) -> list[dict[str, Any]]:
        """What is read of a photo's row, or of how it was fetched."""
        if (prefix, number) not in self._tables:
            self._tables[prefix, number] = self._read(self._files[prefix][number], _COLUMNS[prefix])
            if len(self._tables) > 2 * _TABLES_HELD:
                self._tables.popitem(last=False)
        return self._tables[prefix, number]

    def _read(self, named: PartFile, columns: Sequence[str]) -> list[dict[str, Any]]:
        with self._open(named) as file:
            reader = pq.ParquetFile(file)
            there = [name for name in columns if name in reader.schema_arrow.names]
            return reader.read(columns=there, use_threads=False).to_pylist()

    def _open(self, file: PartFile) -> Any:
        path = self.manifest.address.part_path(file.name)
        return self._store.filesystem().open(self._store.key(path), "rb")

    @cached_property
    def _files(self) -> dict[str, list[PartFile]]:
        return {prefix: self.manifest.named(prefix) for prefix in _COLUMNS}

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
        """Sorted keys, and the file and row of each, and whether it was usable or how it failed."""
        columns = [np.empty((0, 4), np.uint64)]
        for number, (photos, fetches) in enumerate(
            zip(self._files["photos-"], self._files["fetches-"], strict=True)
        ):
            try:
                statuses = self._read(photos, ("key", "status"))
                answers = self._read(fetches, ("http_status",))
            except FileNotFoundError:
                continue
            found = [
                (int(photo["key"], 16), number, row, _verdict(photo["status"], answer["http_status"]))
                for row, (photo, answer) in enumerate(zip(statuses, answers, strict=True))
                if len(photo["key"]) == 16  # a longer one was named more than once: the first is the photo
            ]
            if found:
                columns.append(np.array(found, np.uint64))
        table = np.concatenate(columns)
        table = table[np.argsort(table[:, 0], kind="stable")]
        files, rows = table[:, 1].astype(np.int32), table[:, 2].astype(np.int32)
        return table[:, 0].copy(), files, rows, table[:, 3].astype(np.uint8)


_COLUMNS = {
    "photos-": ("key", "licence"),
    "fetches-": ("key", "etag", "last_modified", "final_url", "carried_over"),
}


def _verdict(status: str, http_status: int | None) -> int:
    if status == "ok":
        return _USABLE
    return _MAY_PASS if may_pass(status, http_status) else _FAILED


class Earlier:
    """Earlier editions of photos from the same kind of source, newest first."""

    def __init__(self, editions: Sequence[Edition]) -> None:
        self._editions = editions

    def find(self, key: str) -> Known | None:
        """The photo of a key in the newest edition that had a lasting answer; None if it was not usable.

        What failed for a reason that may pass is looked for in the editions before, but no further than one
        in which it was gone.
        """
        for edition in self._editions:
            found = edition.look(key)
            if isinstance(found, Known):
                return found
            if found == _FAILED:
                return None
        return None


def earlier_editions(store: Store, fingerprint: str, is_like: Callable[[Manifest], bool]) -> Earlier:
    """The newest editions of photos other than ``fingerprint``, of those that are like what is made."""
    found = [
        manifest
        for manifest in all_manifests(store, "photos")
        if manifest.fingerprint != fingerprint and is_like(manifest)
    ]
    return Earlier([Edition(store, manifest) for manifest in reversed(found[-_EDITIONS_HELD:])])


def is_from_web(manifest: Manifest) -> bool:
    """Whether photos were fetched from urls."""
    return "candidates" in manifest.inputs


def carried_over(failed: Outcome, known: Known | None, facts: Mapping[str, Any], max_bytes: int) -> Outcome:
    """The earlier photo in place of one that failed for a reason that may pass; else the failure.

    ``facts`` are what the source says now. Under another licence, or with another sha1, it is not the photo
    that was taken then.
    """
    if known is None or not may_pass(failed.status, failed.http_status):
        return failed
    if known.licence != facts.get("licence"):
        return failed
    body = known.body()
    if body is None or len(body) > max_bytes:
        return failed
    sha1 = facts.get("sha1")
    if sha1 and hashlib.sha1(body, usedforsecurity=False).hexdigest() != sha1.lower():
        return failed
    return replace(
        failed,
        status="ok",
        reason="",
        data=body,
        etag=known.validators.etag,
        last_modified=known.validators.last_modified,
        final_url=known.final_url,
        declared=None,
        carried_over=known.since,
        carried_over_reason=f"{failed.status}: {failed.reason}" if failed.reason else failed.status,
    )
