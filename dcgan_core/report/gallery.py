"""What the gallery of near duplicates shows: groups, collisions to judge by eye, pairs just not grouped."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dcgan_core.artifacts import Manifest
from dcgan_core.config import DedupConfig
from dcgan_core.dedup.similarity import SURE_BITS
from dcgan_core.dedup.stage import stacked
from dcgan_core.held_out import share
from dcgan_core.storage import Store
from dcgan_core.tables import LongTable, some_rows

GROUPS_PER_PAGE = 40
LARGEST = 12
"""Groups on the page of the largest ones."""
LARGEST_MEMBERS, MEMBERS = 24, 8
"""Crops shown of one group, there and elsewhere."""
COLLISIONS = 100
"""Crops left out that are drawn for judging precision by eye."""
APART = 40
"""Pairs shown of each kind that were not grouped."""

_COMPARISONS = 3 * 10**8
_QUERIES = 64
_NEAREST = 2000
_BLOCK = 65_536
_LOOKED_AT = 20_000
_FAR = 2**15

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Where a crop comes from (untrusted text)."""

    url: str = ""
    """A web page or picture, http or https; empty where the photo is a file."""
    name: str = ""


@dataclass(frozen=True)
class Shown:
    """One crop on a page."""

    row: int
    key: str
    kept: bool = False
    distance: int = 0
    """Bits in which its code differs from that of the other, or of the one kept."""
    similarity: float = 1.0
    """Of the two pictures, 16x16 in grey."""
    why: str = ""


@dataclass(frozen=True)
class Cluster:
    """A group, the kept crop first, then by distance."""

    members: tuple[Shown, ...]
    size: int

    @property
    def more(self) -> int:
        return self.size - len(self.members)


@dataclass(frozen=True)
class Pair:
    """Two crops side by side."""

    one: Shown
    other: Shown


@dataclass(frozen=True)
class Gallery:
    """Everything on the pages but the pictures."""

    counts: Mapping[str, int]
    radius: int
    verify: float
    verify_step: float
    by_distance: tuple[int, ...]
    """Crops left out by their distance from the kept one, 0 to the largest there is."""
    groups: tuple[Cluster, ...]
    largest: tuple[Cluster, ...]
    collisions: tuple[Pair, ...]
    collisions_of: int
    """Crops that were left out for their code, of which some are drawn."""
    refused: tuple[Pair, ...]
    """Codes within the radius, kept apart; the most alike first."""
    refused_sampled: bool
    """Whether there were too many to look at all of them."""
    beyond: tuple[Pair, ...]
    """Of the nearest pairs of kept crops beyond the radius the most alike."""
    compared: int
    """Kept crops whose neighbours beyond the radius were looked for."""

    @property
    def limit(self) -> int:
        """Most bits at which pictures can be similar enough."""
        return SURE_BITS + int((1 - self.verify) / self.verify_step + 1e-9) if self.verify_step else _FAR

    @property
    def rows(self) -> Ints:
        """Rows of all crops that are shown, ascending."""
        shown = [member.row for each in (*self.groups, *self.largest) for member in each.members]
        for pair in (*self.collisions, *self.refused, *self.beyond):
            shown += [pair.one.row, pair.other.row]
        return np.unique(np.array(shown, np.int64))


def choose(
    store: Store, dedup: Manifest, codes: Manifest, links_M2: Ints, config: DedupConfig, seed: int
) -> Gallery:
    """Choose what to show; what is drawn depends on keys and the seed, not on how crops lie in files."""
    table, code_table = LongTable(store, dedup, "dedup-"), LongTable(store, codes, "codes-")
    draw = f"gallery:{seed}"
    sizes, widest, by_distance = Counter[str](), Counter[str](), Counter[int]()
    drawn: list[tuple[float, int]] = []
    sure = 0
    for first, rows in table.tables(["key", "kept_key", "distance", "keep", "why"]):
        out = rows.loc[~rows["keep"] & rows["kept_key"].notna()]
        sizes.update(out["kept_key"].tolist())
        by_distance.update(out["distance"].astype(int).tolist())
        for name, distance in out.groupby("kept_key")["distance"].max().items():
            widest[str(name)] = max(widest[str(name)], int(distance))
        judged = out.loc[~out["why"].isin(["same_file", "same_pixels"]), "key"]
        sure += len(out) - len(judged)
        places = [(share(key, draw), first + int(at)) for at, key in judged.items()]
        drawn = heapq.nsmallest(COLLISIONS, [*drawn, *places])
    largest = heapq.nsmallest(LARGEST, sizes, key=lambda name: (-sizes[name], name))
    some = heapq.nsmallest(config.gallery_groups, sizes, key=lambda name: (share(name, draw), name))
    some = sorted(some, key=lambda name: (-widest[name], name))
    drawn_rows = [row for _, row in drawn]
    sampled = table.take(np.array(drawn_rows, np.int64), ["kept_key", "why"])
    members = _members(table, [*largest, *some, *sampled["kept_key"]])
    kept_row = dict(
        zip(members.loc[members["keep"], "key"], members.loc[members["keep"], "row"], strict=True)
    )
    by_group = dict(list(members.groupby("kept_key")))
    collisions = _pairs(
        code_table,
        drawn_rows,
        [kept_row[name] for name in sampled["kept_key"]],
        sampled["why"].tolist(),
    )
    refused, sampled_pairs = _refused(table, code_table, links_M2, config)
    beyond, compared = _beyond(table, code_table, config.radius, draw)
    return Gallery(
        counts=dedup.counts,
        radius=config.radius,
        verify=config.verify,
        verify_step=config.verify_step,
        by_distance=tuple(by_distance[bits] for bits in range(max(by_distance, default=-1) + 1)),
        groups=_clusters(code_table, (by_group[name] for name in some), MEMBERS),
        largest=_clusters(code_table, (by_group[name] for name in largest), LARGEST_MEMBERS),
        collisions=tuple(sorted(collisions, key=lambda pair: (pair.one.distance, pair.one.key))),
        collisions_of=sum(by_distance.values()) - sure,
        refused=refused,
        refused_sampled=sampled_pairs,
        beyond=beyond,
        compared=compared,
    )


def read_pictures(
    store: Store, codes: Manifest, crops: Manifest, photos: Manifest, rows_L: Ints
) -> dict[int, tuple[bytes, Source]]:
    """Image bytes and source of crops, by their rows in the tables of codes.

    Only row groups that hold one of them are read; their hashes were checked when the codes were made.
    """
    table = LongTable(store, codes, "codes-")
    keys = dict(zip(rows_L.tolist(), table.take(rows_L, ["key"])["key"], strict=True))
    row_of = {key: row for row, key in keys.items()}
    images: dict[int, bytes] = {}
    sources: dict[int, Source] = {}
    crop_files, photo_files = crops.named("crops-"), photos.named("photos-")
    numbers = table.files_of(rows_L)
    for number in np.unique(numbers).tolist():
        wanted = {keys[row] for row in rows_L[numbers == number].tolist()}
        photo_of = {}
        for row in some_rows(store, crops, crop_files[number].name, wanted, ["key", "photo_key", "image"]):
            images[row_of[row["key"]]] = row["image"]
            photo_of[row["key"]] = row["photo_key"]
        if number >= len(photo_files):
            continue
        name, columns = photo_files[number].name, ["key", "url", "page_url"]
        found = {row["key"]: row for row in some_rows(store, photos, name, set(photo_of.values()), columns)}
        sources |= {row_of[key]: _source(found[photo]) for key, photo in photo_of.items() if photo in found}
    return {row: (data, sources.get(row, Source())) for row, data in images.items()}


def _compared(codes: LongTable, ends_P2: Ints) -> tuple[list[list[str]], Ints, NDArray[np.float64]]:
    """Keys (P, 2), distances (P,) and similarities (P,) of pairs of rows."""
    from dcgan_core.dedup.neighbours import distances
    from dcgan_core.dedup.similarity import similarity

    if not len(ends_P2):
        return [], np.empty(0, np.int64), np.empty(0)
    rows_U, places = np.unique(ends_P2, return_inverse=True)
    found = codes.take(rows_U, ["key", "code", "luma"])
    packed, lumas = (stacked(found[name].tolist()) for name in ("code", "luma"))
    places_P2 = places.reshape(-1, 2)
    keys = found["key"].to_numpy()[places_P2].tolist()
    alike = similarity(lumas[places_P2[:, 0]], lumas[places_P2[:, 1]])
    return keys, distances(packed, places_P2), alike


def _members(table: LongTable, names: list[str]) -> pd.DataFrame:
    """All rows of some groups, with their numbers."""
    found = []
    for first, rows in table.tables(["key", "keep", "kept_key", "distance", "why"]):
        rows = rows.loc[rows["kept_key"].isin(names)]
        found.append(rows.assign(row=rows.index.to_numpy(np.int64) + first))
    members = pd.concat(found, ignore_index=True)
    return members.sort_values(["keep", "distance", "key"], ascending=[False, True, True], ignore_index=True)


def _clusters(codes: LongTable, groups: Iterable[pd.DataFrame], shown: int) -> tuple[Cluster, ...]:
    """Groups, their members compared with the first one, which is the one kept."""
    heads = [(members.head(shown), len(members)) for members in groups]
    ends = [(rows["row"].iloc[0], row) for rows, _ in heads for row in rows["row"]]
    _, _, alike = _compared(codes, np.array(ends, np.int64).reshape(-1, 2))
    likes = iter(alike.tolist())
    return tuple(
        Cluster(
            tuple(
                Shown(
                    row["row"],
                    row["key"],
                    row["keep"],
                    int(row["distance"]),
                    next(likes),
                    "" if row["keep"] else row["why"],
                )
                for row in rows.to_dict("records")
            ),
            size,
        )
        for rows, size in heads
    )


def _pairs(codes: LongTable, ones: list[int], others: list[int], whys: list[str]) -> list[Pair]:
    """Pairs of rows side by side, the second one kept."""
    ends = np.array([ones, others], np.int64).T.reshape(-1, 2)
    keys, far, alike = _compared(codes, ends)
    return [
        Pair(Shown(one, names[0], False, bits, like, why), Shown(other, names[1], True, bits, like))
        for (one, other), names, bits, like, why in zip(
            ends.tolist(), keys, far.tolist(), alike.tolist(), whys, strict=True
        )
    ]


def _refused(
    table: LongTable, codes: LongTable, links_M2: Ints, config: DedupConfig
) -> tuple[tuple[Pair, ...], bool]:
    """Linked crops that are kept both, the most alike first; of very many some evenly spread, and whether."""
    from dcgan_core.dedup.similarity import needed_similarity

    keeper_N = _kept_of_equal_codes(table)
    apart = keeper_N[links_M2]  # a link names the first of equal codes, which need not be the kept one
    apart = np.unique(np.sort(apart[(apart >= 0).all(1) & (apart[:, 0] != apart[:, 1])], axis=1), axis=0)
    step = -(-len(apart) // _LOOKED_AT) or 1
    apart = apart[::step]
    keys, far, alike = _compared(codes, apart)
    best = sorted(range(len(apart)), key=lambda at: (-alike[at], far[at], keys[at]))[:APART]
    pairs = _pairs(codes, apart[best, 0].tolist(), apart[best, 1].tolist(), [""] * len(best))
    like_enough = alike[best] >= needed_similarity(far[best], config.verify, config.verify_step)
    shown = tuple(
        Pair(
            replace(pair.one, why="not of one group" if alike else ""),
            replace(pair.other, kept=False),
        )
        for pair, alike in zip(pairs, like_enough, strict=True)
    )
    return shown, step > 1


def _kept_of_equal_codes(table: LongTable) -> Ints:
    """For each row the kept one of the same code, itself or another, or -1 where there is none: (N,)."""
    keeper_N = np.full(table.rows, -1, np.int64)
    twins: dict[str, list[int]] = {}
    for first, rows in table.tables(["keep", "kept_key", "distance"]):
        kept = first + np.flatnonzero(rows["keep"])
        keeper_N[kept] = kept
        same = rows.loc[~rows["keep"] & (rows["distance"] == 0), "kept_key"]
        for at, key in same.items():
            twins.setdefault(key, []).append(first + int(at))
    for first, rows in table.tables(["key", "keep"]) if twins else ():
        for at, key in rows.loc[rows["keep"] & rows["key"].isin(list(twins)), "key"].items():
            keeper_N[twins[key]] = first + int(at)
    return keeper_N


def _beyond(table: LongTable, codes: LongTable, radius: int, draw: str) -> tuple[tuple[Pair, ...], int]:
    """Of the nearest pairs of kept crops beyond the radius, of some drawn ones with all, the most alike; and
    how many were drawn."""
    from dcgan_core.dedup.neighbours import hamming

    total = max(1, table.rows)
    queries = max(_QUERIES, min(_LOOKED_AT, _COMPARISONS // total))
    drawn: list[tuple[float, int]] = []
    for first, rows in table.tables(["key", "keep"]):
        kept = rows.loc[rows["keep"], "key"]
        places = [(share(key, draw), first + int(at)) for at, key in kept.items()]
        drawn = heapq.nsmallest(queries, [*drawn, *places])
    query_rows = np.sort(np.array([row for _, row in drawn], np.int64))
    query_codes = stacked(codes.take(query_rows, ["code"])["code"].tolist())
    far_P, ends_P2 = np.empty(0, np.int64), np.empty((0, 2), np.int64)
    for rows_N, codes_NB in _kept_codes(table, codes) if len(query_rows) else ():
        for start in range(0, len(query_rows), _QUERIES):
            block = slice(start, start + _QUERIES)
            far_QN = hamming(query_codes[block], codes_NB)
            worst = far_P.max() if len(far_P) == _NEAREST else _FAR
            q, n = np.nonzero((far_QN > radius) & (far_QN <= worst))
            found = np.sort(np.stack([query_rows[block][q], rows_N[n]], 1), axis=1)
            ends_P2 = np.concatenate([ends_P2, found])
            far_P = np.concatenate([far_P, far_QN[q, n]])
            order = np.lexsort((ends_P2[:, 1], ends_P2[:, 0], far_P))
            ends_P2, far_P = ends_P2[order], far_P[order]
            # drawn with drawn is met from both sides
            new = np.r_[True, (ends_P2[1:] != ends_P2[:-1]).any(1)][: len(far_P)]
            ends_P2, far_P = ends_P2[new][:_NEAREST], far_P[new][:_NEAREST]
    keys, far, alike = _compared(codes, ends_P2)
    best = sorted(range(len(far)), key=lambda at: (-alike[at], far[at], keys[at]))[:APART]
    pairs = _pairs(codes, ends_P2[best, 0].tolist(), ends_P2[best, 1].tolist(), [""] * len(best))
    return tuple(Pair(pair.one, replace(pair.other, kept=False)) for pair in pairs), len(query_rows)


def _kept_codes(table: LongTable, codes: LongTable) -> Iterator[tuple[Ints, NDArray[np.uint8]]]:
    """Rows (N,) and codes (N, bytes) of all kept crops, in blocks of some size."""
    rows: list[Ints] = []
    packed: list[NDArray[np.uint8]] = []
    for (first, kept), (_, own) in zip(table.tables(["keep"]), codes.tables(["code"]), strict=True):
        keep = kept["keep"].to_numpy(bool)
        if keep.any():
            rows.append(first + np.flatnonzero(keep))
            packed.append(stacked(own["code"].to_numpy()[keep].tolist()))
        if sum(map(len, rows)) >= _BLOCK:
            yield np.concatenate(rows), np.concatenate(packed)
            rows, packed = [], []
    if rows:
        yield np.concatenate(rows), np.concatenate(packed)


def _source(photo: Mapping[str, object]) -> Source:
    page, url = (str(photo[name] or "") for name in ("page_url", "url"))
    link = next((each for each in (page, url) if each.startswith(("http://", "https://"))), "")
    return Source(link, url.rpartition("/")[2] or url)
