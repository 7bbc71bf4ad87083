"""Measured scores beside published ones, as a page: what stands in `docs/results.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dcgan_core.evaluate.paper_tables import BESIDE, ERRORS, TABLES, table_of
from dcgan_core.evaluate.published import QUANTITIES, Measured, Table, aligned, markdown
from dcgan_core.evaluate.score_table import measure_lines

_QUADRANTS = 4  # features of K-means for each unit (Coates, Ng and Lee 2011)

HEAD = """# Results

Made by `dcgan results` from the records in `docs/results/`; not edited by hand. Accuracies and errors are
percent; `±` is their standard deviation over folds or draws (a published row may mean something else: its
note says so). "not run": a published row that nobody has replicated here.
"""


_READ_AS = """What each figure means: `docs/quality.md`. `±` is the standard error of nearest-sample
distances, the standard deviation over subsets of kernel distances, and over parts of the Inception score.
Under "real images" copied and nearer share have what is expected of a generator that does not copy."""


@dataclass(frozen=True)
class Record:
    """One labelled set of one run of `evaluate`, with all that somebody needs to do it again."""

    set: str
    protocol: str
    source: str
    classes: int
    train: int
    test: int
    rows: tuple[dict[str, Any], ...]
    """As the stage `scores` keeps them: kind, protocol, accuracy, sd, accuracies, width ...; its machine, and
    of a random search its smallest ``validation_error``."""
    net: str
    trained_on: str
    images_seen: int | None
    """In training; None where nobody knows."""
    updates: str
    machine: str
    """Of rows that name none of their own."""
    date: str
    command: str
    note: str = ""

    @property
    def about(self) -> str:
        """What the page is sorted by."""
        return self.set

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "rows": list(self.rows)}


@dataclass(frozen=True)
class Measures:
    """What the stage `quality` found of one generator."""

    measures: tuple[dict[str, Any], ...]
    """As the stage keeps them: measure, images, values with their titles and meanings."""
    net: str
    trained_on: str
    images_seen: int
    updates: str
    machine: str
    date: str
    command: str
    note: str = ""

    about: ClassVar[str] = "generator"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "measures": list(self.measures)}


def record_from_json(values: dict[str, Any]) -> Record | Measures:
    """The inverse of ``to_json``."""
    if "measures" in values:
        return Measures(**{**values, "measures": tuple(values["measures"])})
    return Record(**{**values, "rows": tuple(values["rows"])})


def page(records: Sequence[Record | Measures]) -> str:
    """The whole page: the paper's tables, if anything was run for one of them, then the other sets, then the
    generators, then how each record came about."""
    numbered = list(enumerate(records, 1))
    judged = [(number, record) for number, record in numbered if isinstance(record, Record)]
    drawn = [(number, record) for number, record in numbered if isinstance(record, Measures)]
    parts = [HEAD]
    measured: dict[Table, list[Measured]] = {table: [] for table in TABLES.values()}
    for number, record in judged:
        for row in record.rows:
            if table := table_of(record.set, record.protocol, row):
                measured[table].append(_measured(table, record, row, number))
    if any(measured.values()):
        parts += [f"## {_title(table)}\n\n{markdown(table, rows)}" for table, rows in measured.items()]
    others = [
        (number, record, row)
        for number, record in judged
        for row in record.rows
        if table_of(record.set, record.protocol, row) is None
    ]
    if others:
        parts.append(_others(others))
    if drawn:
        parts.append(_generators(drawn))
    parts.append("## Runs\n\n" + "\n".join(_about(number, record) for number, record in numbered))
    return "\n".join(parts)


def _others(others: Sequence[tuple[int, Record, dict[str, Any]]]) -> str:
    interval = "95 % interval of the test images"
    head = ("set", "judged by", "protocol", "learned from", "accuracy", interval, "run")
    lines = [
        (
            record.set,
            row["features"],
            row["protocol"],
            _learned(row),
            _figure(100 * row["accuracy"], row["sd"]),
            f"{100 * row['ci95'][0]:.1f} to {100 * row['ci95'][1]:.1f}",
            f"[{number}]",
        )
        for number, record, row in others
    ]
    return f"## Other labelled sets and protocols\n\naccuracy, %\n\n{aligned([head, *lines], right=(4,))}"


def _generators(drawn: Sequence[tuple[int, Measures]]) -> str:
    head = ("figure", "net", "samples", "real images", "compared", "run")
    lines = [
        (line.title, record.net, line.value, line.real, line.compared, f"[{number}]")
        for number, record in drawn
        for measure in record.measures
        for line in measure_lines(measure)
    ]
    table = aligned([head, *lines], right=(2, 3))
    return f"## Generators\n\n{_READ_AS}\n\n{table}"


def _title(table: Table) -> str:
    title = QUANTITIES[table].removesuffix(", %").capitalize()
    for name in ("CIFAR", "SVHN", "MNIST"):
        title = title.replace(name.lower(), name)
    return title


def _measured(table: Table, record: Record, row: dict[str, Any], number: int) -> Measured:
    accuracy = 100 * row["accuracy"]
    notes = [f"run {number}: {record.source}, {_learned(row)}, {row['test']:,} test images"]
    notes += [f"{row['width']:,} features"] if row["width"] else []
    notes += [f"{row['width'] // _QUADRANTS:,} units"] if row["kind"] == "kmeans" else []
    if row.get("validation_error") is not None:
        notes.append(f"validation error {100 * row['validation_error']:.2f} %")
    if row["sd"] is None:
        low, high = (100 * share for share in row["ci95"])
        low, high = (100 - high, 100 - low) if table in ERRORS else (low, high)
        notes.append(f"95 % interval {low:.1f} to {high:.1f}")
    if not row["converged"]:
        notes.append("the solver stopped before its optimum")
    return Measured(
        name=row["features"],
        value=100 - accuracy if table in ERRORS else accuracy,
        sd=None if row["sd"] is None else 100 * row["sd"],
        n=len(row["accuracies"]) if len(row["accuracies"]) > 1 else None,
        notes="; ".join(notes),
        beside=BESIDE.get((table, row["kind"]), ""),
    )


def _learned(row: dict[str, Any]) -> str:
    return f"{row['train']:,} {'samples' if row['kind'] == 'samples' else 'labels'}"


def _figure(percent: float, sd: float | None) -> str:
    return f"{percent:.2f}" if sd is None else f"{percent:.2f} ± {100 * sd:.2f}"


def _about(number: int, record: Record | Measures) -> str:
    if isinstance(record, Record):
        first = (
            f"{number}. **{record.set}**: {record.source}, {record.classes} classes, {record.train:,} "
            f"training and {record.test:,} test images."
        )
        machines = _machines(record)
    else:
        first, machines = f"{number}. **The generator's samples**.", record.machine
    lines = [
        first,
        f"   Net `{record.net}`, trained on {record.trained_on}{_training(record)}. {machines}, "
        f"{record.date}.",
        f"   `{record.command}`",
    ]
    return "\n".join([*lines, f"   {record.note}"] if record.note else lines) + "\n"


def _training(record: Record | Measures) -> str:
    if record.images_seen is None:
        return ""
    return f": {record.images_seen:,} images seen{f', {record.updates}' if record.updates else ''}"


def _machines(record: Record) -> str:
    """The machine; where rows differ each machine, and what was judged on it."""
    judged: dict[str, list[str]] = {}
    for row in record.rows:
        judged.setdefault(row.get("machine", record.machine), []).append(row["features"])
    if len(judged) < 2:
        return next(iter(judged), record.machine)
    return "; ".join(f"{machine} ({', '.join(dict.fromkeys(names))})" for machine, names in judged.items())
