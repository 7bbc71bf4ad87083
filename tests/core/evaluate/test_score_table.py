"""Scores as lines of a table: everything that was judged, side by side where it can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dcgan_core import cli
from dcgan_core.artifacts import all_manifests, read_part
from dcgan_core.backend import LocalBackend
from dcgan_core.cli import app
from dcgan_core.evaluate.paper_tables import papers_accuracy
from dcgan_core.evaluate.score_table import HEAD, ScoreLine, score_lines
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import run
from dcgan_core.storage import Store
from tests.conftest import Tiny

FEW = {"evaluate.labels_per_class": [4], "evaluate.folds": 2}


def judged(tiny: Tiny, store: Store) -> list[ScoreLine]:
    for stage in load_pipeline(tiny.preset, tiny.overrides | FEW, upto="evaluate").of("evaluate"):
        run(stage, store, LocalBackend(1))
    return score_lines(store, all_manifests(store, "scores")[-1])


def test_lines_stand_by_set_and_protocol_and_hold_what_was_judged(tiny: Tiny, finished_store: Store) -> None:
    lines = judged(tiny, finished_store)
    kinds = ["discriminator", "untrained discriminator", "raw pixels"]
    assert [(line.protocol, line.features) for line in lines] == [
        (protocol, kind) for protocol in ("all labels", "4 labels per class") for kind in kinds
    ]
    manifest = all_manifests(finished_store, "scores")[-1]
    scores = [
        json.loads(read_part(finished_store, manifest.address, file)) for file in manifest.named("scores-")
    ]
    rows = {(row["protocol"], row["features"]): row for score in scores for row in score["rows"]}
    for line in lines:
        row = rows[line.protocol, line.features]
        assert (line.set, line.accuracy, line.sd) == ("digits", row["accuracy"], row["sd"])
        assert (line.train, line.test) == (row["train"], row["test"])


def test_cells_are_percent_and_say_what_has_not_converged() -> None:
    line = ScoreLine("svhn", "1,000 labels", "discriminator", 0.77523, 0.0051, 1000, 26032, False)
    cells = dict(zip(HEAD, line.cells, strict=True))
    assert (cells["accuracy %"], cells["sd"]) == ("77.52", "0.51")
    assert (cells["train"], cells["test"]) == ("1,000", "26,032")
    assert cells["note"] == "the solver had not converged"
    single = ScoreLine("svhn", "all labels", "discriminator", 1.0, None, 1000, 26032, True)
    assert (single.cells[4], single.cells[-1]) == ("", "")


@pytest.mark.parametrize(
    ("name", "protocol", "kind", "row", "expected"),
    [
        ("cifar10", "cifar10", "discriminator", {"protocol": "all labels", "train": 50_000}, 82.8),
        ("cifar10", "labelled", "discriminator", {"protocol": "all labels", "train": 50_000}, 82.8),
        ("cifar10", "cifar10", "discriminator", {"protocol": "all labels", "train": 10_000}, None),
        ("cifar10", "cifar10", "kmeans", {"protocol": "400 labels per class", "train": 4000}, 63.7),
        ("cifar10", "cifar10", "pixels", {"protocol": "all labels", "train": 50_000}, None),
        ("svhn", "svhn", "discriminator", {"protocol": "1,000 labels", "train": 1000}, 77.52),
        ("digits", "svhn", "discriminator", {"protocol": "1,000 labels", "train": 1000}, None),
    ],
)
def test_the_papers_figure_stands_beside_what_replicates_it(
    name: str, protocol: str, kind: str, row: dict[str, Any], expected: float | None
) -> None:
    found = papers_accuracy(name, protocol, kind, row)
    assert found == (None if expected is None else pytest.approx(expected))
    line = ScoreLine(name, row["protocol"], kind, 0.5, None, 1, 1, False, found)
    noted = "the solver had not converged"
    assert line.cells[-1] == (f"paper: {expected:.2f}; {noted}" if expected else noted)


def test_the_command_ends_with_the_table(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGAN_ROOT", finished_store.root)
    monkeypatch.setattr(cli.out, "width", 200)  # whatever COLUMNS was when it was made
    lines = judged(tiny, finished_store)
    words = [
        word for key, value in (tiny.overrides | FEW).items() for word in ("-o", f"{key}={json.dumps(value)}")
    ]
    ended = CliRunner().invoke(app, ["run", "evaluate", "-p", tiny.preset, *words])
    assert ended.exit_code == 0, ended.output
    shown = [" ".join(line.split()) for line in ended.output.splitlines()]
    for line in lines:
        assert " ".join(" ".join(line.cells).split()) in shown
    monkeypatch.setattr(cli.out, "width", 66)
    narrow = CliRunner().invoke(app, ["run", "evaluate", "-p", tiny.preset, *words]).output
    assert narrow.count("discriminator") == sum("discriminator" in line.features for line in lines)
    nothing = ["-o", "evaluate.sets=[]"]
    ended = CliRunner().invoke(app, ["run", "evaluate", "-p", tiny.preset, *words, *nothing])
    assert "no labelled set was judged: evaluate.sets is empty" in " ".join(ended.output.split())


def test_there_is_a_line_for_the_terminal_of_each_protocol(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("prefect")
    from tasks.results import say_where, scores_in_words

    first, *_ = lines = judged(tiny, finished_store)
    said = scores_in_words(finished_store, all_manifests(finished_store, "scores")[-1])
    assert len(said) == 2
    assert said[0].startswith(f"digits, all labels: {first.accuracy:.1%} discriminator, ")
    assert said[1].endswith(f"{lines[-1].accuracy:.1%} raw pixels")
    monkeypatch.setenv("DCGAN_ROOT", finished_store.root)
    say_where()  # what `make demo` ends with
    shown = capsys.readouterr().out
    assert all(each in shown for each in said)
    assert str(Path(finished_store.root) / "report") in shown
