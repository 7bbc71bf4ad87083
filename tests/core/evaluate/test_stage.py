"""Scores belong to their set, whatever order the sets stand in."""

from __future__ import annotations

import pytest

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import run
from dcgan_core.storage import Store
from tests.conftest import Tiny

pytest.importorskip("skimage", reason="the set `lfw` comes inside scikit-image")


def accuracies(
    tiny: Tiny, store: Store, sets: list[str], svm_c: float
) -> tuple[dict[str, float], list[bool]]:
    overrides = tiny.changed(evaluate__sets=sets, evaluate__svm_c=[svm_c])
    stages = load_pipeline(tiny.preset, overrides, upto="evaluate").of("evaluate")
    cached = [run(stage, store, LocalBackend(1)).cached for stage in stages]
    manifest = read_manifest(store, stages[-1].address)
    assert manifest
    return {name: rows["discriminator"] for name, rows in manifest.metrics["accuracy"].items()}, cached


def test_scores_do_not_depend_on_the_order_of_the_sets(tiny: Tiny, finished_store: Store) -> None:
    one, _ = accuracies(tiny, finished_store, ["digits", "lfw"], 1e-2)
    same, _ = accuracies(tiny, finished_store, ["digits", "lfw"], 2e-2)
    other, cached = accuracies(tiny, finished_store, ["lfw", "digits"], 2e-2)
    assert one.keys() == other.keys()
    assert other == same
    assert cached[0], "the features are the same in any order"
