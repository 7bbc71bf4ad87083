"""Recall and precision of the semantic hash on generated near duplicates, beside other ways to find them.

python -m benchmarks.dedup_quality [--photos FOLDER] [--set cifar|faces] [--queries 500] [--peer PYTHON]

FOLDER (default $DCGAN_TEST_DATA) holds cifar10-train.parquet, face-photos.tar and models/. Variants of
``queries`` pictures are compared with every picture of the set. A source that already has another picture of
the set within a correlation of 0.95 of its 32x32 pixels is left out: a hit on that one would not be false.
Each way is judged at its largest radius with precision >= 0.99 over all variants together. PYTHON is that of
a virtual environment with imagededup; its hashes are taken of the same 32x32 thumbnails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.common import print_result
from benchmarks.crop import first
from dcgan_core import images
from dcgan_core.config import CropConfig, DedupConfig
from dcgan_core.crop.cutters import open_cutter
from dcgan_core.crop.photo import Photo
from dcgan_core.dedup.autoencoder import Autoencoder
from dcgan_core.dedup.codes import (
    activations,
    bit_statistics,
    encode,
    luma,
    median_thresholds,
    thumbnail,
    verified_distances,
)
from dcgan_core.dedup.evaluation import SAME_FROM, standardised
from dcgan_core.dedup.neighbours import hamming
from dcgan_core.dedup.scoring import Trial, by_radius, suggest
from dcgan_core.dedup.stage import fit_as
from dcgan_core.dedup.variants import KINDS, MIRRORED, make_variant
from dcgan_core.images import Rgb

Thumbs = NDArray[np.uint8]

PRECISION = 0.99
GOALS = {"jpeg": 0.95, "scale": 0.95, "brightness": 0.95, "crop-5": 0.7}
PEER = """
import sys, numpy as np
from imagededup.methods import DHash, PHash
given = np.load(sys.argv[1])
found = {}
for name, method in (("phash", PHash(verbose=False)), ("dhash", DHash(verbose=False))):
    for part in given.files:
        pictures = np.ascontiguousarray(given[part].transpose(0, 2, 3, 1))
        codes = [int(method.encode_image(image_array=each), 16) for each in pictures]
        found[name + " " + part] = np.array(codes, np.uint64)[:, None].view(np.uint8)
np.savez(sys.argv[2], **found)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--set", choices=("cifar", "faces"), default="cifar")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--peer", type=Path, help="python of a virtual environment with imagededup")
    options = parser.parse_args()
    if options.photos is None:
        parser.error("give --photos, or set DCGAN_TEST_DATA to the folder with the pictures")
    cv2.setNumThreads(1)
    pictures = cifar(options.photos) if options.set == "cifar" else faces(options.photos)
    thumbs = np.stack([thumbnail(each) for each in pictures])
    chosen = np.random.default_rng(0).choice(
        len(pictures), min(options.queries, len(pictures)), replace=False
    )
    variants = {
        kind: np.stack([thumbnail(make_variant(pictures[i], kind, [0, int(i)])) for i in chosen])
        for kind in KINDS
    }
    judge = Judge(thumbs, chosen, variants)
    ways: dict[str, Any] = {}
    for name, config in {"default": DedupConfig(), "paper": DedupConfig(method="paper")}.items():
        started = time.perf_counter()
        model = fit_as(config, thumbs, seed=0).model
        seconds = time.perf_counter() - started
        for threshold in dict.fromkeys((config.threshold, "zero", "median")):
            bits = np.zeros(config.code_bits)
            if threshold == "median":
                bits = median_thresholds(activations(model, thumbs))
            label = name if threshold == config.threshold else f"{name}, threshold={threshold}"
            ways[label] = judge(label, lambda given, m=model, b=bits: encode(m, given, b), hamming, 40)
            ways[label]["at_default_radius"] = judge.at(config.radius)
            if label == "default" and config.verify:
                unverified, label = ways.pop(label), "default"
                ways["default, verify=0"] = unverified
                verified = partial(
                    verified_distances,
                    code_bytes=config.code_bits // 8,
                    verify=config.verify,
                    verify_step=config.verify_step,
                    limit=40,
                )

                def described(given: Thumbs, m: Autoencoder = model, b: NDArray[Any] = bits) -> NDArray[Any]:
                    return np.hstack([encode(m, given, b), [luma(each) for each in given]])

                ways[label] = judge(label, described, verified, 40)
                ways[label]["at_default_radius"] = judge.at(config.radius)
            spread = bit_statistics(encode(model, thumbs, bits))
            ways[label] |= {
                "training_seconds": round(seconds, 1),
                "bit_means": [round(float(spread.mean_B.min()), 3), round(float(spread.mean_B.max()), 3)],
                "mean_absolute_correlation": round(spread.mean_absolute_correlation, 3),
            }
    ways["pixels, standardised"] = judge("pixels, standardised", standardised, pixel_distance, 127)
    if options.peer:
        parts = {"set": thumbs, **variants}
        codes = peer_codes(options.peer, parts)
        name_of = {id(each): name for name, each in parts.items()}
        for method in ("phash", "dhash"):
            ways[method] = judge(
                method, lambda given, m=method: codes[f"{m} {name_of[id(given)]}"], hamming, 20
            )
    hashes = [ways[each]["mean_recall"] for each in ("phash", "dhash") if each in ways]
    print_result(
        f"dedup_quality {options.set}",
        [ways["default"]["mean_recall"]],
        f"mean recall over transforms at precision {PRECISION}",
        peer="the better of imagededup's phash and dhash" if hashes else None,
        peer_values=[max(hashes)] if hashes else None,
        pictures=len(pictures),
        queries=int(judge.clean.sum()),
        left_out=int((~judge.clean).sum()),
        goals={
            kind: [ways["default"]["recall"][kind], goal]
            for kind in KINDS
            for prefix, goal in GOALS.items()
            if kind.startswith(prefix)
        },
        ways=ways,
    )


class Judge:
    """The variants of one set, and how many of them a way of comparing finds again."""

    def __init__(self, thumbs: Thumbs, chosen: NDArray[np.int64], variants: dict[str, Thumbs]) -> None:
        self.thumbs, self.chosen, self.variants = thumbs, chosen, variants
        correlation = standardised(thumbs[chosen]) @ standardised(thumbs).T
        correlation[np.arange(len(chosen)), chosen] = -1
        self.clean = correlation.max(1) < SAME_FROM
        self.trial: Trial | None = None

    def __call__(
        self, label: str, way: Callable[[Thumbs], NDArray[Any]], distance: Callable[..., Any], limit: int
    ) -> dict[str, Any]:
        """Recall by kind and the rest at the largest radius of enough precision; prints a line."""
        kinds = [kind for kind in KINDS if kind != MIRRORED]
        queries = np.concatenate([way(self.variants[kind]) for kind in kinds])
        self.trial = trial = Trial(queries, np.tile(self.chosen, len(kinds)), limit, distance)
        base = way(self.thumbs)
        for start in range(0, len(base), 8192):
            block = slice(start, start + 8192)
            trial.add(base[block], np.arange(len(base))[block])
        clean = np.tile(self.clean, len(kinds))
        rows = by_radius(trial.own_R(clean), trial.others_R(clean), limit)
        radius = suggest(rows, PRECISION, sure=False)
        if radius is None:
            print(f"{label}: no radius has a precision of {PRECISION}", flush=True)
            return {"radius": None, "mean_recall": 0.0, "recall": dict.fromkeys(KINDS, 0.0)}
        found = self.at(radius)
        print(f"{label}: radius {radius}, {found}", flush=True)
        return {"radius": radius, **found}

    def at(self, radius: int) -> dict[str, Any]:
        """What the last way judged finds at some radius."""
        assert self.trial is not None
        trial, kinds = self.trial, [kind for kind in KINDS if kind != MIRRORED]
        clean = np.tile(self.clean, len(kinds))
        row = by_radius(trial.own_R(clean), trial.others_R(clean), trial.limit)[radius]
        own_KQ = trial.own_Q.reshape(len(kinds), -1)[:, self.clean]
        recall = {kind: round(float((own_KQ[k] <= radius).mean()), 3) for k, kind in enumerate(kinds)}
        return {
            "precision": round(row.precision.value, 4),
            "mean_recall": round(row.recall.value, 4),
            "recall": recall,
        }


def pixel_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.int64]:
    """Euclidean distance of standardised pixels, 0 to 2, in steps of 1/100."""
    return np.rint(100 * np.sqrt(np.maximum(0, 2 - 2 * (one @ other.T)))).astype(np.int64)


def cifar(folder: Path) -> list[Rgb]:
    """The 50,000 training pictures."""
    table = pq.read_table(folder / "cifar10-train.parquet", columns=["image"])
    return [images.decode_rgb(each.as_py(), max_pixels=10**7) for each in table["image"]]


def faces(folder: Path) -> list[Rgb]:
    """What YuNet cuts from face-photos.tar."""
    cutter = open_cutter(CropConfig(method="yunet", weights=str(folder / "models" / "yunet_n_640_640.onnx")))
    return [
        images.decode_rgb(row["image"], max_pixels=10**8)
        for number, photo in enumerate(first(folder / "face-photos.tar", 10**6))
        for row in cutter(Photo(str(number), None, None, photo))
        if row["status"] == "ok"
    ]


def peer_codes(python: Path, parts: dict[str, Thumbs]) -> dict[str, NDArray[np.uint8]]:
    """imagededup's perceptual hashes of thumbnails, as packed codes (N, 8)."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/in.npz", **parts)  # type: ignore[arg-type]
        subprocess.run(
            [str(python), "-c", PEER, f"{folder}/in.npz", f"{folder}/out.npz"], check=True, cwd=folder
        )
        with np.load(f"{folder}/out.npz") as found:
            return {name: found[name] for name in found.files}


if __name__ == "__main__":
    main()
