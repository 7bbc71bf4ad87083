"""The model card: what a model was trained on and how, what it scored, what it must not be used for."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dcgan_core.artifacts import FLAG, Address, Manifest, all_manifests, read_part, readable_manifest
from dcgan_core.attribution import kept_photos
from dcgan_core.errors import ConfigError, MissingArtifact
from dcgan_core.models.dcgan import parameter_count
from dcgan_core.models.opening import Opened
from dcgan_core.models.sampling import IN_WORDS, Weights
from dcgan_core.storage import Store

LICENCES_SHOWN = 12
FEW_IMAGES = 5_000
"""Sets that are smaller are learned by heart in part (the same mark as the report's)."""

_SOURCES = {
    "demo": "photo-like pages composed of the 100 faces and 100 non-faces of LFW inside scikit-image",
    "search": "photos that a search engine found for names of people",
    "urls": "photos at a list of web addresses",
    "folder": "a folder of photos",
    "imagefolder": "a folder of photos, one sub-folder a class",
    "parquet": "a data set in parquet files",
    "webdataset": "a data set in WebDataset tars",
}


@dataclass
class Data:
    """The way from photos to training images, as far as its artifacts are there."""

    source: str = ""
    funnel: list[tuple[str, int]] = field(default_factory=list)
    licences: list[tuple[str, int]] = field(default_factory=list)
    """Licence as the source names it, and photos kept."""
    faces: bool | None = None
    """Whether faces were cut out; None where it is not known."""
    changed: bool = False
    """Whether something on the way has been made anew with other content since."""
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """Accuracy of a linear classifier on one kind of features of a labelled set, with its 95 % interval."""

    set: str
    features: str
    accuracy: float
    low: float
    high: float
    test: int


def write_card(
    opened: Opened, weights: Weights, licence: str, path: Path, samples: int, samples_seed: int
) -> None:
    """Write the card as Markdown with a YAML heading; text from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("dcgan_core.models"),
        autoescape=False,  # noqa: S701  (Markdown: see plain)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "thousands": "{:,}".format, "percent": _percent}
    model, manifest = opened.model, opened.manifest
    known = opened.store is not None and manifest is not None
    config = {name: value for name, value in opened.facts.get("config", {}).items() if name != "spec"}
    counts = opened.facts.get("counts", {})
    text = environment.get_template("card.md.j2").render(
        spec=model.spec,
        weights=IN_WORDS[weights],
        is_average=weights == "ema",
        has_average=model.ema is not None,
        has_discriminator=model.judge is not None,
        g_parameters=parameter_count(model.generator),
        d_parameters=parameter_count(model.judge) if model.judge is not None else 0,
        licence=licence,
        samples=samples,
        samples_seed=samples_seed,
        config=config,
        counts=counts,
        seed=opened.facts.get("seed"),
        repeats=_repeats(counts),
        few=0 < counts.get("samples", FEW_IMAGES) < FEW_IMAGES,
        data=data_of(opened.store, manifest) if opened.store and manifest else Data(missing=["all"]),
        scores=scores_of(opened.store, manifest) if opened.store and manifest else [],
        known=known,
        forgotten=manifest.metrics.get(FLAG, 0) if manifest else 0,
        artifact=str(manifest.address) if manifest else "",
        made=manifest.provenance if manifest else {},
    )
    path.write_text(re.sub(r"\n{3,}", "\n\n", text), "utf-8")  # sections that are left out leave gaps


def data_of(store: Store, train: Manifest) -> Data:
    """Counts, source and licences of the photos that a train artifact follows from."""
    above, changed = _above(store, train)
    data = Data(changed=changed)
    data.missing = [kind for kind in ("photos", "crops", "dedup", "shards") if kind not in above]
    steps = (
        ("photos found", "photos", "items"),
        ("photos usable", "photos", "ok"),
        ("crops", "crops", "ok"),
        ("crops kept after near duplicates were left out", "dedup", "kept"),
        ("training images", "shards", "samples"),
    )
    data.funnel = [
        (words, above[kind].counts[count])
        for words, kind, count in steps
        if kind in above and count in above[kind].counts
    ]
    if crops := above.get("crops"):
        data.faces = crops.config.get("method") != "center"
    if photos := above.get("photos"):
        source = str(photos.config.get("source", ""))
        data.source = _SOURCES.get(source, f"the data set {source}" if source else "photos of the web")
    if not data.missing:
        data.licences = _licences(store, above["shards"])
    return data


def scores_of(store: Store, train: Manifest) -> list[Score]:
    """What the newest evaluation of these very weights found; nothing where there is none."""
    for scores in reversed(all_manifests(store, "scores")):
        features = scores.inputs.get("features")
        made = readable_manifest(store, Address("features", features.fingerprint)) if features else None
        used = made.inputs.get("train") if made else None
        if used and (used.fingerprint, used.content) == (train.fingerprint, train.content):
            return [score for file in scores.named("scores-") for score in _scores(store, scores, file.name)]
    return []


def plain(value: Any, most: int = 100) -> str:
    """Text as itself in a Markdown table: one line, no markup, cut where it is long."""
    text = " ".join(str(value).split())
    text = text if len(text) <= most else text[: most - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]()#!|~])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _above(store: Store, manifest: Manifest) -> tuple[dict[str, Manifest], bool]:
    """The artifacts that one was made from, by kind, and whether any has other content by now."""
    found: dict[str, Manifest] = {}
    changed, waiting = False, [manifest]
    while waiting:
        for kind, record in waiting.pop().inputs.items():
            there = readable_manifest(store, Address(kind, record.fingerprint))
            if there is not None and kind not in found:
                changed |= there.content != record.content
                found[kind] = there
                waiting.append(there)
    return found, changed


def _licences(store: Store, shards: Manifest) -> list[tuple[str, int]]:
    """Photos kept by licence, commonest first; the rest as one line."""
    try:
        counted = Counter(
            str(photo["licence"] or "").strip() or "not stated" for photo in kept_photos(store, shards)
        )
    except (ConfigError, MissingArtifact):  # some of them are gone, or it was made otherwise
        return []
    shown = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    rest = sum(count for _, count in shown[LICENCES_SHOWN:])
    return shown[:LICENCES_SHOWN] + ([("others", rest)] if rest else [])


def _scores(store: Store, scores: Manifest, name: str) -> list[Score]:
    (file,) = (file for file in scores.files if file.name == name)
    score = json.loads(read_part(store, scores.address, file))
    return [
        Score(score["set"], row["features"], row["accuracy"], row["ci95"][0], row["ci95"][1], score["test"])
        for row in score["rows"]
    ]


def _repeats(counts: dict[str, int]) -> float:
    """How often each training image was shown."""
    seen = counts.get("samples", 0) - counts.get("held_out", 0)
    return counts.get("images_seen", 0) / seen if seen else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
