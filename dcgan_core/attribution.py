"""Whose photos a data set kept: one line a photo, with licence and author, as a table for people."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, Any

from dcgan_core.artifacts import Address, Manifest, find, read_manifest
from dcgan_core.errors import ConfigError, MissingArtifact
from dcgan_core.stage import FLOW_OF
from dcgan_core.storage import Store
from dcgan_core.tables import iterate_rows

COLUMNS = (
    "photo_key",
    "crops",
    "url",
    "page_url",
    "artist",
    "credit",
    "licence",
    "licence_url",
    "restrictions",
    "sha256",
)
_FROM_PHOTO = COLUMNS[2:]


def write_attribution(store: Store, name: str, to: IO[str], *, names: bool = False) -> int:
    """Write the photos that an artifact kept as csv, in order of their keys' parts; returns how many.

    ``name`` is a set of shards (what training saw), of crops or of photos; ``names`` adds the person's name
    that a photo was searched for. Raises ConfigError for other kinds, MissingArtifact where the photos are
    gone.
    """
    manifest = find(store, name)
    if manifest.artifact not in ("shards", "crops", "photos"):
        raise ConfigError(f"{manifest.address} has no photos; attribution is of shards, crops or photos")
    columns = [*COLUMNS, *(["name"] if names else [])]
    writer = csv.DictWriter(to, columns)
    writer.writeheader()
    count = 0
    for line in kept_photos(store, manifest, names=names):
        writer.writerow({column: _harmless(value) for column, value in line.items()})
        count += 1
    return count


def kept_photos(store: Store, manifest: Manifest, *, names: bool = False) -> Iterator[dict[str, Any]]:
    """A row of ``COLUMNS`` (and ``name`` where wanted) for each photo that shards, crops or photos kept.

    ``crops`` is "" for photos themselves. Raises MissingArtifact where the photos are gone.
    """
    kept = _kept(store, manifest)
    photos = _above(store, manifest, "photos")
    for file in photos.named("photos-"):
        wanted = ["key", "status", "query", *_FROM_PHOTO]
        for row in iterate_rows(store, photos.address, file, wanted):
            if row["status"] != "ok" or (kept is not None and row["key"] not in kept):
                continue
            line = {column: row[column] for column in _FROM_PHOTO}
            line |= {"photo_key": row["key"], "crops": kept[row["key"]] if kept is not None else ""}
            if names:
                line["name"] = row["query"]
            yield line


def _kept(store: Store, manifest: Manifest) -> dict[str, int] | None:
    """Crops kept of each photo; None for photos themselves, of which all that are usable count."""
    if manifest.artifact == "photos":
        return None
    kept: dict[str, int] = {}
    for key in _crop_keys(store, manifest):
        photo = key.rpartition("_")[0]
        kept[photo] = kept.get(photo, 0) + 1
    return kept


def _crop_keys(store: Store, manifest: Manifest) -> Iterator[str]:
    if manifest.artifact == "crops":
        for file in manifest.named("crops-"):
            for row in iterate_rows(store, manifest.address, file, ["key", "status"]):
                if row["status"] == "ok":
                    yield row["key"]
        return
    for file in manifest.named("train-"):
        if file.name.endswith(".index.parquet"):
            yield from (row["key"] for row in iterate_rows(store, manifest.address, file, ["key"]))


def _above(store: Store, manifest: Manifest, kind: str) -> Manifest:
    """The artifact of a kind that another was made from, however far up."""
    if manifest.artifact == kind:
        return manifest
    for name, record in manifest.inputs.items():
        if name in ("crops", "photos"):
            address = Address(name, record.fingerprint)
            above = read_manifest(store, address)
            if above is None:
                flow = FLOW_OF[name]
                raise MissingArtifact("attribution", name, record.fingerprint, flow, "PRESET")
            return _above(store, above, kind)
    raise ConfigError(f"{manifest.address} was not made from photos")


def _harmless(value: Any) -> Any:
    """Text from the web as a spreadsheet may open it: never a formula."""
    if isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
