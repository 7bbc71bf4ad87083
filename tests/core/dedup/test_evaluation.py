"""`dcgan dedup-eval`: pairs labelled by hand or made from the crops, a table, and a radius."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dcgan_core import cli
from dcgan_core.artifacts import find
from dcgan_core.config import DedupConfig
from dcgan_core.dedup.evaluation import evaluate_pairs, evaluate_variants
from dcgan_core.dedup.stage import Codes
from dcgan_core.dedup.variants import KINDS, MIRRORED
from dcgan_core.errors import ConfigError, MissingArtifact
from dcgan_core.pipeline import load_pipeline
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.conftest import Tiny


def codes_stage(tiny: Tiny) -> Codes:
    stages = load_pipeline(tiny.preset, tiny.overrides, upto="dedup").stages
    return next(stage for stage in stages if isinstance(stage, Codes))


def written(path: Path, *rows: str, heading: str = "a,b,duplicate") -> Path:
    path.write_text("\n".join([heading, *rows]) + "\n")
    return path


def keys_of(store: Store) -> list[str]:
    return sorted(read_all(store, find(store, "codes"), "codes-", ["key"])["key"].to_pylist())


def test_labelled_pairs_are_scored_by_the_distance_of_their_codes(
    finished_store: Store, tmp_path: Path
) -> None:
    one, two, three = keys_of(finished_store)[:3]
    rows = {
        row["key"]: row["code"]
        for row in read_all(finished_store, find(finished_store, "codes"), "codes-").to_pylist()
    }
    far = sum((x ^ y).bit_count() for x, y in zip(rows[one], rows[two], strict=True))
    pairs = written(tmp_path / "pairs.csv", f"{one},{one},true", f"{one},{two},No", f"{two},{three},1")
    found = evaluate_pairs(finished_store, find(finished_store, "codes"), pairs, 128)
    assert (found.pairs, found.pictures) == (2, 3)
    assert (found.rows[0].true_positives, found.rows[0].missed) == (1, 1)
    assert [row.false_positives for row in found.rows] == [int(radius >= far) for radius in range(129)]
    assert found.rows[128].recall.value == 1


@pytest.mark.parametrize(
    ("rows", "heading", "said"),
    [
        (["x,y"], "a,b", "lacks the column duplicate"),
        (["nobody,nobody,1"], "a,b,duplicate", r"column a: 1 keys are no crops of codes/.*'nobody'"),
        (["{one},{one},perhaps"], "a,b,duplicate", "row 2: duplicate is 'perhaps'"),
        (["{one},{one},0"], "a,b,duplicate", "no pair that is a duplicate"),
        ([], "", "no table of pairs"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_with_the_place(
    rows: list[str], heading: str, said: str, finished_store: Store, tmp_path: Path
) -> None:
    one = keys_of(finished_store)[0]
    pairs = written(tmp_path / "pairs.csv", *(row.format(one=one) for row in rows), heading=heading)
    with pytest.raises(ConfigError, match=said):
        evaluate_pairs(finished_store, find(finished_store, "codes"), pairs, 8)
    with pytest.raises(ConfigError, match="no such file"):
        evaluate_pairs(finished_store, find(finished_store, "codes"), tmp_path / "absent.csv", 8)


def test_variants_are_looked_for_among_all_crops(finished_store: Store, tiny: Tiny) -> None:
    crops = find(finished_store, "crops").counts["ok"]
    found = evaluate_variants(finished_store, codes_stage(tiny), sources=100, limit=32)
    assert found.pictures == crops
    assert found.unclear >= 2  # the folder holds near duplicates already
    assert found.pairs == crops * (len(KINDS) - 1)
    assert found.recall_of_kind["jpeg-90"][32] > 0.9 > found.recall_of_kind["crop-10"][2]
    assert all(by_radius == sorted(by_radius) for by_radius in found.recall_of_kind.values())
    again = evaluate_variants(finished_store, codes_stage(tiny), sources=100, limit=32)
    assert again == found
    alone = replace(codes_stage(tiny), config=DedupConfig(verify=0.0))
    mirrored = evaluate_variants(finished_store, alone, sources=100, limit=128, mirrored=True)
    plain = evaluate_variants(finished_store, alone, sources=100, limit=128)
    assert mirrored.pairs == crops * len(KINDS)
    assert mirrored.recall_of_kind[MIRRORED] == plain.recall_of_kind[MIRRORED]
    assert plain.rows[128].false_positives - mirrored.rows[128].false_positives == crops


def test_the_command_prints_a_table_and_suggests_a_radius(
    finished_store: Store, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCGAN_ROOT", finished_store.root)
    monkeypatch.setattr(cli.out, "width", 160)
    options = [word for key, value in tiny.overrides.items() for word in ("-o", f"{key}={json.dumps(value)}")]
    monkeypatch.setattr(sys, "argv", ["dcgan", "dedup-eval", *options, "--precision", "0.5"])
    cli.app(standalone_mode=False)
    said = capsys.readouterr().out
    assert "generated duplicates, each compared with" in said
    assert "suggested for a precision of 0.5: -o dedup.radius=" in said
    assert all(kind in said for kind in KINDS)
    assert said.count("\n") > 24


def test_before_dedup_has_run_the_next_step_is_named(store: Store, tiny: Tiny) -> None:
    with pytest.raises(MissingArtifact, match="dcgan run crop"):
        evaluate_variants(store, codes_stage(tiny), sources=1, limit=1)
