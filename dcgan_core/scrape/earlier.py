"""Photos of an earlier edition by key: taken over, or asked for only if they have changed since."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.artifacts import Manifest, PartFile, all_manifests
from dcgan_core.scrape.fetch import Validators
from dcgan_core.storage import Store
from dcgan_core.tables import read_rows

_TABLES_HELD = 3


@dataclass(frozen=True)
class Known:
    """Where an earlier photo lies, and what its server said of it."""

    file: int
    row: int
    validators: Validators
    final_url: str | None


class Earlier:
    """The newest other edition of photos from the web; twelve bytes of memory a photo."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._fetches: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    @property
    def as_of(self) -> str | None:
        """The day whose state of the web it holds."""
        return self._manifest.config.get("as_of")

    def find(self, key: str) -> Known | None:
        """The photo of a key, where it was usable; None where there is none."""
        keys, files, rows = self._index
        number = np.uint64(int(key[:16], 16))
        place = int(np.searchsorted(keys, number))
        if place >= len(keys) or keys[place] != number or len(key) > 16:
            return None
        file, row = int(files[place]), int(rows[place])
        fetched = self._fetches_of(file)[row]
        if fetched["key"] != key:
            return None
        validators = Validators(fetched["etag"], fetched["last_modified"])
        return Known(file, row, validators, fetched["final_url"])

    def body(self, known: Known) -> bytes | None:
        """The photo's bytes; None where the edition lost them."""
        try:
            with self._open(self._photos[known.file]) as file:
                reader = pq.ParquetFile(file)
                first = 0
                for group in range(reader.num_row_groups):
                    rows = reader.metadata.row_group(group).num_rows
                    if known.row < first + rows:
                        return self._group(reader, known.file, group)[known.row - first]
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

    def _fetches_of(self, file: int) -> list[dict[str, Any]]:
        if file not in self._fetches:
            columns = ["key", "etag", "last_modified", "final_url"]
            named = self._manifest.named("fetches-")[file]
            self._fetches[file] = read_rows(self._store, self._manifest.address, named, columns).to_pylist()
            if len(self._fetches) > _TABLES_HELD:
                self._fetches.popitem(last=False)
        return self._fetches[file]

    def _open(self, file: PartFile) -> Any:
        path = self._manifest.address.part_path(file.name)
        return self._store.filesystem().open(self._store.key(path), "rb")

    @cached_property
    def _photos(self) -> list[PartFile]:
        return self._manifest.named("photos-")

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
        """Sorted keys of usable photos, and the file and row of each."""
        keys: list[NDArray[np.uint64]] = []
        files: list[NDArray[np.int32]] = []
        rows: list[NDArray[np.int32]] = []
        for number, named in enumerate(self._photos):
            try:
                with self._open(named) as file:
                    table = pq.ParquetFile(file).read(columns=["key", "status"], use_threads=False)
            except FileNotFoundError:
                continue
            usable = [
                (int(key[:16], 16), row)
                for row, (key, status) in enumerate(
                    zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)
                )
                if status == "ok"
            ]
            keys.append(np.array([key for key, _ in usable], np.uint64))
            rows.append(np.array([row for _, row in usable], np.int32))
            files.append(np.full(len(usable), number, np.int32))
        if not keys:
            return np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32)
        all_keys = np.concatenate(keys)
        order = np.argsort(all_keys, kind="stable")
        return all_keys[order], np.concatenate(files)[order], np.concatenate(rows)[order]


def earlier_edition(store: Store, fingerprint: str) -> Earlier | None:
    """The newest edition of photos from the web other than ``fingerprint``, or None."""
    found = [
        manifest
        for manifest in all_manifests(store, "photos")
        if manifest.fingerprint != fingerprint and "candidates" in manifest.inputs
    ]
    return Earlier(store, found[-1]) if found else None
