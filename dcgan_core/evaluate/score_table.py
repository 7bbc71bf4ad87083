"""What a finished evaluation says, as lines of tables for whoever shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.evaluate.paper_tables import papers_accuracy
from dcgan_core.storage import Store

HEAD: tuple[str, ...] = ("set", "learned from", "features", "accuracy %", "sd", "train", "test", "note")
"""What the cells of a line are."""
NUMBERS = (3, 4, 5, 6)
"""Columns that lean right."""


@dataclass(frozen=True)
class ScoreLine:
    """One kind of features of one set, judged in one way."""

    set: str
    protocol: str
    features: str
    accuracy: float
    """A share of the test images, mean over folds or draws."""
    sd: float | None
    """Standard deviation over folds or draws; None for a single one."""
    train: int
    test: int
    converged: bool
    paper: float | None = None
    """Percent that the paper reports for what this replicates."""

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of ``HEAD``, accuracies in percent."""
        return (
            self.set,
            self.protocol,
            self.features,
            f"{100 * self.accuracy:.2f}",
            "" if self.sd is None else f"{100 * self.sd:.2f}",
            f"{self.train:,}",
            f"{self.test:,}",
            "; ".join(self._notes()),
        )

    def _notes(self) -> Iterator[str]:
        if self.paper is not None:
            yield f"paper: {self.paper:.2f}"
        if not self.converged:
            yield "the solver had not converged"


def score_lines(store: Store, scores: Manifest) -> list[ScoreLine]:
    """All that a `scores` artifact says: sets in its order, their protocols, then the kinds of features."""
    found = []
    for file in scores.named("scores-"):
        score = json.loads(read_part(store, scores.address, file))
        found += [
            ScoreLine(
                set=score["set"],
                protocol=row["protocol"],
                features=row["features"],
                accuracy=row["accuracy"],
                sd=row["sd"],
                train=row["train"],
                test=row["test"],
                converged=row["converged"],
                paper=papers_accuracy(score["set"], score["protocol"], score["kind"], row),
            )
            for row in score["rows"]
        ]
    places: dict[tuple[str, ...], int] = {}
    for line in found:
        for name in ((line.set,), (line.set, line.protocol)):
            places.setdefault(name, len(places))
    return sorted(found, key=lambda line: (places[line.set,], places[line.set, line.protocol]))


QUALITY_HEAD: tuple[str, ...] = ("generator", "samples", "real images", "compared", "meaning")
"""What the cells of a line about samples are."""


@dataclass(frozen=True)
class QualityLine:
    """A figure of the generator's samples, in words."""

    title: str
    value: str
    real: str
    """The same of real images; empty where there is none."""
    meaning: str
    compared: str
    """How many images of which kind."""

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of ``QUALITY_HEAD``."""
        return self.title, self.value, self.real, self.compared, self.meaning


def quality_lines(store: Store, quality: Manifest) -> list[QualityLine]:
    """All that a `quality` artifact says, measures in the order of the configuration."""
    found = []
    for file in quality.named("quality-"):
        measure = json.loads(read_part(store, quality.address, file))
        found += measure_lines(measure)
    return found


def measure_lines(measure: Mapping[str, Any]) -> list[QualityLine]:
    """The lines of one measure as its file holds it."""
    words = [f"{count:,} {OF_IMAGES[what]}" for what, count in measure["images"].items()]
    return [
        QualityLine(
            title=value["title"],
            value=_figure(value["value"], value["error"]),
            real=_figure(value["real"]),
            meaning=value["meaning"],
            compared=", ".join(words),
        )
        for value in measure["values"]
    ]


OF_IMAGES = {
    "samples": "samples",
    "real": "real images",
    "training": "training images",
    "unseen": "unseen images",
}
"""What images of a measure are called."""


def _figure(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
