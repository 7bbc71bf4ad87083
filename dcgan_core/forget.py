"""Taking photos down: out of every artifact under a root that holds them, for good (issue B, takedown)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_core.artifacts import (
    FLAG,
    FOLDER,
    LATEST_REPORT,
    Address,
    InputRecord,
    Manifest,
    PartFile,
    Receipt,
    all_manifests,
    fingerprint_of,
    read_receipts,
    readable_manifest,
    remove,
    write_manifest,
    write_receipt,
)
from dcgan_core.exclusions import Exclusion, Exclusions, exclude, photos_key, read_exclusions
from dcgan_core.journal import Journal
from dcgan_core.progress import Progress, silent
from dcgan_core.storage import Store, sha256_hex, sha256_of_file
from dcgan_core.tables import decode_table, encode_rows, parquet_options

_GATHERED = ("people", "searches", "candidates", "photos")
"""Kinds whose rows describe photos or people: rows are emptied where they are, the rest stays."""
_MODELS = ("autoencoder", "train")
"""Kinds that learn from photos and hold none; nor does what is measured on them (features, scores)."""
_PAGES = ("gallery", "report")
"""Kinds that show photos or say where they come from."""
_ALWAYS_REMADE = ("codes", "links", "dedup", "gallery", "shards", "quality", "figures", "report")
"""Kinds that hold photos, or pictures and features of single ones."""

_WHY = "on the exclusion list"
_EMPTIED: dict[str, tuple[str, ...]] = {
    # What stays of an excluded row, by kind of table.
    "people": ("key",),
    "searches": ("rank",),
    "candidates": ("key",),
    "photos": ("key",),
    "fetches": ("key", "fetched_at"),
}


@dataclass
class Forgotten:
    """What ``forget`` did, for people to read."""

    photos: set[str] = field(default_factory=set)
    """Keys of the photos found."""
    cleaned: list[Address] = field(default_factory=list)
    """Artifacts that are there still, without them."""
    deleted: list[tuple[Address, int]] = field(default_factory=list)
    """Artifacts that are gone, and the bytes they had; 0 for what was never finished."""
    flagged: list[tuple[Address, int]] = field(default_factory=list)
    """Models that stay, and how many of the photos they had seen."""


def forget(
    store: Store, asked: Iterable[Exclusion], *, models: bool = False, progress: Progress = silent
) -> Forgotten:
    """Put things on the exclusion list and take every matching photo out of everything under the root.

    Tables of photos and crops are written anew without them, in place; whatever was made from these (codes,
    groups, shards, figures, reports) is deleted, and the next run makes it again. Models that had seen them
    are flagged, or with ``models`` deleted. Killed half way and asked again it goes on. Not while a run is
    going on.
    """
    asked = list(asked)
    exclude(store, asked)
    done = Forgotten()
    progress(0, 4, "looking")
    matching = read_exclusions(store)
    done.photos = _find(store, matching)
    # From here on the photos are known by key, so that what is listed but not fetched stays unfetched.
    exclusions = exclude(store, [Exclusion("key", key) for key in done.photos])
    keys = {entry.value for entry in exclusions.entries if entry.kind == "key"}
    progress(1, 4, "deleting what was made from them")
    _delete_descendants(store, keys, models, done)
    progress(2, 4, "cleaning crops")
    _clean_crops(store, keys, done)
    _clean_held_out(store, keys, done)
    progress(3, 4, "cleaning photos")
    _clean_gathered(store, exclusions, done)  # last: until then everything can be found again
    _confirm(store, exclusions, done)
    store.sweep()
    progress(4, 4, "")
    return done


# What matches


def _find(store: Store, exclusions: Exclusions) -> set[str]:
    """Keys of all photos that match, in lists of candidates, tables of photos and journals."""
    found: set[str] = set()
    for address in [*_addresses(store, "candidates"), *_addresses(store, "photos")]:
        fetches = _final_urls(store, address) if address.artifact == "photos" else {}
        for name in _tables(store, address, f"{address.artifact}-"):
            for row in _rows(store, address.part_path(name), _KNOWN_BY):
                row["key"] = _plain(row["key"])
                why = exclusions.why({**row, "final_url": fetches.get(row["key"])})
                if why and row.get("status") != "excluded":
                    found.add(row["key"])
        for key, body, record in _journaled(store, address):
            known = {"key": key, "final_url": record.get("final_url")}
            if exclusions.hashes:
                known["sha256"] = sha256_hex(body())
            if exclusions.why(known):
                found.add(key)
    return found


_KNOWN_BY = ("key", "url", "page_url", "query", "artist", "sha256", "status")


def _final_urls(store: Store, address: Address) -> dict[str, str]:
    found = {}
    for name in _tables(store, address, "fetches-"):
        for row in _rows(store, address.part_path(name), ("key", "final_url")):
            if row["final_url"]:
                found[_plain(row["key"])] = row["final_url"]
    return found


def _journaled(
    store: Store, address: Address
) -> Iterator[tuple[str, Callable[[], bytes], Mapping[str, Any]]]:
    for journal in _journals(store, address):
        for key, entry in journal.entries.items():
            yield key, (lambda journal=journal, key=key: journal.body(key)), entry.record
        journal.close()


def _journals(store: Store, address: Address) -> Iterator[Journal]:
    for name in store.names(f"{address.path}/journal"):
        yield Journal(store, f"{address.path}/journal/{name}")


# What is deleted


def _delete_descendants(store: Store, keys: set[str], models: bool, done: Forgotten) -> None:
    """Everything made from crops of the photos, and reports that may show the photos, but no models."""
    manifests = {manifest.address: manifest for manifest in all_manifests(store)}
    photos = {address for address in _addresses(store, "photos") if _holds(store, address, keys)}
    crops = {address for address in _addresses(store, "crops") if _holds(store, address, keys)}
    made = _below(manifests, crops)
    shown = {address for address in _below(manifests, photos) if address.artifact in _PAGES}
    seen = {
        address: count
        for address in sorted(made)
        if address.artifact in _MODELS and (count := _seen_by(store, manifests, address, keys))
    }
    for address, count in seen.items():  # before anything goes, so that a kill cannot leave one unflagged
        _flag(store, manifests[address], count)
    gone = {address for address in made if address.artifact in _ALWAYS_REMADE} | shown
    if models:
        gone |= {*seen, *_below(manifests, set(seen))}
    else:
        done.flagged += seen.items()
    # What was made last goes first: while anything is left, what lies between still tells that it is due.
    for address in sorted(gone, key=lambda address: (-_RANK.get(address.artifact, 0), address)):
        done.deleted.append((address, manifests[address].bytes))
        _drop_cached(store, manifests[address])
        remove(store, address)
    if not (photos or crops):
        return
    for kind in _ALWAYS_REMADE:  # what was never finished does not say what it was made from
        for address in _addresses(store, kind):
            if address not in manifests:
                done.deleted.append((address, 0))
                remove(store, address)
    store.delete(LATEST_REPORT)


def _drop_cached(store: Store, manifest: Manifest) -> None:
    """What this machine keeps of a remote root's files (``shard.cache``), by their hashes."""
    if store.cache:
        for file in manifest.files:
            (Path(store.cache) / file.sha256).unlink(missing_ok=True)


def _below(manifests: Mapping[Address, Manifest], holders: set[Address]) -> set[Address]:
    found: set[Address] = set()
    grows = True
    while grows:
        more = {
            address
            for address, manifest in manifests.items()
            if address not in found
            and any(
                (inputs := Address(name, record.fingerprint)) in holders or inputs in found
                for name, record in manifest.inputs.items()
            )
        }
        found |= more
        grows = bool(more)
    return found - holders


def _holds(store: Store, address: Address, keys: set[str]) -> bool:
    """Whether a table of photos knows one of the keys, or a table of crops has a crop of one."""
    is_crops = address.artifact == "crops"
    column = "photo_key" if is_crops else "key"
    for name in _tables(store, address, f"{address.artifact}-"):
        for row in _rows(store, address.part_path(name), (column, "status")):
            counts = row["status"] == "ok" if is_crops else row["status"] != "excluded"
            if counts and _plain(row[column]) in keys:
                return True
    return any(key in keys for key, _, _ in _journaled(store, address))


def _seen_by(store: Store, manifests: Mapping[Address, Manifest], model: Address, keys: set[str]) -> int:
    """How many of the photos are in the tables that a model was trained on."""
    seen: set[str] = set()
    for name, record in manifests[model].inputs.items():
        address = Address(name, record.fingerprint)
        for file in manifests[address].files if address in manifests else ():
            if file.name.endswith(".parquet"):
                for row in _rows(store, address.part_path(file.name), ("key", "photo_key", "status")):
                    if row.get("status", "ok") == "ok":
                        seen |= {_photo_of(row)} & keys
    return len(seen)


def _photo_of(row: Mapping[str, Any]) -> str:
    return _plain(row.get("photo_key") or row["key"].rpartition("_")[0])


def _flag(store: Store, manifest: Manifest, seen: int) -> None:
    before = int(manifest.metrics.get(FLAG, 0))
    metrics = {**manifest.metrics, FLAG: max(before, seen)}
    write_manifest(store, manifest.model_copy(update={"metrics": metrics}))


# What is cleaned


def _clean_crops(store: Store, keys: set[str], done: Forgotten) -> None:
    for address in _addresses(store, "crops"):
        _finish_swaps(store, address)
        for name in _tables(store, address, "crops-"):
            columns = ("photo_key", "status")
            rows = _rows(store, address.part_path(name), columns)
            lost = [row for row in rows if _plain(row["photo_key"]) in keys]
            if not lost:
                continue
            less = Counter(row["status"] for row in lost)
            less["photos"] = len({row["photo_key"] for row in lost})
            _swap(store, address, name, _without(keys), _Counts(less))
            if address not in done.cleaned:
                done.cleaned.append(address)
        if manifest := readable_manifest(store, address):
            _rewrite_manifest(store, manifest, read_receipts(store, address))


def _clean_held_out(store: Store, keys: set[str], done: Forgotten) -> None:
    """Take the photos out of what trainings name as held out; how many these were stays in their counts."""
    for address in _addresses(store, "train"):
        _finish_swaps(store, address)
        for name in _tables(store, address, "held-out"):
            rows = _rows(store, address.part_path(name), ("photo_key",))
            if any(_plain(row["photo_key"]) in keys for row in rows):
                _swap(store, address, name, _without(keys), _Counts())
                done.cleaned.append(address)
        receipts = read_receipts(store, address)
        manifest = readable_manifest(store, address)
        if manifest and any(receipts.get(part.part, part) != part for part in manifest.parts):
            _rewrite_manifest(store, manifest, receipts)


def _without(keys: set[str]) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [row for row in rows if _plain(row["photo_key"]) not in keys]


def _clean_gathered(store: Store, exclusions: Exclusions, done: Forgotten) -> None:
    """Empty matching rows of people, searches, candidates and photos, and give photos their new keys."""
    for kind in _GATHERED:
        for address in _addresses(store, kind):
            _finish_swaps(store, address)
            changed = [
                *_clean_tables(store, address, exclusions),
                *_clean_journals(store, address, exclusions),
            ]
            receipts = read_receipts(store, address)
            if kind == "photos":
                _clean_listing(store, address, {e.value for e in exclusions.entries if e.kind == "key"})
                _rekey(store, address, receipts, exclusions)
            manifest = readable_manifest(store, address)
            if manifest:
                _rewrite_manifest(store, manifest, receipts)
            if changed:
                done.cleaned.append(address)


def _clean_tables(store: Store, address: Address, exclusions: Exclusions) -> Iterator[str]:
    kind = address.artifact
    for name in _tables(store, address, f"{kind}-"):
        matched = _matched(store, address, name, exclusions)
        if not matched:
            continue
        statuses = [row["status"] for row in _rows(store, address.part_path(name), ("status",))]
        less = Counter(statuses[number] for number in matched)
        other = name.replace("photos-", "fetches-")
        if kind == "photos" and store.exists(address.part_path(other)):
            _swap(store, address, other, _emptying("fetches", matched), _Counts())
        counts = _Counts(less, Counter(excluded=len(matched)), tuple(matched.values()))
        _swap(store, address, name, _emptying(kind, matched), counts)
        yield name


def _matched(store: Store, address: Address, name: str, exclusions: Exclusions) -> dict[int, str]:
    """Positions and keys of rows of a table that are excluded and not emptied yet."""
    matched = {}
    for number, row in enumerate(_rows(store, address.part_path(name), (*_KNOWN_BY, "name"))):
        key = row.get("key") or ""
        known = {**row, "key": _plain(key), "query": row.get("query") or row.get("name")}
        if row.get("status") != "excluded" and exclusions.why(known):
            matched[number] = key
    return matched


def _emptying(
    kind: str, matched: Mapping[int, str]
) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    position = -1

    def emptied(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal position
        result = []
        for row in rows:
            position += 1
            if position in matched:
                kept = {name: row[name] for name in _EMPTIED[kind]}
                row = {**dict.fromkeys(row), **kept}
                if kind != "fetches":
                    row |= {"status": "excluded", "reason": _WHY}
                if kind in ("searches", "candidates"):
                    row["url"] = ""
            result.append(row)
        return result

    return emptied


def _clean_journals(store: Store, address: Address, exclusions: Exclusions) -> Iterator[str]:
    """Journals of work that was cut off: written anew without what is excluded."""
    for name in store.names(f"{address.path}/journal"):
        path = f"{address.path}/journal/{name}"
        journal = Journal(store, path)
        if address.artifact == "photos":
            gone = {
                key
                for key in journal.entries
                if exclusions.why({"key": key, "sha256": sha256_hex(journal.body(key))})
            }
        else:  # answers of an API, asked for again
            gone = set(journal.entries) if exclusions.names() else set()
        if gone:
            kept = Journal(store, f"{path}.new")
            for key, entry in journal.entries.items():
                if key not in gone:
                    kept.append(key, entry.record, journal.body(key))
            kept.close()
            journal.close()
            if not store.is_local:
                store.delete(path)  # a folder of segments; on local disk the new file takes its place
            store.move(f"{path}.new", path)
            yield name
        else:
            journal.close()


def _clean_listing(store: Store, address: Address, keys: set[str]) -> None:
    """Take the hashes of photos out of what was noted of a source's files (``scrape/listings.py``)."""
    path = f"{address.path}/listing.parquet"
    if not store.exists(path):
        return
    table = decode_table(store.read_bytes(path))
    rows = table.to_pylist()
    if any(row["key"] in keys and row["sha256"] for row in rows):
        cleaned = [{**row, "sha256": None} if row["key"] in keys else row for row in rows]
        store.write_bytes(path, encode_rows(cleaned, table.schema))


def _rekey(store: Store, address: Address, receipts: dict[int, Receipt], exclusions: Exclusions) -> None:
    """The keys that the next plan will give these parts."""
    for index, receipt in receipts.items():
        base, left_out = receipt.metrics.get("base"), receipt.metrics.get("excluded", [])
        if base:
            key = photos_key(base, left_out, exclusions.hashes)
            receipts[index] = receipt.model_copy(update={"key": key})
            write_receipt(store, address, receipts[index])


# Confirming


def _confirm(store: Store, exclusions: Exclusions, done: Forgotten) -> None:
    """Note on everything that is clean that it is so under the list as it is now."""
    flagged = {address for address, _ in done.flagged}
    contents: dict[Address, str] = {}
    manifests = sorted(all_manifests(store), key=lambda manifest: _RANK.get(manifest.artifact, 0))
    photo_files = {
        manifest.address: manifest.named("photos-") for manifest in manifests if manifest.artifact == "photos"
    }
    changed = set(done.cleaned)
    for manifest in manifests:
        above = {name: Address(name, record.fingerprint) for name, record in manifest.inputs.items()}
        if manifest.artifact == "crops" and above["photos"] in photo_files:
            _rekey_crops(store, manifest, photo_files[above["photos"]])
            manifest = readable_manifest(store, manifest.address) or manifest
        follows = manifest.artifact in (*_GATHERED, "crops")
        inputs = {
            name: InputRecord(
                fingerprint=record.fingerprint,
                content=contents.get(above[name], record.content) if follows else record.content,
            )
            for name, record in manifest.inputs.items()
        }
        contents[manifest.address] = manifest.content
        stale = not follows and any(address in changed or address in flagged for address in above.values())
        if manifest.address in flagged or stale:
            flagged.add(manifest.address)
            continue  # the next run looks at these again
        write_manifest(store, manifest.model_copy(update={"inputs": inputs, "exclusions": exclusions.digest}))


_FLOW = [*_GATHERED, "crops", "autoencoder", "codes", "links", "dedup", "gallery", "shards", "train"]
_RANK = {
    kind: rank for rank, kind in enumerate([*_FLOW, "features", "scores", "quality", "figures", "report"])
}


def _rekey_crops(store: Store, manifest: Manifest, photos: Sequence[PartFile]) -> None:
    """Keys of crops' parts follow the hashes of the photos they were cut from."""
    receipts = read_receipts(store, manifest.address)
    for index, receipt in receipts.items():
        if index < len(photos):
            identity: list[Any] = [manifest.artifact, manifest.version, manifest.config, manifest.seed]
            key = fingerprint_of([*identity, photos[index].sha256, manifest.source], length=32)
            receipts[index] = receipt.model_copy(update={"key": key})
            write_receipt(store, manifest.address, receipts[index])
    _rewrite_manifest(store, manifest, receipts)


# Files


def _addresses(store: Store, kind: str) -> list[Address]:
    return [Address(kind, fingerprint) for fingerprint in store.names(f"{FOLDER}/{kind}")]


def _tables(store: Store, address: Address, prefix: str) -> list[str]:
    names = store.names(f"{address.path}/parts")
    return [name for name in names if name.startswith(prefix) and name.endswith(".parquet")]


def _rows(store: Store, path: str, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of a table, those of the columns that it has."""
    with store.filesystem().open(store.key(path), "rb") as file:
        reader = pq.ParquetFile(file)
        wanted = [name for name in columns if name in reader.schema_arrow.names]
        for batch in reader.iter_batches(4096, columns=wanted, use_threads=False):
            yield from batch.to_pylist()


@dataclass(frozen=True)
class _Counts:
    """How a receipt's counts change with its file: fewer of these, more of those, further keys excluded."""

    less: Counter[str] = field(default_factory=Counter)
    more: Counter[str] = field(default_factory=Counter)
    excluded: tuple[str, ...] = ()


def _swap(
    store: Store,
    address: Address,
    name: str,
    edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    counts: _Counts,
) -> None:
    """Write a table anew in its place, row group by row group, and its receipt with it.

    The receipt to come is written first, aside: a kill between file and receipt can be told and mended.
    """
    path = address.part_path(name)
    receipt = next(
        (
            receipt
            for receipt in read_receipts(store, address).values()
            if any(file.name == name for file in receipt.files)
        ),
        None,
    )
    rows = 0
    with store.filesystem().open(store.key(path), "rb") as file, store.writing(path) as local:
        reader = pq.ParquetFile(file)
        schema = reader.schema_arrow
        with pq.ParquetWriter(local, schema, **parquet_options(schema)) as writer:
            for group in range(reader.num_row_groups):
                edited = edit(reader.read_row_group(group, use_threads=False).to_pylist())
                rows += len(edited)
                table = pa.Table.from_pylist(edited, schema=schema)
                writer.write_table(table, row_group_size=max(1, len(edited)))
        if receipt:
            size, digest = local.stat().st_size, sha256_of_file(local)
            new = _with_file(receipt, name, size, digest, rows, counts)
            aside = f"{address.path}/{_ASIDE}/{receipt.part:05d}.json"
            store.write_bytes(aside, new.model_dump_json().encode())
    _finish_swaps(store, address)


_ASIDE = "receipts-to-come"


def _finish_swaps(store: Store, address: Address) -> None:
    """Put receipts aside into place where their files are there; drop them where these are not yet."""
    for name in store.names(f"{address.path}/{_ASIDE}"):
        aside = f"{address.path}/{_ASIDE}/{name}"
        new = Receipt.model_validate_json(store.read_bytes(aside))
        if all(_is_there(store, address, file) for file in new.files):
            write_receipt(store, address, new)
        store.delete(aside)
    store.delete(f"{address.path}/{_ASIDE}")


def _is_there(store: Store, address: Address, file: PartFile) -> bool:
    try:
        return sha256_hex(store.read_bytes(address.part_path(file.name))) == file.sha256
    except FileNotFoundError:
        return False


def _with_file(receipt: Receipt, name: str, size: int, digest: str, rows: int, change: _Counts) -> Receipt:
    counts = Counter(receipt.counts)
    counts.subtract(change.less)
    counts.update(change.more)
    metrics = dict(receipt.metrics)
    if "excluded" in metrics:
        metrics["excluded"] = sorted({*metrics["excluded"], *change.excluded})
    new = {"bytes": size, "sha256": digest, "rows": rows}
    files = tuple(file.model_copy(update=new) if file.name == name else file for file in receipt.files)
    kept = {name: count for name, count in counts.items() if count > 0 or name not in change.less}
    return receipt.model_copy(update={"files": files, "counts": kept, "metrics": metrics})


def _rewrite_manifest(store: Store, manifest: Manifest, receipts: Mapping[int, Receipt]) -> None:
    """The manifest over its parts as they are now; counts that are sums over parts follow them."""
    parts = tuple(receipts.get(part.part, part) for part in manifest.parts)
    sums = Counter[str]()
    for part in parts:
        sums.update(part.counts)
    own = {name: count for name, count in manifest.counts.items() if name not in _sums_of(manifest)}
    counts = {**own, **dict(sorted(sums.items()))}
    write_manifest(store, manifest.model_copy(update={"parts": parts, "counts": counts}))


def _sums_of(manifest: Manifest) -> set[str]:
    return {name for part in manifest.parts for name in part.counts}


def _plain(key: str) -> str:
    """A photo's key without the number of its repetition."""
    return key.partition("r")[0]
