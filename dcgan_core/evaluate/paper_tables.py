"""Which rows of scores stand in which of the paper's tables, and beside which of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcgan_core.evaluate.published import Table, published

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
ERRORS: frozenset[Table] = frozenset({"svhn-1000", "mnist-nn-50k", "mnist-nn-10m"})
"""Tables of errors; the others are of accuracies."""


def table_of(name: str, protocol: str, row: Mapping[str, Any]) -> Table | None:
    """The paper's table that a row of a set of some name and protocol stands in, if any.

    Only a set of the table's own name stands there; and all labels of CIFAR-10, under either protocol, are
    its 50,000 training images.
    """
    if protocol == "labelled" and row["protocol"] == "all labels" and name.startswith("cifar10"):
        protocol = "cifar10"
    table = TABLES.get((protocol, row["protocol"]))
    if table is None or not name.startswith(_OF_SET.get(table, "")):
        return None
    return None if table == "cifar10" and row["train"] < _CIFAR_ALL else table


def papers_accuracy(name: str, protocol: str, kind: str, row: Mapping[str, Any]) -> float | None:
    """Percent that the paper reports for what a row replicates, errors as accuracies; None: nothing."""
    table = table_of(name, protocol, row)
    if table is None:
        return None
    values = {each.key: each.value for each in published(table)}
    value = values.get(BESIDE.get((table, kind), ""))
    return 100 - value if value is not None and table in ERRORS else value
