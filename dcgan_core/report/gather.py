"""Everything a report says, read from finished artifacts; not how it looks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dcgan_core.artifacts import Address, Manifest, read_manifest, read_part
from dcgan_core.config import Json, PipelineConfig, describe
from dcgan_core.report.content import (
    ArtifactRow,
    Content,
    Data,
    Drop,
    Figure,
    FunnelStep,
    KeyNumber,
    ScoredSet,
    Setting,
)
from dcgan_core.report.evaluation import learned_row, quality, scored_sets
from dcgan_core.report.examples import (
    crop_examples,
    group_examples,
    photo_examples,
    reasons,
    sheet_picture,
)
from dcgan_core.report.training import training
from dcgan_core.storage import Store

GALLERY = "index.html"
"""First page of the gallery, among its parts."""
MAX_GROUPS = 24


def gather(store: Store, manifests: Mapping[str, Manifest], config: PipelineConfig, preset: str) -> Content:
    """The content of a report over artifacts by kind (``photos``, ``crops``, ``train``, ...).

    Sections whose artifact is not among them are empty. Raises CorruptArtifact where a file differs from
    its manifest.
    """
    scores = scored_sets(store, manifests.get("scores"), config)
    known = _with_inputs(store, manifests)
    return Content(
        title=config.report.title,
        preset=preset,
        seed=config.seed,
        finished=max((manifest.finished for manifest in known), default=None),
        numbers=_numbers(manifests, scores),
        data=_data(store, manifests, config),
        training=training(store, manifests.get("train")),
        figures=_figures(store, manifests.get("figures")),
        scores=scores,
        quality=quality(store, manifests.get("quality")),
        settings=_settings(config),
        artifacts=tuple(_artifact(manifest) for manifest in known),
        surroundings=_surroundings(known),
    )


def _with_inputs(store: Store, manifests: Mapping[str, Manifest]) -> list[Manifest]:
    """The manifests and those they were made from, oldest first."""
    known = {manifest.address: manifest for manifest in manifests.values()}
    for manifest in manifests.values():
        for name, record in manifest.inputs.items():
            address = Address(name, record.fingerprint)
            if address not in known and (there := read_manifest(store, address)):
                known[address] = there
    return sorted(known.values(), key=lambda manifest: (manifest.finished, manifest.address))


def _numbers(manifests: Mapping[str, Manifest], scores: Sequence[ScoredSet]) -> tuple[KeyNumber, ...]:
    numbers = [KeyNumber(step.label, f"{step.count:,}", step.unit) for step in _funnel(manifests)]
    if train := manifests.get("train"):
        steps, seen = train.counts["steps"], train.counts["images_seen"]
        numbers.append(KeyNumber("Steps", f"{steps:,}", f"{seen:,} images seen"))
    for scored in scores:
        if row := learned_row(scored):
            interval = f"{100 * row.low:.0f} to {100 * row.high:.0f} %"
            numbers.append(KeyNumber(f"Accuracy, {scored.name}", f"{100 * row.accuracy:.1f} %", interval))
    return tuple(numbers)


def _funnel(manifests: Mapping[str, Manifest]) -> list[FunnelStep]:
    steps = []
    if photos := manifests.get("photos"):
        steps.append(FunnelStep("Found", "photos", photos.counts["items"]))
        steps.append(FunnelStep("Usable", "photos", photos.counts["ok"]))
    if crops := manifests.get("crops"):
        steps.append(FunnelStep("Cropped", "crops", crops.counts["ok"]))
    if dedup := manifests.get("dedup"):
        steps.append(FunnelStep("Kept", "crops", dedup.counts["kept"]))
    if shards := manifests.get("shards"):
        steps.append(FunnelStep("Training set", "images", shards.counts["samples"]))
    return steps


def _data(store: Store, manifests: Mapping[str, Manifest], config: PipelineConfig) -> Data:
    photos, crops, dedup, codes = (manifests.get(name) for name in ("photos", "crops", "dedup", "codes"))
    gallery = manifests.get("gallery")
    count = config.report.pictures
    drops = []
    if photos:
        drops += _drops(store, photos, "scrape", "photos-")
    if crops:
        drops += _drops(store, crops, "crop", "crops-")
    if dedup:
        near = dedup.counts["near_duplicates"]
        why = f"a better crop is within {config.dedup.radius} bits"
        if (diameter := config.dedup.diameter) is not None and diameter // 2 > config.dedup.radius:
            why += f", or within {diameter // 2} by way of others"
        if bad := dedup.counts["undecodable"]:
            drops.append(Drop("dedup", "undecodable", bad, bad / dedup.counts["crops"], "no readable image"))
        if near:
            drops.append(Drop("dedup", "near_duplicate", near, near / dedup.counts["crops"], why))
    groups = ()
    if dedup and codes and crops and dedup.counts["groups_of_duplicates"]:
        groups = group_examples(store, dedup, codes, crops, min(count, MAX_GROUPS))
    return Data(
        funnel=tuple(_funnel(manifests)),
        drops=tuple(drops),
        photos=photo_examples(store, photos, crops, count) if photos else (),
        crops=crop_examples(store, crops, count) if crops else (),
        groups=groups,
        groups_found=dedup.counts["groups_of_duplicates"] if dedup else 0,
        radius_bits=config.dedup.radius,
        verify=config.dedup.verify,
        gallery=gallery.address.part_path(GALLERY).partition("/")[2] if gallery else "",
    )


def _drops(store: Store, manifest: Manifest, step: str, prefix: str) -> list[Drop]:
    rows = sum(file.rows or 0 for file in manifest.named(prefix))
    dropped = {
        status: count
        for status, count in manifest.counts.items()
        if status not in ("ok", "items", "photos", "carried_over") and count
    }
    words = reasons(store, manifest, prefix) if dropped else {}
    return [
        Drop(step, status, count, count / rows, words.get(status, ""))
        for status, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    ]


def _figures(store: Store, manifest: Manifest | None) -> tuple[Figure, ...]:
    files = {file.name: file for receipt in manifest.parts for file in receipt.files} if manifest else {}
    figures = []
    for name, file in files.items():
        stem = name.removesuffix(".json")
        if manifest is None or stem == name or f"{stem}.png" not in files:
            continue
        about = json.loads(read_part(store, manifest.address, file))
        picture = sheet_picture(store, manifest, files[f"{stem}.png"], about["title"])
        figures.append(Figure(about["title"], about["caption"], picture, about["seed"], about["weights"]))
    return tuple(figures)


def _settings(config: PipelineConfig) -> tuple[Setting, ...]:
    values, defaults = (_flat(each.model_dump(mode="json")) for each in (config, PipelineConfig()))
    return tuple(
        Setting(key, _shown(value), _shown(defaults[key]), value != defaults[key], describe(key))
        for key, value in values.items()
    )


def _flat(sections: Mapping[str, Any]) -> dict[str, Json]:
    """Values by dotted key, in the order in which they are declared."""
    flat: dict[str, Json] = {}
    for name, section in sections.items():
        flat |= (
            {f"{name}.{key}": value for key, value in section.items()}
            if isinstance(section, dict)
            else {name: section}
        )
    return flat


def _shown(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value) or "none"
    if isinstance(value, dict):  # a labelled set
        return " ".join(dict.fromkeys(str(each) for each in value.values() if each))
    if value is None or value == "":
        return "none"
    if isinstance(value, str):
        return re.sub(r"(?<=://)[^/@\s]+@", "", value)  # user and password of a url are nobody's business
    return json.dumps(value)


def _artifact(manifest: Manifest) -> ArtifactRow:
    rows: dict[str, int] = {}
    for file in manifest.files:
        if file.rows is not None and file.name.endswith((".parquet", ".tar")):
            series = re.sub(r"\d+", "", file.name)  # photos and their fetches are the same rows
            rows[series] = rows.get(series, 0) + file.rows
    provenance = manifest.provenance
    return ArtifactRow(
        kind=manifest.artifact,
        fingerprint=manifest.fingerprint,
        bytes=manifest.bytes,
        rows=max(rows.values(), default=0),
        parts=len(manifest.parts),
        parts_reused=provenance.get("parts_reused", 0),
        seconds=provenance.get("seconds", 0.0),
        finished=manifest.finished,
        backend=provenance.get("backend", ""),
    )


def _surroundings(manifests: Sequence[Manifest]) -> tuple[tuple[str, str], ...]:
    """Versions and machines; all that occur, where artifacts were made in different places."""
    found: dict[str, dict[str, None]] = {}
    for provenance in (manifest.provenance for manifest in manifests):
        facts = {"machine": provenance.get("host"), "commit": provenance.get("git")}
        facts |= {"Python": provenance.get("python"), **provenance.get("packages", {})}
        for name, value in facts.items():
            if value:
                found.setdefault(name, {})[str(value)] = None
    return tuple((name, ", ".join(values)) for name, values in found.items())
