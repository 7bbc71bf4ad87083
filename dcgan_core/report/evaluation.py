"""What the labelled sets say of the features, with the caveats a reader needs."""

from __future__ import annotations

import json
from typing import Any

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.config import PipelineConfig
from dcgan_core.evaluate.score_table import OF_IMAGES, measure_lines
from dcgan_core.report.content import Confusion, Quality, QualityRow, ScoredSet, ScoreRow
from dcgan_core.report.examples import sheet_picture
from dcgan_core.storage import Store

LEARNED = "discriminator"
"""Name of the row that is about what was trained; all others are there to compare with."""

_SMALL_TEST = 200
_FEW_SAMPLES = 10_000


def scored_sets(store: Store, scores: Manifest | None, config: PipelineConfig) -> tuple[ScoredSet, ...]:
    """The labelled sets in the order of the configuration; none where nothing was judged."""
    if scores is None:
        return ()
    kinds = {spec.name: spec.kind for spec in config.evaluate.sets}
    by_set: dict[str, list[dict[str, Any]]] = {}
    for file in scores.named("scores-"):
        score = json.loads(read_part(store, scores.address, file))
        by_set.setdefault(score["set"], []).append(score)
    found = []
    for name, same in by_set.items():
        first, lines = same[0], [row for score in same for row in score["rows"]]
        rows = tuple(_score_row(score["kind"], row) for score in same for row in score["rows"])
        seen = kinds.get(name) == "lfw" and config.scrape.source == "demo"
        found.append(
            ScoredSet(
                name=name,
                source=first["source"],
                classes=len(first["classes"]),
                train=first["train"],
                test=first["test"],
                rows=rows,
                confusion=_confusion(lines, first["classes"]),
                notes=tuple(_notes(rows, first["test"], seen)),
            )
        )
    return tuple(found)


def _score_row(kind: str, row: dict[str, Any]) -> ScoreRow:
    name = "k" if kind == "knn" else "C"
    return ScoreRow(
        features=row["features"],
        protocol=row["protocol"],
        width=row["width"],
        accuracy=row["accuracy"],
        low=row["ci95"][0],
        high=row["ci95"][1],
        sd=row["sd"],
        chosen="" if row["c"] is None else f"{name} = {row['c']:g}",
        converged=row["converged"],
    )


def quality(store: Store, manifest: Manifest | None) -> Quality | None:
    """The measures of the generator, in the order of the configuration; None where none was asked for."""
    if manifest is None:
        return None
    files = manifest.named("quality-")
    if not files:
        return None
    measures = [json.loads(read_part(store, manifest.address, file)) for file in files]
    counts: dict[str, int] = {}
    for measure in measures:
        for what, count in measure["images"].items():
            counts[what] = max(count, counts.get(what, 0))
    rows = [
        QualityRow(line.title, line.value, line.real, line.meaning)
        for measure in measures
        for line in measure_lines(measure)
    ]
    pictures = manifest.named("closest-")
    alt = "Pairs of a sample and the training image nearest to it"
    notes = []
    if not measures[0]["unseen"] and any(measure["measure"] == "pixels" for measure in measures):
        notes.append(
            "The real images of the nearest-sample distances are training images, so learning by heart "
            "lowers them: hold images out (train.held_out), or name a labelled set (evaluate.quality_set)."
        )
    if measures[0]["unseen"] not in ("", "train.held_out"):
        notes.append(
            f"The test images of {measures[0]['unseen']} count as unseen: that is so if none of them was "
            "among the photos the generator was trained on."
        )
    if counts["samples"] < _FEW_SAMPLES:
        notes.append(f"Figures of {counts['samples']:,} samples; they change with the number of samples.")
    return Quality(
        rows=tuple(rows),
        about=" · ".join(f"{count:,} {OF_IMAGES[what]}" for what, count in counts.items()),
        closest=sheet_picture(store, manifest, pictures[0], alt) if pictures else None,
        notes=tuple(notes),
    )


def learned_row(scored: ScoredSet) -> ScoreRow | None:
    """The row of the trained discriminator, of the first protocol where there are several."""
    return next((row for row in scored.rows if row.features == LEARNED), None)


def _confusion(rows: list[dict[str, Any]], classes: list[str]) -> Confusion | None:
    row = next((row for row in rows if row["features"] == LEARNED), None)  # its first protocol
    if row is None:
        return None
    return Confusion(LEARNED, tuple(classes), tuple(tuple(line) for line in row["confusion"]))


def _notes(rows: tuple[ScoreRow, ...], test: int, seen: bool) -> list[str]:
    notes = []
    if seen:
        notes.append(
            "The faces of this set are the very faces the demo's photos were made from: the discriminator "
            "has seen them, without labels, while it was trained. This number is no measure of how it "
            "does on new people."
        )
    if test < _SMALL_TEST:
        notes.append(
            f"The test part is small: one image of {test} is worth {100 / test:.1f} percentage points. "
            "Read the interval, not the number."
        )
    learned = next((row for row in rows if row.features == LEARNED), None)
    for row in rows:
        if learned is None or row is learned or row.protocol != learned.protocol:
            continue
        if row.high >= learned.low and row.low <= learned.high:
            notes.append(
                f"The intervals of the discriminator and of {row.features} overlap: their difference may be "
                "chance."
            )
    unsettled = ", ".join(f"{row.features} ({row.protocol})" for row in rows if not row.converged)
    if unsettled:
        notes.append(f"The solver stopped before it had converged on: {unsettled}.")
    return notes
