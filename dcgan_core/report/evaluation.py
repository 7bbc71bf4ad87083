"""What the labelled sets say of the features, with the caveats a reader needs."""

from __future__ import annotations

import json

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.config import PipelineConfig
from dcgan_core.report.content import Confusion, ScoredSet, ScoreRow
from dcgan_core.storage import Store

LEARNED = "discriminator"
"""Name of the row that is about what was trained; all others are there to compare with."""

_SMALL_TEST = 200


def scored_sets(store: Store, scores: Manifest | None, config: PipelineConfig) -> tuple[ScoredSet, ...]:
    """The labelled sets in the order of the configuration; none where nothing was judged."""
    if scores is None:
        return ()
    kinds = {spec.name: spec.kind for spec in config.evaluate.sets}
    found = []
    for file in scores.named("scores-"):
        score = json.loads(read_part(store, scores.address, file))
        rows = tuple(
            ScoreRow(
                features=row["features"],
                width=row["width"],
                accuracy=row["accuracy"],
                low=row["ci95"][0],
                high=row["ci95"][1],
                c=row["c"],
                converged=row["converged"],
            )
            for row in score["rows"]
        )
        seen = kinds.get(score["set"]) == "lfw" and config.scrape.source == "demo"
        found.append(
            ScoredSet(
                name=score["set"],
                source=score["source"],
                classes=len(score["classes"]),
                train=score["train"],
                test=score["test"],
                rows=rows,
                confusion=_confusion(score["rows"], score["classes"]),
                notes=tuple(_notes(rows, score["test"], seen)),
            )
        )
    return tuple(found)


def learned_row(scored: ScoredSet) -> ScoreRow | None:
    """The row of the trained discriminator."""
    return next((row for row in scored.rows if row.features == LEARNED), None)


def _confusion(rows: list[dict[str, list[list[int]]]], classes: list[str]) -> Confusion | None:
    row = next((row for row in rows if row["features"] == LEARNED), None)
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
        if learned and row is not learned and row.high >= learned.low and row.low <= learned.high:
            notes.append(
                f"The intervals of the discriminator and of {row.features} overlap: their difference may be "
                "chance."
            )
    unsettled = ", ".join(row.features for row in rows if not row.converged)
    if unsettled:
        notes.append(f"The solver stopped before it had converged on: {unsettled}.")
    return notes
