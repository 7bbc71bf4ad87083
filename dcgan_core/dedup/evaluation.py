"""How well codes tell the near duplicates of a set: on pairs labelled by hand, or on generated variants."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Manifest
from dcgan_core.dedup.autoencoder import PIXELS
from dcgan_core.dedup.codes import encode, luma, thumbnail, verified_distances
from dcgan_core.dedup.neighbours import distances, hamming
from dcgan_core.dedup.scoring import Counts, Row, Trial, by_radius, histogram
from dcgan_core.dedup.similarity import alike
from dcgan_core.dedup.stage import Codes, stacked
from dcgan_core.dedup.variants import KINDS, MIRRORED, make_variant
from dcgan_core.errors import ConfigError, DecodeError, NoUsableData
from dcgan_core.held_out import share
from dcgan_core.images import Rgb
from dcgan_core.progress import Progress, silent
from dcgan_core.storage import Store
from dcgan_core.tables import read_all, read_rows

SAME_FROM = 0.95
"""Correlation of two crops' 32x32 pixels from which they count as copies that the set holds already."""

_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
_PAIR_COLUMNS = ("a", "b", "duplicate")


@dataclass(frozen=True)
class Evaluation:
    """Scores by radius, and of generated variants the recall of each kind by radius."""

    rows: list[Row]
    recall_of_kind: dict[str, list[float]]
    pairs: int
    """Pairs that are duplicates."""
    pictures: int
    """Crops compared with."""
    unclear: int = 0
    """Pairs of a crop and another that looks the same: variants of the one near the other are not judged."""


def evaluate_pairs(
    store: Store, codes: Manifest, path: Path, limit: int, verify: float = 0.0, verify_step: float = 0.0
) -> Evaluation:
    """Score a csv or parquet file of pairs of crop keys ``a``, ``b`` and whether they are a ``duplicate``.

    Pairs whose pictures are not ``alike`` are called duplicates at no radius. Raises
    ConfigError for a file that cannot be used, naming the column, line or key.
    """
    pairs = _read_pairs(path)
    table = read_all(store, codes, "codes-", ["key", "code", "luma"]).to_pandas()
    place = {key: at for at, key in enumerate(table["key"])}
    for name in ("a", "b"):
        unknown = sorted({key for key in pairs[name] if key not in place})
        if unknown:
            raise ConfigError(
                f"{path}: column {name}: {len(unknown)} keys are no crops of {codes.address}, first "
                f"{unknown[0]!r}; keys are those in the tables of codes and dedup"
            )
        pairs = pairs.loc[[table["code"][place[key]] is not None for key in pairs[name]]]
    used = sorted({key for name in ("a", "b") for key in pairs[name]})
    row_of = {key: row for row, key in enumerate(used)}
    packed = stacked([table["code"][place[key]] for key in used])
    ends = np.array([[row_of[a], row_of[b]] for a, b in zip(pairs["a"], pairs["b"], strict=True)], np.int64)
    ends = ends.reshape(-1, 2)
    far = distances(packed, ends)
    if verify:
        lumas = stacked([table["luma"][place[key]] for key in used])
        same_picture = alike(lumas[ends[:, 0]], lumas[ends[:, 1]], far, verify, verify_step)
        far = np.where(same_picture, far, limit + 1)
    same = pairs["duplicate"].to_numpy(bool)
    if not same.any():
        raise ConfigError(f"{path} has no pair that is a duplicate; recall needs at least one")
    rows = by_radius(histogram(far[same], limit), histogram(far[~same], limit), limit)
    return Evaluation(rows, {}, int(same.sum()), len(used))


def evaluate_variants(
    store: Store,
    stage: Codes,
    *,
    sources: int,
    limit: int,
    kinds: Sequence[str] = tuple(KINDS),
    mirrored: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Make variants of ``sources`` crops and look for them among all crops with the stage's encoder.

    A variant found near its own crop is right, one near another crop is wrong. ``mirrored`` says whether a
    mirrored crop is a duplicate: if not, one that is found is wrong. Which crops are taken depends on their
    keys and the seed alone. Raises NoUsableData where no crop is left to judge by.
    """
    crops = stage.input_manifest(store, "crops")
    chosen = _chosen(store, crops, sources, seed)
    number_of = {key: number for number, key in enumerate(chosen)}
    pictures = {
        number_of[key]: rgb
        for key, rgb in _decoded(store, crops, wanted=number_of.keys(), progress=progress, note="sources")
    }
    model, thresholds = stage.encoder(store)
    numbers = np.array(sorted(pictures), np.int64)
    if not len(numbers):
        raise NoUsableData("dedup-eval", dict(crops.counts), "There is no readable crop to make variants of.")
    thumbs = np.stack([thumbnail(pictures[number]) for number in numbers])
    variants = [
        thumbnail(make_variant(pictures[number], kind, [seed, int(number)]))
        for kind in kinds
        for number in numbers
    ]
    source_Q = np.tile(numbers, len(kinds))
    verify = stage.config.verify

    def described(thumbs_N3HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        codes = encode(model, thumbs_N3HW, thresholds)
        return np.hstack([codes, [luma(thumb) for thumb in thumbs_N3HW]]) if verify else codes

    distance = hamming
    if verify:
        code_bytes = len(thresholds) // 8
        steps = {"verify": verify, "verify_step": stage.config.verify_step}
        distance = partial(verified_distances, code_bytes=code_bytes, limit=limit, **steps)
    trial = Trial(described(np.stack(variants)), source_Q, limit, distance)
    unclear = compared = 0
    for keys, block in _blocks(store, crops, progress):
        own_N = np.array([number_of.get(key, -1) for key in keys], np.int64)
        alike_SN = standardised(thumbs) @ standardised(block).T >= SAME_FROM
        alike_SN[numbers[:, None] == own_N[None]] = False
        trial.add(described(block), own_N, np.tile(alike_SN, (len(kinds), 1)))
        unclear += int(alike_SN.sum())
        compared += len(keys)
    kind_Q = np.repeat(np.array(kinds), len(numbers))
    right_Q = (kind_Q != MIRRORED) | mirrored
    own_R: Counts = trial.own_R(right_Q)
    others_R = trial.others_R(np.ones(len(kind_Q), np.bool_)) + trial.own_R(~right_Q)[: limit + 1]
    recall = {}
    for kind in kinds:
        found_R = trial.own_R(kind_Q == kind)
        recall[kind] = (np.cumsum(found_R)[: limit + 1] / max(1, found_R.sum())).tolist()
    return Evaluation(
        by_radius(own_R, others_R, limit),
        recall,
        pairs=int(right_Q.sum()),
        pictures=compared,
        unclear=unclear,
    )


def _read_pairs(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is no table of pairs: {error}") from None
    missing = [name for name in _PAIR_COLUMNS if name not in table.columns]
    if missing:
        raise ConfigError(
            f"{path} lacks the column {missing[0]}; it needs a and b, keys of two crops, and duplicate"
        )
    labels = []
    for line, value in enumerate(table["duplicate"].astype(str).str.strip().str.lower(), 2):
        if value not in _TRUE | _FALSE:
            raise ConfigError(f"{path}, row {line}: duplicate is {value!r}; write true or false")
        labels.append(value in _TRUE)
    return pd.DataFrame({"a": table["a"].astype(str), "b": table["b"].astype(str), "duplicate": labels})


def _chosen(store: Store, crops: Manifest, count: int, seed: int) -> list[str]:
    """Keys of usable crops, drawn by hash."""

    def keys() -> Iterator[str]:
        for file in crops.named("crops-"):
            for row in read_rows(store, crops.address, file, ["key", "status"]).to_pylist():
                if row["status"] == "ok":
                    yield row["key"]

    return heapq.nsmallest(count, keys(), key=lambda key: share(key, seed))


def _blocks(
    store: Store, crops: Manifest, progress: Progress
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Keys and thumbnails of all readable crops, part by part."""
    files = crops.named("crops-")
    for done, file in enumerate(files):
        progress(done, len(files), "comparing")
        pairs = list(_decoded(store, crops, only=file.name))
        if pairs:
            yield [key for key, _ in pairs], np.stack([thumbnail(rgb) for _, rgb in pairs])


def _decoded(
    store: Store,
    crops: Manifest,
    *,
    only: str | None = None,
    wanted: Container[str] | None = None,
    progress: Progress = silent,
    note: str = "",
) -> Iterator[tuple[str, Rgb]]:
    files = [file for file in crops.named("crops-") if only in (None, file.name)]
    for done, file in enumerate(files):
        progress(done, len(files), note)
        for row in read_rows(store, crops.address, file, ["key", "status", "image"]).to_pylist():
            if row["status"] != "ok" or (wanted is not None and row["key"] not in wanted):
                continue
            try:
                yield row["key"], images.decode_rgb(row["image"], max_pixels=2**31)
            except DecodeError:  # a row of the codes says so
                continue


def standardised(thumbs_N3HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails (N, 3072) of mean 0 and length 1: products are correlations."""
    flat = thumbs_N3HW.reshape(-1, PIXELS).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
