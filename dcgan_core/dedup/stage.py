"""The stage `dedup`: an autoencoder learned from the crops, a code for each, and one kept of each group."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Manifest, Receipt, read_part, write_part
from dcgan_core.config import DedupConfig, Json
from dcgan_core.errors import CorruptArtifact, DecodeError
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import encode_table, read_all, read_rows, write_rows

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
    """Groups of crops whose codes are near, and which one of each group is kept."""

    artifact: ClassVar[str] = "dedup"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "crops"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("radius", "verify", "diameter", "rank")

    def plan(self, store: Store) -> Sequence[Part]:
        manifest = self.input_manifest(store, "codes")
        return [Part(0, self.part_key(manifest.content), None, manifest.counts["crops"])]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        rows, refused = deduplicated(self._codes(store), self.config)
        table = pa.Table.from_pandas(rows, schema=DEDUP, preserve_index=False)
        data = encode_table(table.replace_schema_metadata(None))
        file = write_part(store, self.address, "dedup-00000.parquet", data, rows=len(rows))
        sizes = np.unique(rows["group"].dropna(), return_counts=True)[1]
        whys = Counter(rows["why"])
        counts = {
            "crops": len(rows),
            "kept": len(sizes),
            "near_duplicates": int(sizes.sum()) - len(sizes),
            "groups_of_duplicates": int((sizes > 1).sum()),
            "largest_group": int(sizes.max()) if len(sizes) else 0,
            "unlike_pairs": refused,
        }
        counts |= {why: whys[why] for why in ("undecodable", *WHYS)}
        return Receipt(part=0, key=part.key, files=(file,), counts=counts)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts)

    def _codes(self, store: Store) -> pd.DataFrame:
        manifest = self.input_manifest(store, "codes")
        columns = [name for name in CODES.names if name != "luma" or self.config.verify]
        table = read_all(store, manifest, "codes-", columns).to_pandas()
        lengths = {len(code) for code in table.loc[table["status"] == "ok", "code"]}
        if len(lengths) > 1:
            raise CorruptArtifact(str(manifest.address), f"it has codes of {sorted(lengths)} bytes")
        return table


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


def deduplicated(table: pd.DataFrame, config: DedupConfig) -> tuple[pd.DataFrame, int]:
    """Rows of ``DEDUP``, sorted by key, for rows of ``CODES`` in any order, and how many pairs of near codes
    were refused since their pictures are not alike."""
    from dcgan_core.dedup.codes import correlation
    from dcgan_core.dedup.groups import group
    from dcgan_core.dedup.neighbours import distances, links_within

    table = table.sort_values("key", ignore_index=True)
    good = cast(pd.DataFrame, table.loc[table["status"] == "ok"]).reset_index(drop=True)
    codes = stacked(good["code"].tolist())
    diameter = 2 * config.radius if config.diameter is None else config.diameter
    verify = config.verify
    luma = stacked(good["luma"].tolist()) if verify else np.empty((0, 0), np.uint8)

    def alike(pairs_P2: NDArray[np.int64]) -> NDArray[np.bool_]:
        blocks = np.array_split(pairs_P2, len(pairs_P2) // _PAIRS_PER_BLOCK + 1)
        found = [correlation(luma[block[:, 0]], luma[block[:, 1]]) >= verify for block in blocks]
        return np.concatenate(found)

    links = links_within(codes, config.radius)
    rank = quality_rank(good, config.rank)
    groups = group(codes, links, rank, diameter, alike if verify else None)
    distance = distances(codes, np.stack([np.arange(len(good)), groups.keeper_N], axis=1))

    def of_kept(column: str) -> NDArray[np.object_]:
        return np.array(good[column], object)[groups.keeper_N]

    kept_key = of_kept("key")
    same_file, same_pixels = (
        np.array(good[column], object) == of_kept(column) for column in ("file_hash", "pixel_hash")
    )
    why = np.select(
        [groups.kept_N, same_file, same_pixels, distance == 0, distance <= config.radius],
        np.array(["", *WHYS[:4]], object),
        default=WHYS[4],
    )
    rows = pd.DataFrame(
        {
            "key": good["key"],
            "keep": groups.kept_N,
            "group": kept_key,
            "kept_key": kept_key,
            "distance": pd.array(distance, "Int32"),
            "why": pd.Series(why, dtype=object).where(~groups.kept_N, None),
        }
    )
    bad = table.loc[table["status"] != "ok", ["key", "status"]].rename(columns={"status": "why"})
    rows = pd.concat([rows, bad.assign(keep=False)]) if len(bad) else rows
    return rows.sort_values("key", ignore_index=True), groups.refused


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


def share(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
