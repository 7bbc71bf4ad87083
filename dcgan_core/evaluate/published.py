"""Figures that papers have published for the protocols here, and ours laid out beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dcgan_core.errors import ConfigError

Table = Literal[
    "cifar10",
    "cifar10-400",
    "svhn-1000",
    "mnist-nn-50k",
    "mnist-nn-10m",
    "cifar10-generation-fid",
    "cifar10-generation-is",
]

QUANTITIES: dict[Table, str] = {
    "cifar10": "accuracy on CIFAR-10, all labels, %",
    "cifar10-400": "accuracy on CIFAR-10, 400 labels a class, %",
    "svhn-1000": "error on SVHN, 1,000 labels, %",
    "mnist-nn-50k": "error on MNIST of the nearest of 50,000 samples, %",
    "mnist-nn-10m": "error on MNIST of the nearest of 10 million samples, %",
    "cifar10-generation-fid": "FID on CIFAR-10",
    "cifar10-generation-is": "Inception score on CIFAR-10",
}
"""Each table by its name: what its figures are, and of what."""

NOT_RUN = "not run"

_DCGAN_1 = "DCGAN paper, table 1"
_DCGAN_2 = "DCGAN paper, table 2"
_DCGAN_APPENDIX = "DCGAN paper, appendix"


@dataclass(frozen=True)
class Published:
    """A row that somebody has published."""

    table: Table
    key: str
    """By which measured rows name it; unique in its table."""
    method: str
    value: float
    """In the table's unit: percent, or a score."""
    sd: float | None = None
    """What its paper puts behind the +-: a standard deviation, or 1.96 of them where a note says so."""
    units: int | None = None
    """Most feature units of a layer, where the paper gives them."""
    source: str = ""
    note: str = ""
    from_memory: bool = False
    """Quoted from memory: look it up before you quote it."""


@dataclass(frozen=True)
class Measured:
    """A row that was measured here, in the table's unit."""

    name: str
    value: float
    sd: float | None = None
    n: int | None = None
    """How many draws, folds or seeds ``value`` and ``sd`` are over."""
    notes: str = ""
    beside: str = ""
    """The key of the published row that it replicates; empty: none."""


@dataclass(frozen=True)
class Compared:
    """A line of the laid-out table, all in words."""

    method: str
    paper: str
    here: str
    difference: str
    """Ours minus the paper's."""
    notes: str


def published(table: Table) -> tuple[Published, ...]:
    """The table's published rows, in the order of the papers."""
    return tuple(row for row in PUBLISHED if row.table == table)


def compare(table: Table, measured: Sequence[Measured]) -> list[Compared]:
    """The published rows in their order, what was measured beside each, ``not run`` where nothing was.

    A published row replicated more than once stands once for each. Measured rows that replicate none come
    last. Raises ConfigError where one names a row that the table lacks.
    """
    rows = published(table)
    keys = [row.key for row in rows]
    for each in measured:
        if each.beside and each.beside not in keys:
            raise ConfigError(f"the table {table} has no row {each.beside!r}; it has {', '.join(keys)}")
    lines: list[Compared] = []
    for row in rows:
        ours = [each for each in measured if each.beside == row.key]
        lines += [_line(row, each) for each in ours] or [_line(row, None)]
    return lines + [_line(None, each) for each in measured if not each.beside]


def markdown(table: Table, measured: Sequence[Measured]) -> str:
    """The comparison as a Markdown table whose source is aligned too; ends with a newline."""
    head = ("method", "paper", "here", "difference", "notes")
    lines = compare(table, measured)
    cells = [[line.method, line.paper, line.here, line.difference, line.notes] for line in lines]
    return f"{QUANTITIES[table]}\n\n{aligned([head, *cells], right=(1, 2, 3))}"


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table, its first row the head; columns in ``right`` lean right. Ends with a newline."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in safe)) for column in range(len(safe[0]))]
    rules = ["-" * (width - 1) + ":" if at in right else "-" * width for at, width in enumerate(widths)]
    lines = []
    for row in (safe[0], rules, *safe[1:]):
        padded = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |\n")
    return "".join(lines)


def _line(row: Published | None, ours: Measured | None) -> Compared:
    notes = []
    if ours:
        notes += [f"n = {ours.n}"] if ours.n is not None else []
        notes += [ours.notes] if ours.notes else []
    if row:
        notes += [f"paper: {row.units:,} units"] if row.units is not None else []
        notes += [row.note] if row.note else []
        notes += [row.source + (" [from memory]" if row.from_memory else "")]
    # A replication may be of other data or another size, which its own name says.
    names = [each for each in (row.method if row else "", ours.name if ours else "") if each]
    return Compared(
        method=": ".join(dict.fromkeys(names)),
        paper=_figure(row.value, row.sd) if row else "",
        here=_figure(ours.value, ours.sd) if ours else NOT_RUN,
        difference=f"{ours.value - row.value:+.2f}" if row and ours else "",
        notes="; ".join(notes),
    )


def _figure(value: float, sd: float | None) -> str:
    return f"{value:.2f}" if sd is None else f"{value:.2f} ± {sd:.2f}"


def _cifar10(
    key: str, method: str, units: int | None, all_labels: float, few_labels: float, few_sd: float
) -> tuple[Published, Published]:
    return (
        Published("cifar10", key, method, all_labels, None, units, _DCGAN_1),
        Published("cifar10-400", key, method, few_labels, few_sd, units, _DCGAN_1),
    )


def _svhn(key: str, method: str, value: float, note: str = "") -> Published:
    return Published("svhn-1000", key, method, value, source=_DCGAN_2, note=note)


def _mnist(table: Table, key: str, method: str, value: float) -> Published:
    return Published(table, key, method, value, source=_DCGAN_APPENDIX, from_memory=True)


PUBLISHED: tuple[Published, ...] = (
    *_cifar10("kmeans-1", "1 layer K-means", 4800, 80.6, 63.7, 0.7),
    *_cifar10("kmeans-3", "3 layer K-means, learned RF", 3200, 82.0, 70.7, 0.7),
    *_cifar10("kmeans-view-invariant", "View invariant K-means", 6400, 81.9, 72.6, 0.7),
    *_cifar10("exemplar-cnn", "Exemplar CNN", 1024, 84.3, 77.4, 0.2),
    *_cifar10("dcgan", "DCGAN + L2-SVM", 512, 82.8, 73.8, 0.4),
    Published(
        "cifar10",
        "kmeans-triangle-4000",
        "1 layer K-means (triangle)",
        79.6,
        units=4000,
        source="Coates, Lee and Ng 2011",
    ),
    Published(
        "cifar10",
        "kmeans-triangle-1600",
        "1 layer K-means (triangle)",
        77.9,
        units=1600,
        source="Coates, Lee and Ng 2011",
        from_memory=True,
    ),
    Published(
        "cifar10-400",
        "feature-matching",
        "Feature matching, K+1 classes",
        81.37,
        source="Salimans et al. 2016",
        note="published as 18.63 % error; semi-supervised, no SVM",
    ),
    _svhn("knn", "KNN", 77.93),
    _svhn("tsvm", "TSVM", 66.55),
    _svhn("m1-knn", "M1 + KNN", 65.63),
    _svhn("m1-tsvm", "M1 + TSVM", 54.33),
    _svhn("m1-m2", "M1 + M2", 36.02),
    _svhn("swwae", "SWWAE without dropout", 27.83),
    _svhn("swwae-dropout", "SWWAE with dropout", 23.56),
    _svhn("dcgan", "DCGAN + L2-SVM", 22.48, "later papers quote 22.18 ± 1.13"),
    _svhn("supervised-cnn", "Supervised CNN of D's architecture", 28.87, "validation error"),
    Published("svhn-1000", "ali", "ALI + L2-SVM", 19.14, 0.50, source="ALI paper; same protocol"),
    Published("svhn-1000", "ian", "IAN + L2-SVM", 18.50, 0.38, source="IAN paper; same protocol"),
    Published(
        "svhn-1000",
        "feature-matching",
        "Feature matching, K+1 classes",
        8.11,
        source="Salimans et al. 2016",
        note="semi-supervised, no SVM",
    ),
    _mnist("mnist-nn-50k", "real", "Real images", 3.1),
    _mnist("mnist-nn-50k", "gan", "GAN", 6.28),
    _mnist("mnist-nn-50k", "dcgan", "DCGAN", 2.98),
    _mnist("mnist-nn-10m", "gan", "GAN", 5.65),
    _mnist("mnist-nn-10m", "dcgan", "DCGAN", 1.48),
    Published("cifar10-generation-fid", "studiogan-dcgan", "DCGAN", 48.29, source="StudioGAN's table"),
    Published("cifar10-generation-is", "studiogan-dcgan", "DCGAN", 6.11, source="StudioGAN's table"),
    Published("cifar10-generation-is", "wgan-gp-dcgan", "DCGAN", 6.16, source="WGAN-GP's table"),
)
"""From the papers by way of the project's own notes; none was measured here."""
