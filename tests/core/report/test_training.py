"""What the report says of a training: scores, diversity, what was switched on, what went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import Address, Manifest, PartFile, Receipt, write_part
from dcgan_core.config import PipelineConfig
from dcgan_core.report.content import Training
from dcgan_core.report.gather import gather
from dcgan_core.report.page import render
from dcgan_core.storage import Store
from tests.conftest import bare_manifest

ADDRESS = Address("train", "a" * 16)
OLD = {"schedule": "both", "batch_size": 32, "learning_rate": 2e-4, "beta1": 0.5, "ema": 0.0}
"""The configuration of an artifact from before there were scores."""
SPEC = {"name": "paper64", "size": 8, "z_size": 100, "z_kind": "uniform", "discriminator": [{"filters": 4}]}
PLAIN = {**OLD, "best_by": "kernel", "held_out": 0, "rollback_rate": 0.5, "augment": [], "sync_bn": False}
PLAIN |= {"objective": "non-saturating", "d_steps": 1, "decay": 0.0, "result": "last"}
LOG = [
    {"step": 10, "loss_d": 1.0, "loss_g": 2.0, "d_real": 0.6, "d_fake": 0.4, "diversity": 0.9},
    {"step": 20, "loss_d": 1.0, "loss_g": 2.0, "d_real": 0.6, "d_fake": 0.4, "kernel": 0.25, "nearest": 8.0},
]
SCORE = {"by": "kernel", "step": 1020, "value": 0.25}
ROLLBACKS = [
    {"step": 1200, "sign": "a", "words": "<b>samples</b> are alike", "to_step": 1000, "answer": "lower_rate"},
    {"step": 1300, "sign": "b", "words": "loss_d is nan", "to_step": 0, "answer": "new_seed"},
]
OTHERS = ("Augmentation", "Activation of D", "Spectral norm", "Batch norm", "Objective of G")
OTHERS += ("Updates of D for each of G", "Decay of the rate", "Result")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def trained(
    store: Store,
    config: dict[str, Any],
    about: dict[str, Any],
    log: list[dict[str, float]],
    folders: tuple[str, ...] = (),
    d_updates: int = 20,
) -> Manifest:
    lines = "".join(json.dumps(line) + "\n" for line in log)
    files: list[PartFile] = [write_part(store, ADDRESS, "metrics.jsonl", lines.encode())]
    for folder, step in (("", 20), *((f"{name}/", 1020) for name in folders)):
        text = json.dumps({"spec": SPEC, "step": step, **about})
        files.append(write_part(store, ADDRESS, f"{folder}model.json", text.encode()))
    counts = {"samples": 6, "steps": 20, "images_seen": 640, "g_updates": 20, "d_updates": d_updates}
    made = bare_manifest(ADDRESS, [Receipt(part=0, key="0", files=tuple(files))], counts)
    return made.model_copy(update={"config": config})


def shown(store: Store, manifest: Manifest) -> tuple[Training, str]:
    content = gather(store, {"train": manifest}, PipelineConfig(), "demo")
    assert content.training is not None
    return content.training, render(content, artifacts="../artifacts")


def test_the_score_and_the_diversity_are_drawn_and_the_best_step_is_named(store: Store) -> None:
    training, page = shown(store, trained(store, PLAIN, {"score": SCORE}, LOG))
    for figure in ("losses", "verdicts", "score", "diversity"):
        assert page.count(f'data-name="{figure}"') == 1
    assert "Best at step 1,020" in page
    assert training.score.values == (0.25,)
    assert training.diversity.steps == (10,)
    assert dict(training.facts)["Best step"] == "1,020, kernel distance 0.25"
    assert "learning by heart" in training.score_words


def test_the_score_drawn_is_the_one_the_best_step_was_chosen_by(store: Store) -> None:
    config = {**PLAIN, "best_by": "nearest", "held_out": 500}
    score = {"by": "nearest", "step": 20, "value": 8.0}
    training, _ = shown(store, trained(store, config, {"score": score}, LOG))
    assert training.score.values == (8.0,)
    assert dict(training.facts)["Best step"] == "20, nearest sample 8"
    assert "kept out of training" in training.score_words


def test_an_artifact_from_before_there_were_scores_has_no_such_figures(store: Store) -> None:
    log = [{name: value for name, value in LOG[0].items() if name != "diversity"}]
    training, page = shown(store, trained(store, OLD, {}, log))
    assert 'data-name="losses"' in page
    for words in ('data-name="score"', 'data-name="diversity"', "Best at step", "Best step", "dcgan sample"):
        assert words not in page
    assert training.best is None


def test_a_run_that_was_never_scored_has_no_best_step(store: Store) -> None:
    training, page = shown(store, trained(store, PLAIN, {"score": {"by": "kernel"}}, LOG[:1]))
    assert training.best is None
    assert 'data-name="score"' not in page
    assert 'data-name="diversity"' in page


def test_options_are_named_where_they_are_on_and_only_there(store: Store) -> None:
    training, _ = shown(store, trained(store, PLAIN, {}, LOG))
    assert not {name for name, _ in training.facts} & set(OTHERS)
    changed = {"augment": ["color", "cutout"], "sync_bn": True, "objective": "minmax", "d_steps": 3}
    changed |= {"decay": 0.5, "result": "best"}
    spec = {**SPEC, "d_activation": "prelu", "spectral_norm": True}
    training, _ = shown(store, trained(store, {**PLAIN, **changed}, {"spec": spec}, LOG))
    facts = dict(training.facts)
    assert [facts[name] for name in OTHERS] == [
        "color, cutout",
        "PReLU",
        "of D's weights",
        "over all workers",
        "min-max",
        "3",
        "to 0 in the last 50 % of the steps",
        "the best step's model",
    ]


def test_images_that_only_g_went_by_are_told_apart(store: Store) -> None:
    training, _ = shown(store, trained(store, PLAIN, {}, LOG))
    assert dict(training.facts)["Images seen"] == "640"
    training, _ = shown(store, trained(store, PLAIN, {}, LOG, d_updates=10))
    assert dict(training.facts)["Images seen"] == "640, 320 of them by D"


def test_each_rollback_is_a_sentence(store: Store) -> None:
    training, page = shown(store, trained(store, PLAIN, {"rollbacks": ROLLBACKS}, LOG))
    assert training.notes[-2:] == (
        "At step 1,200 training went back to step 1,000 and on with the learning rate times 0.5, because "
        "<b>samples</b> are alike.",
        "At step 1,300 training went back to its beginning and on with other noise, because loss_d is nan.",
    )
    assert "&lt;b&gt;samples" in page


@pytest.mark.parametrize(("kept", "used"), [("best", "last"), ("last", "best")])
def test_the_model_kept_beside_is_named_with_how_to_draw_from_it(store: Store, kept: str, used: str) -> None:
    _, page = shown(store, trained(store, {**PLAIN, "result": used}, {}, LOG, (kept,)))
    assert f"use the model of the {used} step" in page
    assert f"That of the {kept} step, 1,020," in page
    assert (
        f"<code>dcgan sample {store.root}/artifacts/train/{ADDRESS.fingerprint}/parts/{kept}</code>" in page
    )
