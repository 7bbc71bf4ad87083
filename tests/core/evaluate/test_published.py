"""Published figures stand beside ours, and what was not run says so."""

from __future__ import annotations

from typing import get_args

import pytest

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.published import (
    NOT_RUN,
    PUBLISHED,
    QUANTITIES,
    Measured,
    Table,
    aligned,
    compare,
    markdown,
    published,
)


def test_every_table_has_rows_with_keys_of_their_own() -> None:
    assert set(QUANTITIES) == set(get_args(Table)) == {row.table for row in PUBLISHED}
    assert len({(row.table, row.key) for row in PUBLISHED}) == len(PUBLISHED)
    assert all(row.source and row.value > 0 for row in PUBLISHED)


def test_the_figures_are_those_of_the_papers_tables() -> None:
    def figure(table: Table, key: str) -> tuple[float, float | None]:
        (row,) = (row for row in published(table) if row.key == key)
        return row.value, row.sd

    assert figure("cifar10", "dcgan") == (82.8, None)
    assert figure("cifar10-400", "dcgan") == (73.8, 0.4)
    assert figure("cifar10", "kmeans-1") == (80.6, None)
    assert figure("svhn-1000", "dcgan") == (22.48, None)
    assert figure("svhn-1000", "supervised-cnn") == (28.87, None)
    assert figure("svhn-1000", "ali") == (19.14, 0.5)
    assert figure("mnist-nn-50k", "dcgan") == (2.98, None)
    assert all(row.from_memory for row in published("mnist-nn-50k"))


def test_what_was_not_run_says_so_and_nothing_is_left_out() -> None:
    lines = compare("cifar10", [])
    assert [line.here for line in lines] == [NOT_RUN] * len(published("cifar10"))
    assert lines[0].paper == "80.60"
    assert not any(line.difference for line in lines)


def test_ours_stand_beside_the_row_they_replicate_and_others_come_last() -> None:
    ours = [
        Measured("raw pixels", 39.5),
        Measured("svhn32", 70.25, 0.5, 5, "trained on CIFAR-10", beside="dcgan"),
        Measured("imagenet32", 78.0, beside="dcgan"),
    ]
    lines = compare("cifar10-400", ours)
    first, second = (line for line in lines if line.method.startswith("DCGAN + L2-SVM"))
    assert (first.method, first.paper, first.here) == (
        "DCGAN + L2-SVM: svhn32",
        "73.80 ± 0.40",
        "70.25 ± 0.50",
    )
    assert first.difference == "-3.55" and second.difference == "+4.20"
    assert first.notes == "n = 5; trained on CIFAR-10; paper: 512 units; DCGAN paper, table 1"
    last = lines[-1]
    assert (last.method, last.paper, last.here, last.difference) == ("raw pixels", "", "39.50", "")
    assert len(lines) == len(published("cifar10-400")) + 2


def test_a_row_that_replicates_nothing_known_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no row 'dcgna'; it has .*dcgan"):
        compare("svhn-1000", [Measured("ours", 25.0, beside="dcgna")])


def test_the_markdown_lies_in_columns() -> None:
    text = markdown("mnist-nn-50k", [Measured("a|b", 3.25, notes="two\nlines", beside="dcgan")])
    title, empty, *table = text.splitlines()
    assert title.startswith("error on MNIST") and empty == "" and text.endswith("|\n")
    assert len({len(line) for line in table}) == 1
    bars = [
        [at for at, letter in enumerate(line) if letter == "|" and line[at - 1] != "\\"] for line in table
    ]
    assert all(each == bars[0] for each in bars) and len(bars[0]) == 6
    assert [cell.strip()[-1] for cell in table[1].split("|")[1:-1]] == ["-", ":", ":", ":", "-"]
    (ours,) = (line for line in table if "a\\|b" in line)
    assert "two lines" in ours and "[from memory]" in ours


def test_narrow_columns_are_still_a_table() -> None:
    assert aligned([["a", "b"], ["1", "22"]], right=(1,)) == "| a   |   b |\n| --- | --: |\n| 1   |  22 |\n"
