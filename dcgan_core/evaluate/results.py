"""Measured scores beside published ones, as a page: what stands in `docs/results.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dcgan_core.evaluate.published import QUANTITIES, Measured, Table, aligned, markdown
from dcgan_core.evaluate.score_table import measure_lines

TABLES: dict[tuple[str, str], Table] = {
    ("cifar10", "all labels"): "cifar10",
    ("cifar10", "400 labels per class"): "cifar10-400",
    ("svhn", "1,000 labels"): "svhn-1000",
    ("mnist-nn", "nearest of 50,000"): "mnist-nn-50k",
    ("mnist-nn", "nearest of 10,000,000"): "mnist-nn-10m",
}
"""The paper's table of a set's protocol and what is learned from."""
BESIDE: dict[tuple[Table, str], str] = {
    ("cifar10", "discriminator"): "dcgan",
    ("cifar10", "kmeans"): "kmeans-1",
    ("cifar10-400", "discriminator"): "dcgan",
    ("cifar10-400", "kmeans"): "kmeans-1",
    ("svhn-1000", "discriminator"): "dcgan",
    ("svhn-1000", "knn"): "knn",
    ("mnist-nn-50k", "samples"): "dcgan",
    ("mnist-nn-50k", "images"): "real",
    ("mnist-nn-10m", "samples"): "dcgan",
}
"""The published row that a kind of features replicates. The supervised CNN's is a validation error, which
stands in our row's notes: what we state are errors of the test part."""
_OF_SET: dict[Table, str] = {"cifar10": "cifar10", "cifar10-400": "cifar10", "svhn-1000": "svhn"}
"""How the names begin of the sets that stand in a table."""
_CIFAR_ALL = 50_000
_QUADRANTS = 4  # features of K-means for each unit (Coates, Ng and Lee 2011)
ERRORS: frozenset[Table] = frozenset({"svhn-1000", "mnist-nn-50k", "mnist-nn-10m"})
"""Tables of errors; the others are of accuracies."""

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
    """The whole page: each of the paper's tables that something was run for, then the other sets, then the
    generators, then how each record came about."""
    numbered = list(enumerate(records, 1))
    judged = [(number, record) for number, record in numbered if isinstance(record, Record)]
    drawn = [(number, record) for number, record in numbered if isinstance(record, Measures)]
    parts = [HEAD]
    for table in dict.fromkeys(TABLES.values()):
        measured = [
            _measured(table, record, row, number)
            for number, record in judged
            for row in record.rows
            if table_of(record, row) == table
        ]
        if measured:
            parts.append(f"## {_title(table)}\n\n{markdown(table, measured)}")
    others = [
        (number, record, row)
        for number, record in judged
        for row in record.rows
        if table_of(record, row) is None
    ]
    if others:
        parts.append(_others(others))
    if drawn:
        parts.append(_generators(drawn))
    parts.append("## Runs\n\n" + "\n".join(_about(number, record) for number, record in numbered))
    return "\n".join(parts)


def table_of(record: Record, row: dict[str, Any]) -> Table | None:
    """The paper's table that a row stands in, if any.

    Only a set of the table's own name stands there; and all labels of CIFAR-10, under either protocol, are
    its 50,000 training images.
    """
    protocol = record.protocol
    if protocol == "labelled" and row["protocol"] == "all labels" and record.set.startswith("cifar10"):
        protocol = "cifar10"
    table = TABLES.get((protocol, row["protocol"]))
    if table is None or not record.set.startswith(_OF_SET.get(table, "")):
        return None
    return None if table == "cifar10" and row["train"] < _CIFAR_ALL else table


def _others(others: Sequence[tuple[int, Record, dict[str, Any]]]) -> str:
    head = ("set", "judged by", "protocol", "accuracy", "95 % interval of the test images", "run")
    lines = [
        (
            record.set,
            row["features"],
            row["protocol"],
            _figure(100 * row["accuracy"], row["sd"]),
            f"{100 * row['ci95'][0]:.1f} to {100 * row['ci95'][1]:.1f}",
            f"[{number}]",
        )
        for number, record, row in others
    ]
    return f"## Other labelled sets and protocols\n\naccuracy, %\n\n{aligned([head, *lines], right=(3,))}"


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
    learned = f"{row['train']:,} {'samples' if row['kind'] == 'samples' else 'labels'}"
    notes = [f"run {number}: {record.source}, {learned}, {row['test']:,} test images"]
    notes += [f"{row['width']:,} features"] if row["width"] else []
    notes += [f"{row['width'] // _QUADRANTS:,} units"] if row["kind"] == "kmeans" else []
    if row.get("validation_error") is not None:
        notes.append(f"validation error {100 * row['validation_error']:.2f} %")
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
