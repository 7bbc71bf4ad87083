"""The stage `dedup`: an autoencoder learned from the crops, a code for each, and one kept of each group."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Manifest, Receipt, read_part, write_part
from dcgan_core.config import DedupConfig, Json
from dcgan_core.dedup.licences import openness
from dcgan_core.dedup.links import read_links
from dcgan_core.errors import DecodeError
from dcgan_core.held_out import share
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import LongTable, encode_table, read_rows, some_rows, write_rows

if TYPE_CHECKING:
    from dcgan_core.dedup.autoencoder import Autoencoder, Fit

CODES = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("code", pa.binary()),
        ("file_hash", pa.binary()),
        ("pixel_hash", pa.binary()),
        ("luma", pa.binary()),
        ("score", pa.float32()),
        ("sharpness", pa.float32()),
        ("side", pa.int32()),
    ]
)
"""Every crop: `ok` with a code and what pairs are verified by, or `undecodable` and why. Exact duplicates are
told by 16 bytes of the SHA-256 of the file and of the pixels. One of a group is chosen by the last three."""

DEDUP = pa.schema(
    [
        ("key", pa.string()),
        ("keep", pa.bool_()),
        ("group", pa.string()),
        ("kept_key", pa.string()),
        ("distance", pa.int32()),
        ("why", pa.string()),
    ]
)
"""Every crop: whether it is kept, else which one is kept in its stead, how many bits they differ in, and why
it is left out. A group is named after the crop kept of it.

``why`` is null for kept crops, else: `same_file`, `same_pixels`, `same_code` as the kept one has, `near`
(within the radius of it), `chain` (led to by others that are), or `undecodable` (in no group)."""

WHYS = ("same_file", "same_pixels", "same_code", "near", "chain")
"""Why a crop can be a duplicate, the surest first."""

_HASH_BYTES = 16
_PAIRS_PER_BLOCK = 65_536

_ENCODER_FIELDS = (
    "code_bits",
    "sample_size",
    "noise",
    "shift",
    "dropout",
    "epochs",
    "min_steps",
    "batch_size",
    "learning_rate",
)


@dataclass(frozen=True)
class TrainAutoencoder(Stage):
    """The encoder, its loss curve, and the median of each code unit over the sample."""

    artifact: ClassVar[str] = "autoencoder"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "steps"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_ENCODER_FIELDS)

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(0, self.part_key(self.input_manifest(store, "crops").content), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from safetensors.torch import save

        from dcgan_core.dedup.codes import activations, median_thresholds

        thumbs = self._sample(store, progress)
        trained = fit_as(
            self.config,
            thumbs,
            self.seed,
            lambda step, steps, loss: progress(step, steps, f"loss {loss:.4f}"),
        )
        import torch

        tensors = dict(trained.model.state_dict())
        tensors["median"] = torch.from_numpy(median_thresholds(activations(trained.model, thumbs)))
        losses = "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in trained.losses)
        files = (
            write_part(store, self.address, "autoencoder-00000.safetensors", save(tensors)),
            write_part(store, self.address, "losses-00000.jsonl", losses.encode(), rows=len(trained.losses)),
        )
        metrics = {"loss": trained.losses[-1][1], "steps": trained.losses[-1][0]}
        return Receipt(part=0, key=part.key, files=files, counts={"thumbnails": len(thumbs)}, metrics=metrics)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts, metrics=receipts[0].metrics)

    def _sample(self, store: Store, progress: Progress) -> NDArray[np.uint8]:
        manifest = self.input_manifest(store, "crops")
        wanted = self.config.sample_size / max(1, manifest.counts["ok"])
        thumbs: list[NDArray[np.uint8]] = []
        files = manifest.named("crops-")
        for done, file in enumerate(files):
            progress(done, len(files), "reading crops")
            crops = _crops(store, manifest, file.name)
            if wanted < 1:  # by key, so that the sample of a part does not depend on the other parts
                crops = crops.loc[[share(key, self.seed) < wanted for key in crops["key"]]]
            thumbs += [picture.thumb for picture in _pictures(crops) if isinstance(picture, _Picture)]
        return np.stack(thumbs) if thumbs else np.empty((0, 3, 32, 32), np.uint8)


@dataclass(frozen=True)
class Codes(Stage):
    """A packed code for every crop. A part covers one part of the crops."""

    artifact: ClassVar[str] = "codes"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "crops"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("threshold")

    def plan(self, store: Store) -> Sequence[Part]:
        encoder = self.input_manifest(store, "autoencoder").content
        files = self.input_manifest(store, "crops").named("crops-")
        return [
            Part(index, self.part_key(encoder, file.sha256), file.name, file.rows or 0)
            for index, file in enumerate(files)
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.dedup.codes import bit_counts, encode, luma

        model, thresholds = self.encoder(store)
        crops = _crops(store, self.input_manifest(store, "crops"), part.payload)
        pictures = _pictures(crops)
        good = [picture for picture in pictures if isinstance(picture, _Picture)]
        thumbs = np.stack([picture.thumb for picture in good]) if good else np.empty((0, 3, 32, 32), np.uint8)
        codes = encode(model, thumbs, thresholds)
        left = iter(codes)
        rows = []
        for crop, picture in zip(crops.to_dict("records"), pictures, strict=True):
            row = {name: crop[name] for name in ("key", "score", "sharpness", "side")}
            row["file_hash"] = hashlib.sha256(crop["image"]).digest()[:_HASH_BYTES]
            if isinstance(picture, _Picture):
                row |= {"status": "ok", "code": next(left).tobytes(), "pixel_hash": picture.pixel_hash}
                row["luma"] = luma(picture.thumb).tobytes()
            else:
                row |= {"status": "undecodable", "reason": picture.why}
            rows.append(row)
        file = write_rows(store, self.address, f"codes-{part.index:05d}.parquet", rows, CODES)
        counts = {"crops": len(rows), "undecodable": len(rows) - len(good)}
        # whole numbers, so that the sums do not depend on how crops are divided into parts
        metrics = {"bit_counts": bit_counts(codes).tolist()}
        return Receipt(part=part.index, key=part.key, files=(file,), counts=counts, metrics=metrics)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        from dcgan_core.dedup.codes import statistics_of

        counts: Counter[str] = Counter()
        for receipt in receipts:
            counts.update(receipt.counts)
        coded = counts["crops"] - counts["undecodable"]
        metrics: dict[str, Json] = {}
        if coded:
            both_BB = np.array([receipt.metrics["bit_counts"] for receipt in receipts]).sum(0)
            bits = statistics_of(both_BB, coded)
            metrics = {
                "bit_means": [round(float(mean), 4) for mean in bits.mean_B],
                "mean_absolute_bit_correlation": round(bits.mean_absolute_correlation, 4),
            }
        return Summary(counts={name: counts[name] for name in ("crops", "undecodable")}, metrics=metrics)

    def encoder(self, store: Store) -> tuple[Autoencoder, NDArray[np.float64]]:
        """The trained model and the threshold of each bit (bits,)."""
        from safetensors.torch import load

        from dcgan_core.dedup.autoencoder import Autoencoder

        manifest = self.input_manifest(store, "autoencoder")
        tensors = load(read_part(store, manifest.address, manifest.named("autoencoder-")[0]))
        median = tensors.pop("median").numpy()
        model = Autoencoder(len(median))
        model.load_state_dict(tensors)
        return model, median if self.config.threshold == "median" else np.zeros_like(median)


@dataclass(frozen=True)
class Dedup(Stage):
    """Groups of crops whose codes are near, and which one of each group is kept.

    A table for each table of codes. Only crops that have a link are held in memory together.
    """

    artifact: ClassVar[str] = "dedup"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 3
    unit: ClassVar[str] = "crops"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("radius", "verify", "verify_step", "diameter", "rank")

    def plan(self, store: Store) -> Sequence[Part]:
        contents = [self.input_manifest(store, name).content for name in sorted(self.inputs)]
        return [Part(0, self.part_key(*contents), None, self.input_manifest(store, "codes").counts["crops"])]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        codes = LongTable(store, self.input_manifest(store, "codes"), "codes-")
        links_M2 = read_links(store, self.input_manifest(store, "links"), codes.rows)
        linked_L, ends = np.unique(links_M2, return_inverse=True)
        columns = ["key", "code", "file_hash", "pixel_hash", "score", "sharpness", "side"]
        linked = codes.take(linked_L, columns)
        if "licence" in self.config.rank:
            linked["licence"] = _openness(store, self.input_manifest(store, "photos"), linked["key"])

        def luma_of(places_P: NDArray[np.int64]) -> NDArray[np.uint8]:
            return stacked(codes.take(linked_L[places_P], ["luma"])["luma"].tolist())

        decided, refused = decide(linked, ends.reshape(-1, 2), self.config, luma_of)
        decided.index = pd.Index(linked_L)
        files, counts = [], Counter[str](dict.fromkeys((*_COUNTS, *WHYS), 0))
        for number, (first, table) in enumerate(codes.tables(["key", "status"])):
            own = decided.loc[first : first + len(table) - 1]
            rows = _rows_of(table, first, cast(pd.DataFrame, own))
            name = f"dedup-{number:05d}.parquet"
            files.append(write_part(store, self.address, name, encode_table(rows), rows=len(rows)))
            whys = Counter(rows.column("why").to_pylist())
            counts.update(crops=len(rows), kept=whys.pop(None, 0))
            counts.update(whys)
            progress(first + len(table), codes.rows, "")
        sizes = np.unique(decided["kept_key"], return_counts=True)[1]
        counts["groups_of_duplicates"] = int((sizes > 1).sum())
        counts["largest_group"] = int(sizes.max(initial=min(1, counts["kept"])))
        counts["near_duplicates"] = counts["crops"] - counts["kept"] - counts["undecodable"]
        counts["unlike_pairs"] = refused
        return Receipt(part=0, key=part.key, files=tuple(files), counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts)


_COUNTS = (
    "crops",
    "kept",
    "near_duplicates",
    "groups_of_duplicates",
    "largest_group",
    "unlike_pairs",
    "undecodable",
)


def _openness(store: Store, photos: Manifest, keys: Iterable[str]) -> list[int]:
    """How freely the photo of each crop may be used."""
    photo_of = {key: key.rpartition("_")[0] for key in keys}
    columns = ["key", "licence", "licence_url"]
    found: dict[str, int] = {}
    for file in photos.named("photos-"):
        for row in some_rows(store, photos, file.name, set(photo_of.values()), columns):
            said = [openness(row["licence"]), openness(row["licence_url"])]
            found[row["key"]] = min(filter(None, said), default=0)
    return [found.get(photo, 0) for photo in photo_of.values()]


def _rows_of(table: pd.DataFrame, first: int, decided: pd.DataFrame) -> pa.Table:
    """Rows of ``DEDUP`` for rows of ``CODES`` from number ``first`` on; what is not decided has no link."""
    good = (table["status"] == "ok").to_numpy()
    none = np.full(len(table), None, object)
    places = decided.index.to_numpy() - first
    keep, kept_key, why = (
        good.copy(),
        np.where(good, table["key"], none),
        np.where(good, none, table["status"]),
    )
    distance = np.where(good, np.zeros(len(table), object), none)
    for column, name in ((keep, "keep"), (kept_key, "kept_key"), (distance, "distance"), (why, "why")):
        column[places] = decided[name].to_numpy()
    return pa.Table.from_arrays(
        [
            pa.array(column, field.type, from_pandas=True)
            for column, field in zip(
                (table["key"], keep, kept_key, kept_key, distance, why), DEDUP, strict=True
            )
        ],
        schema=DEDUP,
    )


def fit_as(
    config: DedupConfig,
    thumbs_N3HW: NDArray[np.uint8],
    seed: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Fit:
    """``autoencoder.fit`` with the settings of a configuration."""
    from dcgan_core.dedup.autoencoder import fit

    return fit(
        thumbs_N3HW,
        code_bits=config.code_bits,
        noise=config.noise,
        shift=config.shift,
        dropout=config.dropout,
        epochs=config.epochs,
        min_steps=config.min_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
        on_step=on_step,
    )


def decide(
    linked: pd.DataFrame,
    links_M2: NDArray[np.int64],
    config: DedupConfig,
    luma_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
) -> tuple[pd.DataFrame, int]:
    """Which of some linked crops are kept, and of how many links the pictures are not alike.

    ``linked`` are rows of ``CODES`` that have a code, the links are pairs of their places, and ``luma_of``
    gives what pairs are verified by (P, 256) for places (P,). The result has ``keep``, ``kept_key``,
    ``distance`` and ``why`` of ``DEDUP`` for each.
    """
    from dcgan_core.dedup.groups import group
    from dcgan_core.dedup.neighbours import distances
    from dcgan_core.dedup.similarity import alike

    codes = stacked(linked["code"].tolist())
    diameter = 2 * config.radius if config.diameter is None else config.diameter

    def same_picture(pairs_P2: NDArray[np.int64]) -> NDArray[np.bool_]:
        places_U, ends = np.unique(pairs_P2, return_inverse=True)
        luma, ends = luma_of(places_U), ends.reshape(-1, 2)
        found = [np.empty(0, np.bool_)]
        for start in range(0, len(ends), _PAIRS_PER_BLOCK):
            block = slice(start, start + _PAIRS_PER_BLOCK)
            one, other = luma[ends[block, 0]], luma[ends[block, 1]]
            far = distances(codes, pairs_P2[block])
            found.append(alike(one, other, far, config.verify, config.verify_step))
        return np.concatenate(found)

    rank = quality_rank(linked, config.rank)
    groups = group(codes, links_M2, rank, diameter, same_picture if config.verify else None)
    distance = distances(codes, np.stack([np.arange(len(linked)), groups.keeper_N], axis=1))

    def of_kept(column: str) -> NDArray[np.object_]:
        return np.array(linked[column], object)[groups.keeper_N]

    same_file, same_pixels = (
        np.array(linked[column], object) == of_kept(column) for column in ("file_hash", "pixel_hash")
    )
    why = np.select(
        [groups.kept_N, same_file, same_pixels, distance == 0, distance <= config.radius],
        np.array(["", *WHYS[:4]], object),
        default=WHYS[4],
    )
    columns = {"keep": groups.kept_N, "kept_key": of_kept("key"), "distance": distance}
    columns["why"] = np.where(groups.kept_N, np.array(None, object), why)
    return pd.DataFrame(columns), groups.refused


def quality_rank(table: pd.DataFrame, order: Sequence[str]) -> NDArray[np.int64]:
    """Rank of each crop, 0 the best: by the columns in ``order``, highest first, then by key."""
    ascending = [False] * len(order) + [True]
    best_first = table.sort_values([*order, "key"], ascending=ascending, kind="stable").index.to_numpy()
    rank = np.empty(len(table), np.int64)
    rank[best_first] = np.arange(len(table))
    return rank


def _crops(store: Store, manifest: Manifest, name: str) -> pd.DataFrame:
    """The usable crops of one part."""
    columns = ["key", "status", "score", "sharpness", "width", "height", "image"]
    table = read_rows(store, manifest.address, manifest.named(name)[0], columns).to_pandas()
    table = table.loc[table["status"] == "ok"].reset_index(drop=True)
    table["side"] = table[["width", "height"]].min(axis=1).astype(np.int32)
    return table


@dataclass(frozen=True)
class _Picture:
    thumb: NDArray[np.uint8]
    pixel_hash: bytes


def _pictures(crops: pd.DataFrame) -> list[_Picture | DecodeError]:
    """What is compared of each crop, or why it cannot be decoded."""
    from dcgan_core.dedup.codes import thumbnail

    pictures: list[_Picture | DecodeError] = []
    for data in crops["image"]:
        try:
            rgb = images.decode_rgb(data, max_pixels=2**31)
        except DecodeError as error:
            pictures.append(error)
            continue
        shape = np.array(rgb.shape, "<i8").tobytes()
        digest = hashlib.sha256(shape + np.ascontiguousarray(rgb).tobytes()).digest()
        pictures.append(_Picture(thumbnail(rgb), digest[:_HASH_BYTES]))
    return pictures


def stacked(codes: list[bytes]) -> NDArray[np.uint8]:
    """Packed codes (N, bytes)."""
    if not len(codes):
        return np.empty((0, 0), np.uint8)
    return np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), -1)
