"""What stops a scrape before a training sees a fraction of its photos, and what the next try does then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.artifacts import (
    Address,
    Manifest,
    PartFile,
    Receipt,
    all_manifests,
    read_manifest,
    read_receipts,
)
from dcgan_core.config import ScrapeConfig
from dcgan_core.errors import NoUsableData, SourceShrunk, TooManyFailures
from dcgan_core.scrape.photos import photos_summary
from dcgan_core.scrape.sources import host_of
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store

_EDITIONS_LOOKED_AT = 4
_NO_MATTER = ("as_of", "items_per_part")
"""Settings that do not decide which photos a source has."""

_COLUMNS = ("key", "status", "url")


def judged(stage: Stage, config: ScrapeConfig, store: Store, receipts: Sequence[Receipt]) -> Summary:
    """Counts of photos. Raises NoUsableData, TooManyFailures and SourceShrunk."""
    summary = photos_summary(receipts, config.max_failure_rate)
    _check_shrink(stage, store, receipts, config.max_shrink)
    return summary


def was_stopped(stage: Stage, config: ScrapeConfig, store: Store, parts: Sequence[Part]) -> bool:
    """Whether all parts were done by a try that was then stopped, and would be again: its failures are tried
    again. Where the brakes allow it by now, what is there is taken as it is."""
    done = read_receipts(store, stage.address)
    receipts = [done[part.index] for part in parts if part.index in done and done[part.index].key == part.key]
    if len(receipts) < len(parts):
        return False
    try:
        judged(stage, config, store, receipts)
    except (NoUsableData, TooManyFailures, SourceShrunk):
        return True
    return False


def _check_shrink(stage: Stage, store: Store, receipts: Sequence[Receipt], max_shrink: float) -> None:
    """Raise SourceShrunk if more than ``max_shrink`` of last time's usable photos are not usable now.

    Last time is the newest other edition with the same settings, in this and in what it was made from, that
    has half of the photos in common (of the smaller of both): another folder or list is another source. What
    is no longer listed counts like what failed, as a list that was shortened on purpose looks like one that
    was cut off. Excluded photos do not count.
    """
    if max_shrink >= 1:
        return
    now = [file for receipt in receipts for file in receipt.files if file.name.startswith("photos-")]
    usable, listed, excluded = _keys(store, stage.address, now)
    for manifest in _like(store, stage):
        before, _, _ = _keys(store, manifest.address, manifest.named("photos-"))
        common = np.intersect1d(before, listed, assume_unique=True)
        if 2 * len(common) < min(len(before), len(listed)) or not len(before):
            continue
        before = np.setdiff1d(before, excluded, assume_unique=True)
        missing = np.setdiff1d(before, usable, assume_unique=True)
        if len(missing) > max_shrink * len(before):
            statuses = _statuses(store, stage.address, now, missing)
            places = _places(store, manifest, before, missing, statuses)
            since = manifest.config.get("as_of")
            edition = f"{manifest.address}{f' (as of {since})' if since else ''}"
            raise SourceShrunk(edition, len(missing), len(before), max_shrink, places)
        return


def _like(store: Store, stage: Stage) -> Iterator[Manifest]:
    """Other editions with the same settings all the way up, newest first."""
    above = {name: read_manifest(store, each) for name, each in stage.inputs.items()}
    own = [_compared(stage.settings()), *_lineage(store, above)]
    editions = [
        manifest
        for manifest in all_manifests(store, stage.artifact)
        if manifest.fingerprint != stage.address.fingerprint and _compared(manifest.config) == own[0]
    ]
    for manifest in editions[: -_EDITIONS_LOOKED_AT - 1 : -1]:
        if [own[0], *_lineage(store, _above(store, manifest))] == own:
            yield manifest


def _lineage(store: Store, above: Mapping[str, Manifest | None]) -> list[Any]:
    """Settings and seeds of what something was made from, however far up; None for what is gone."""
    found: list[Any] = []
    for name, manifest in sorted(above.items()):
        found.append([name, manifest and [manifest.seed, _compared(manifest.config)]])
        if manifest:
            found += _lineage(store, _above(store, manifest))
    return found


def _above(store: Store, manifest: Manifest) -> dict[str, Manifest | None]:
    return {
        name: read_manifest(store, Address(name, record.fingerprint))
        for name, record in manifest.inputs.items()
    }


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _NO_MATTER}


def _keys(
    store: Store, address: Address, files: Sequence[PartFile]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Sorted keys of photos that are usable, of all that are listed, and of those that are excluded."""
    found: list[list[NDArray[np.uint64]]] = [[], [], []]
    for rows in _tables(store, address, files):
        numbers = np.array([int(row["key"][:16], 16) for row in rows], np.uint64)
        first = np.array([len(row["key"]) == 16 for row in rows], bool)  # not what is named again
        for place, status in enumerate(("ok", None, "excluded")):
            wanted = np.array([status in (None, row["status"]) for row in rows], bool)
            found[place].append(numbers[first & wanted])
    usable, listed, excluded = (np.unique(np.concatenate(each)) if each else _NONE for each in found)
    return usable, listed, excluded


_NONE = np.empty(0, np.uint64)


def _statuses(
    store: Store, address: Address, files: Sequence[PartFile], missing: NDArray[np.uint64]
) -> dict[int, str]:
    """What became of missing photos that are still listed, by key."""
    wanted = {int(key) for key in missing}
    return {
        key: row["status"]
        for rows in _tables(store, address, files)
        for row in rows
        if len(row["key"]) == 16 and (key := int(row["key"], 16)) in wanted
    }


def _places(
    store: Store,
    manifest: Manifest,
    before: NDArray[np.uint64],
    missing: NDArray[np.uint64],
    statuses: Mapping[int, str],
) -> tuple[tuple[str, int, int, str], ...]:
    """Hosts or folders that miss photos: name, photos missing, photos before, the commonest reason."""
    counted, gone = {int(key) for key in before}, {int(key) for key in missing}
    there, why = Counter[str](), dict[str, Counter[str]]()
    for rows in _tables(store, manifest.address, manifest.named("photos-")):
        for row in rows:
            key = int(row["key"][:16], 16)
            if row["status"] != "ok" or key not in counted:
                continue
            place = _place_of(row["url"] or "")
            there[place] += 1
            if key in gone:
                why.setdefault(place, Counter())[statuses.get(key, "not listed")] += 1
    found = [(place, each.total(), there[place], each.most_common(1)[0][0]) for place, each in why.items()]
    return tuple(sorted(found, key=lambda entry: (-entry[1], entry[0])))


def _place_of(url: str) -> str:
    """The host of a url; of a file's name its file of many (``a.tar#x.jpg``) or its folder."""
    if "://" in url:
        return host_of(url)
    name, hash_sign, _ = url.rpartition("#")
    return name if hash_sign else f"{url.rpartition('/')[0] or '.'}/"


def _tables(store: Store, address: Address, files: Sequence[PartFile]) -> Iterator[list[dict[str, Any]]]:
    """Rows of each table, without the images; a table that is lost has none."""
    for file in files:
        try:
            with store.filesystem().open(store.key(address.part_path(file.name)), "rb") as opened:
                yield pq.ParquetFile(opened).read(columns=list(_COLUMNS), use_threads=False).to_pylist()
        except FileNotFoundError:
            continue
