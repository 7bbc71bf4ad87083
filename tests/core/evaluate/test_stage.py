"""Scores belong to their set, whatever order the sets stand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.cli import app
from dcgan_core.errors import ConfigError, FeaturesNotFinite
from dcgan_core.evaluate.features import pool_and_join
from dcgan_core.evaluate.rows import batch_bounds
from dcgan_core.evaluate.stage import Features, features_of
from dcgan_core.pipeline import load_pipeline
from dcgan_core.progress import silent
from dcgan_core.stage import Stage, run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.conftest import Tiny

pytest.importorskip("skimage", reason="the set `lfw` comes inside scikit-image")


def accuracies(
    tiny: Tiny, store: Store, sets: list[str], svm_c: float
) -> tuple[dict[str, float], list[bool]]:
    overrides = tiny.changed(evaluate__sets=sets, evaluate__svm_c=[svm_c])
    stages = load_pipeline(tiny.preset, overrides, upto="evaluate").of("evaluate")[:2]
    cached = [run(stage, store, LocalBackend(1)).cached for stage in stages]
    manifest = read_manifest(store, stages[-1].address)
    assert manifest
    return {
        name: rows["discriminator"]["all labels"] for name, rows in manifest.metrics["accuracy"].items()
    }, cached


def test_scores_do_not_depend_on_the_order_of_the_sets(tiny: Tiny, finished_store: Store) -> None:
    one, _ = accuracies(tiny, finished_store, ["digits", "lfw"], 1e-2)
    same, _ = accuracies(tiny, finished_store, ["digits", "lfw"], 2e-2)
    other, cached = accuracies(tiny, finished_store, ["lfw", "digits"], 2e-2)
    assert one.keys() == other.keys()
    assert other == same
    assert cached[0], "the features are the same in any order"


def run_all(tiny: Tiny, store: Store, **changes: Any) -> list[Manifest]:
    overrides = tiny.changed(**{f"evaluate__{name}": value for name, value in changes.items()})
    found = []
    for stage in load_pipeline(tiny.preset, overrides, upto="evaluate").of("evaluate")[:2]:
        run(stage, store, LocalBackend(1))
        manifest = read_manifest(store, stage.address)
        assert manifest
        found.append(manifest)
    return found


FEW = {
    "sets": ["digits"],
    "max_train": 300,
    "max_test": 100,
    "svm_c": [1e-2, 1e-1],
    "labels_per_class": [5],
    "folds": 3,
    "kmeans_units": 8,
    "supervised_trials": 1,
    "supervised_epochs": 2,
}


def test_every_baseline_is_judged_and_another_one_leaves_the_rest_alone(
    tiny: Tiny, finished_store: Store
) -> None:
    _, some = run_all(tiny, finished_store, **FEW, baselines=["pixels"])
    assert set(some.metrics["accuracy"]["digits"]) == {"discriminator", "raw pixels"}
    every = ["pixels", "untrained", "knn", "kmeans", "supervised"]
    _, all_of_them = run_all(tiny, finished_store, **FEW, baselines=every)
    accuracy = all_of_them.metrics["accuracy"]["digits"]
    assert list(accuracy) == [
        "discriminator",
        "raw pixels",
        "untrained discriminator",
        "nearest neighbours in pixels",
        "K-means",
        "supervised CNN",
    ]
    assert set(accuracy["K-means"]) == {"all labels", "5 labels per class"}
    assert set(accuracy["supervised CNN"]) == {"5 labels per class"}
    assert accuracy["raw pixels"] == some.metrics["accuracy"]["digits"]["raw pixels"]
    keys = {part.metrics["features"]: part.key for part in all_of_them.parts}
    for part in some.parts:
        assert keys[part.metrics["features"]] == part.key
    assert all_of_them.provenance["parts_reused"] == len(some.parts)
    predictions = read_all(finished_store, all_of_them, "predictions-").to_pylist()
    mine = [row for row in predictions if row["features"] == "K-means" and row["protocol"] == "all labels"]
    right = sum(row["label"] == row["predicted"] for row in mine)
    assert len(mine) == 100
    assert accuracy["K-means"]["all labels"] == pytest.approx(right / 100)


def test_another_protocol_of_a_set_is_another_answer(tiny: Tiny, finished_store: Store) -> None:
    few = {**FEW, "labels_per_class": [], "baselines": ["pixels"], "max_train": 11_000}
    run_all(tiny, finished_store, **few)
    again = {**few, "sets": [{"name": "digits", "kind": "digits", "protocol": "svhn"}]}
    with pytest.raises(
        ConfigError, match=r"labelled set digits: the protocol svhn needs 11,000 .* the digits are 1,797"
    ):
        run_all(tiny, finished_store, **again)


def test_a_generator_without_classes_is_refused_before_it_is_trained(tiny: Tiny) -> None:
    sets = [{"name": "digits", "kind": "digits", "protocol": "mnist-nn"}]
    with pytest.raises(ConfigError, match=r"digits: the protocol mnist-nn .* is not: train\.net=mnist28"):
        load_pipeline(tiny.preset, {**tiny.changed(), "evaluate.sets": sets})


def test_a_run_is_kept_as_a_record_and_shown_on_the_page(
    tiny: Tiny, finished_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(tiny, finished_store, **FEW, baselines=["pixels"])
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("dcgan_core.evaluate.stage.processors", lambda: 96)
        run_all(tiny, finished_store, **FEW, baselines=["pixels", "supervised"])
    overrides = tiny.changed(**{f"evaluate__{name}": value for name, value in FEW.items()})
    monkeypatch.setenv("DCGAN_ROOT", finished_store.root)
    page = tmp_path / "results.md"
    for baselines in (["pixels"], ["pixels", "supervised"]):  # the second takes the place of the first
        values = {**overrides, "evaluate.baselines": baselines}
        words = [word for key, value in values.items() for word in ("-o", f"{key}={json.dumps(value)}")]
        command = ["results", str(tmp_path / "records"), "--to", str(page), "--preset", tiny.preset, *words]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert "digits" in page.read_text()
    assert "dcgan run evaluate --preset" in page.read_text()
    assert "Distance to the nearest of 100 samples" in page.read_text()
    (file,) = (tmp_path / "records").glob("digits-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["machine"].startswith("96 cores") for row in rows] == [False] * 4 + [True]
    assert "(discriminator, raw pixels); 96 cores" in page.read_text()
    assert [0 <= row.get("validation_error", -1) <= 1 for row in rows] == [False] * 4 + [True]


def test_features_are_read_from_stretches_as_they_were_written(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run_all(tiny, finished_store, **{**FEW, "max_train": 299}, baselines=["pixels"])
    with features_of(finished_store, whole, "digits", "discriminator") as halves:
        expected = {half: np.array(values) for half, values in halves.items()}
    assert len(expected["train"]) == 299
    monkeypatch.setattr("dcgan_core.evaluate.stage._ROWS", 130)
    stage = load_pipeline(
        tiny.preset,
        tiny.changed(**{f"evaluate__{name}": value for name, value in {**FEW, "max_train": 299}.items()})
        | {"evaluate.baselines": ["pixels"]},
        upto="evaluate",
    ).of("evaluate")[0]
    run(stage, finished_store, LocalBackend(1), refresh=True)
    manifest = read_manifest(finished_store, stage.address)
    assert manifest
    assert len(manifest.parts) > 2
    with features_of(finished_store, manifest, "digits", "discriminator") as halves:
        for half, values in halves.items():
            assert np.array_equal(values, expected[half])


def stages_of(tiny: Tiny, **changes: Any) -> list[Stage]:
    overrides = tiny.changed(**{f"evaluate__{name}": value for name, value in changes.items()})
    return list(load_pipeline(tiny.preset, overrides, upto="evaluate").of("evaluate")[:2])


def test_too_few_labels_name_their_set_and_the_cure_before_there_are_features(
    tiny: Tiny, finished_store: Store
) -> None:
    few = {**FEW, "sets": ["lfw", "digits"], "labels_per_class": [10], "folds": 4}
    features, scores = stages_of(tiny, **few)
    with pytest.raises(
        ConfigError, match=r"labelled set digits: .* 40 images .*evaluate.max_train to 400 or"
    ):
        run(features, finished_store, LocalBackend(1))
    # Features of another protocol are there: what is judged on them is checked all the same.
    run_all(tiny, finished_store, **{**few, "labels_per_class": [5]}, baselines=["pixels"])
    features, scores = stages_of(tiny, **few, baselines=["pixels"])
    assert run(features, finished_store, LocalBackend(1)).cached
    with pytest.raises(ConfigError, match=r"labelled set digits: .* 40 images"):
        scores.plan(finished_store)


def test_scores_are_made_one_at_a_time_with_the_whole_machine(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, scores = stages_of(tiny, **FEW, baselines=["pixels"])
    run(features, finished_store, LocalBackend(1))
    monkeypatch.delattr("dcgan_core.backend._workers")  # nobody else can be asked
    run(scores, finished_store, LocalBackend(8))
    manifest = read_manifest(finished_store, scores.address)
    assert manifest
    assert len(manifest.parts) == 2


def test_planning_decodes_no_image(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(tiny, finished_store, **FEW, baselines=["pixels"])

    def read(*_: object) -> NoReturn:
        raise AssertionError("an image was read")

    for stage in stages_of(tiny, **FEW, baselines=["pixels"]):
        with monkeypatch.context() as patched:
            patched.setattr("dcgan_core.evaluate.stage._LOADED", {})
            patched.setattr("dcgan_core.evaluate.datasets._read_images", read)
            parts = stage.plan(finished_store)
            with pytest.raises(AssertionError, match="an image was read"):
                stage.work(finished_store, parts[0], silent)
        assert len(parts) == 2


def test_features_that_are_not_finite_name_the_set_the_half_and_the_row_there(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(maps: Any) -> Tensor:
        features = pool_and_join(maps)
        features[17] = torch.nan
        return features

    monkeypatch.setattr("dcgan_core.evaluate.stage._ROWS", 150)
    monkeypatch.setattr("dcgan_core.evaluate.features.pool_and_join", spoiled)
    stage, _ = stages_of(tiny, **FEW, baselines=["pixels"])
    assert isinstance(stage, Features)
    part = stage.plan(finished_store)[1]
    batch = next(int(first) for first in batch_bounds(300) if first >= part.payload.rows.start)
    drawn = stage.drawn(part.payload.spec)
    place = f"image {batch + 17} is row {drawn.train.rows_N[batch + 17]} of scikit-learn digits"
    said = f"labelled set digits, train images, discriminator \\({place}.*features of image {batch + 17} are"
    with pytest.raises(FeaturesNotFinite, match=said):
        stage.work(finished_store, part, silent)
