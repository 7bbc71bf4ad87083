"""Records of scores become the page of results: the paper's rows, ours beside them, how each came about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.records import keep, page_of
from dcgan_core.evaluate.results import Measures, Record, page, record_from_json


def row(kind: str, features: str, protocol: str, accuracies: list[float], **changes: Any) -> dict[str, Any]:
    mean = sum(accuracies) / len(accuracies)
    facts = {"width": 28_672, "sd": 0.004 if len(accuracies) > 1 else None, "converged": True}
    interval = [mean - 0.01, mean + 0.01]
    return {
        "kind": kind,
        "features": features,
        "protocol": protocol,
        "accuracy": mean,
        "accuracies": accuracies,
        "ci95": interval,
        "train": 50_000,
        "test": 10_000,
        **facts,
        **changes,
    }


CIFAR = Record(
    set="cifar10",
    protocol="cifar10",
    source="cifar10-train.parquet",
    classes=10,
    train=50_000,
    test=10_000,
    rows=(
        row("discriminator", "discriminator", "all labels", [0.71]),
        row("discriminator", "discriminator", "400 labels per class", [0.60, 0.62]),
        row("kmeans", "K-means", "all labels", [0.77], width=6400),
        row("pixels", "raw pixels", "all labels", [0.39], converged=False),
    ),
    net="imagenet32",
    trained_on="60,000 images of parquet",
    images_seen=1_800_064,
    updates="7,032 updates of G and 7,031 of D",
    machine="one GPU",
    date="2026-11-26",
    command="dcgan run evaluate --preset imagenet32",
)


def test_the_papers_rows_stand_there_with_ours_beside_them_or_not_run() -> None:
    text = page([CIFAR])
    lines = text.splitlines()
    dcgan = next(line for line in lines if "DCGAN + L2-SVM" in line)
    assert [cell.strip() for cell in dcgan.split("|")][2:5] == ["82.80", "71.00", "-11.80"]
    few = [line for line in lines if "DCGAN + L2-SVM" in line][1]
    assert "73.80 ± 0.40" in few
    assert "61.00 ± 0.40" in few
    assert "n = 2" in few
    assert "not run" in next(line for line in lines if "Exemplar CNN" in line)
    kmeans = next(line for line in lines if "1 layer K-means: K-means" in line)
    assert "77.00" in kmeans
    assert "run 1: cifar10-train.parquet, 50,000 labels, 10,000 test images" in kmeans
    assert "6,400 features; 1,600 units; 95 % interval 76.0 to 78.0; paper: 4,800 units" in kmeans
    assert "the solver stopped" in next(line for line in lines if "raw pixels" in line)
    for words in (
        "1,800,064 images seen",
        "one GPU",
        "2026-11-26",
        "`dcgan run evaluate --preset imagenet32`",
    ):
        assert words in text


def section(text: str, title: str) -> str:
    """From a heading to the next; empty where there is none."""
    return text.partition(title)[2].partition("\n## ")[0]


def test_a_table_of_the_paper_has_no_other_sets_and_no_parts_of_sets() -> None:
    """All labels of CIFAR-10 are 50,000; the protocols can be asked of any set."""
    part = tuple(each | {"train": 10_000} for each in CIFAR.rows)
    titles = "## Accuracy on CIFAR-10, all labels", "## Accuracy on CIFAR-10, 400 labels a class"
    for record, expected in (
        (CIFAR, [True, True]),
        (replace(CIFAR, set="cifar10-jpeg"), [True, True]),
        (replace(CIFAR, protocol="labelled"), [True, False]),
        (replace(CIFAR, rows=part), [False, True]),
        (replace(CIFAR, rows=part, protocol="labelled"), [False, False]),
        (replace(CIFAR, set="fashion-mnist"), [False, False]),
        (replace(CIFAR, set="fashion-mnist", protocol="labelled"), [False, False]),
    ):
        text = page([record])
        assert ["run 1:" in section(text, title) for title in titles] == expected
        assert ["not run" in section(text, title) for title in titles] == 2 * [any(expected)]
        assert ("## Other labelled sets" in text) == (expected != [True, True])


def test_svhn_is_given_in_errors_and_other_sets_in_a_table_of_their_own() -> None:
    svhn = replace(
        CIFAR,
        set="svhn",
        protocol="svhn",
        rows=(row("discriminator", "discriminator", "1,000 labels", [0.7, 0.72]),),
    )
    other = replace(CIFAR, set="digits", protocol="labelled", rows=CIFAR.rows[:1])
    text = page([svhn, other])
    errors = section(text, "## Error on SVHN, 1,000 labels")
    assert "29.00 ± 0.40" in next(line for line in errors.splitlines() if "DCGAN + L2-SVM" in line)
    assert "+6.52" in errors
    tsvm = next(line for line in errors.splitlines() if line.startswith("| TSVM"))
    assert [cell.strip() for cell in tsvm.split("|")][2:4] == ["66.55", "not run"]
    others = section(text, "## Other labelled sets")
    assert "digits" in others
    assert "[2]" in others
    assert "run" not in section(text, "## Accuracy on CIFAR-10, all labels").replace("not run", "")


def test_machines_are_told_apart_where_rows_differ() -> None:
    here, there = ({**each, "machine": machine} for each, machine in zip(CIFAR.rows[:2], "AB", strict=True))
    one, two = replace(CIFAR, rows=(here,)), replace(CIFAR, rows=(here, there, *CIFAR.rows[2:]))
    assert "of D. A, 2026-11-26." in page([one])
    said = "of D. A (discriminator); B (discriminator); one GPU (K-means, raw pixels), 2026-11-26."
    assert said in page([two])


def test_the_validation_error_of_a_search_stands_in_the_notes_of_its_row() -> None:
    cnn = row("supervised", "supervised CNN", "1,000 labels", [0.7], width=0, validation_error=0.2887)
    text = page([replace(CIFAR, set="svhn", protocol="svhn", rows=(cnn,))])
    line = next(line for line in text.splitlines() if "| supervised CNN" in line)
    assert "30.00" in line
    assert "validation error 28.87" in line


def test_all_labels_of_cifar10_are_table_1_whatever_else_was_judged() -> None:
    alone = replace(CIFAR, protocol="labelled", rows=CIFAR.rows[:1])
    assert "| 82.80 |" in page([alone])
    assert "71.00" in next(line for line in page([alone]).splitlines() if "DCGAN + L2-SVM" in line)
    assert "## Other labelled sets" in page([replace(alone, set="tiny")])


GENERATOR = Measures(
    measures=(
        {
            "measure": "pixels",
            "images": {"samples": 10_000, "unseen": 900},
            "unseen": "cifar10",
            "values": [
                {
                    "name": "nearest_sample_distance_10000",
                    "title": "Distance to the nearest of 10,000 samples",
                    "meaning": "lower is better",
                    "value": 12.3456,
                    "error": 0.0312,
                    "real": 11.5,
                },
                {"name": "x", "title": "X", "meaning": "", "value": 0.5, "error": None, "real": None},
            ],
        },
    ),
    net="svhn32",
    trained_on="50,000 images of parquet",
    images_seen=1,
    updates="1 of each",
    machine="2 cores",
    date="2026-11-26",
    command="dcgan run evaluate",
)


def test_a_generators_figures_stand_beside_those_of_real_images() -> None:
    text = page([CIFAR, GENERATOR])
    section = text[text.index("## Generators") : text.index("## Runs")]
    first, second = (line for line in section.splitlines() if "[2]" in line)
    assert [cell.strip() for cell in first.split("|")][1:7] == [
        "Distance to the nearest of 10,000 samples",
        "svhn32",
        "12.35 ± 0.031",
        "11.5",
        "10,000 samples, 900 unseen images",
        "[2]",
    ]
    assert [cell.strip() for cell in second.split("|")][3:5] == ["0.5", ""]
    assert "## Generators" not in page([CIFAR])


def test_the_nearest_samples_errors_stand_beside_the_papers() -> None:
    rows = (
        row("samples", "samples", "nearest of 50,000", [0.9682], width=0),
        row("images", "training images", "nearest of 50,000", [0.967], width=0),
        row("samples", "samples", "nearest of 10,000", [0.96], width=0, train=10_000),
    )
    text = page([replace(CIFAR, set="mnist-nn", protocol="mnist-nn", rows=rows)])
    dcgan = next(line for line in text.splitlines() if "DCGAN: samples" in line)
    assert [cell.strip() for cell in dcgan.split("|")][2:5] == ["2.98", "3.18", "+0.20"]
    assert "50,000 samples" in dcgan
    real = next(line for line in text.splitlines() if "Real images: training images" in line)
    assert [cell.strip() for cell in real.split("|")][2:5] == ["3.10", "3.30", "+0.20"]
    assert "nearest of 10,000" in text[text.index("## Other labelled sets") :]


def test_records_survive_their_files_and_what_is_none_is_named(tmp_path: Path) -> None:
    assert record_from_json(CIFAR.to_json()) == CIFAR
    assert record_from_json(GENERATOR.to_json()) == GENERATOR
    keep(tmp_path, {"cifar10-01234567": CIFAR, "generator-89abcdef": GENERATOR})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cifar10-01234567.json",
        "generator-89abcdef.json",
    ]
    assert page_of(tmp_path) == page([CIFAR, GENERATOR])
    (tmp_path / "stray.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"stray.json is no record"):
        page_of(tmp_path)


def test_the_page_in_the_repository_is_that_of_its_records() -> None:
    docs = Path(__file__).parents[3] / "docs"
    assert (docs / "results.md").read_text("utf-8") == page_of(docs / "results"), "run: dcgan results"
