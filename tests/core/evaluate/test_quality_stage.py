"""The stage `quality`: each measure by name, what it reads, what is taken over, what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dcgan_core.artifacts import Manifest, all_manifests, read_manifest, read_part
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.diversity import mean_pairwise_distance
from dcgan_core.evaluate.inception import load_inception
from dcgan_core.evaluate.quality import TITLES
from dcgan_core.evaluate.summary import Summary
from dcgan_core.models.sampling import pixels_in_batches
from dcgan_core.models.weights import load_trained
from dcgan_core.pipeline import load_pipeline
from dcgan_core.shard.reader import open_shards
from dcgan_core.stage import run
from dcgan_core.storage import Store
from tests.conftest import Tiny


def measured(tiny: Tiny, store: Store, **changes: Any) -> tuple[Manifest, dict[str, dict[str, Any]]]:
    """The manifest of `quality`, and each measure's file by its name."""
    overrides = tiny.changed(**{f"evaluate__{name}": value for name, value in changes.items()})
    *_, stage = load_pipeline(tiny.preset, overrides, upto="evaluate").of("evaluate")
    assert stage.artifact == "quality"
    run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stage.address)
    assert manifest
    bodies = [json.loads(read_part(store, manifest.address, file)) for file in manifest.named("quality-")]
    return manifest, {body["measure"]: body for body in bodies}


WITH_SET = {"quality_set": "digits", "quality": ["pixels", "memorisation", "classifier"]}


def test_pixels_are_the_slow_obvious_figures(tiny: Tiny, finished_store: Store) -> None:
    manifest, bodies = measured(tiny, finished_store)
    values = {value["name"]: value for value in bodies["pixels"]["values"]}
    *_, stage = load_pipeline(tiny.preset, tiny.overrides, upto="evaluate").of("evaluate")
    model = load_trained(finished_store, stage.input_manifest(finished_store, "train"))
    weights = "ema" if model.ema is not None else "plain"
    drawn = pixels_in_batches(model, 100, seed=stage.seed, weights=weights)
    samples = torch.cat([pixels for pixels, _ in drawn]).flatten(1).double() / 127.5 - 1
    shards = open_shards(finished_store, stage.input_manifest(finished_store, "shards"), model.spec.size)
    real = shards.pixels(np.arange(len(shards))).reshape(len(shards), -1)
    nearest = torch.cdist(torch.from_numpy(real.astype(float)) / 127.5 - 1, samples).min(1).values
    assert values["nearest_sample_distance_100"]["value"] == pytest.approx(float(nearest.mean()), rel=1e-9)
    assert values["nearest_sample_distance_100"]["real"] is None, "real images are training images here"
    assert values["mean_pairwise_distance"]["value"] == pytest.approx(
        mean_pairwise_distance(samples), rel=1e-5
    )
    assert manifest.counts == {"measures": 1}
    assert manifest.metrics.keys() == values.keys()
    assert bodies["pixels"]["images"] == {"samples": 100, "real": len(shards)}


def test_every_measure_with_a_labelled_set(tiny: Tiny, finished_store: Store) -> None:
    manifest, bodies = measured(tiny, finished_store, **WITH_SET)
    assert list(bodies) == ["pixels", "memorisation", "classifier"]
    names = {value["name"] for body in bodies.values() for value in body["values"]}
    assert {name for name in TITLES if name.startswith(("classifier_", "pixels_"))} <= names
    assert bodies["memorisation"]["images"]["unseen"] == 60
    assert bodies["pixels"]["values"][0]["real"] is None, "there are fewer training images than samples"
    assert manifest.metrics["classifier_accuracy"] > 0.5, "of 10 classes of digits, after 10 epochs"
    assert all(np.isfinite(value) for value in manifest.metrics.values())
    (closest,) = manifest.named("closest-")
    picture = Image.open(io.BytesIO(read_part(finished_store, manifest.address, closest)))
    assert picture.width > picture.height > 0


def test_another_measure_leaves_the_others_alone(tiny: Tiny, finished_store: Store) -> None:
    few, _ = measured(tiny, finished_store, **{**WITH_SET, "quality": ["pixels", "classifier"]})
    more, bodies = measured(tiny, finished_store, **WITH_SET)
    assert len(bodies) == 3
    assert more.provenance["parts_reused"] == len(few.parts) == 3
    assert more.metrics.items() >= few.metrics.items()


def test_the_real_side_is_not_made_again_for_another_net(tiny: Tiny, finished_store: Store) -> None:
    before, _ = measured(tiny, finished_store, quality_set="digits", quality=["classifier"])
    overrides = tiny.changed(
        evaluate__quality_set="digits", evaluate__quality=["classifier"], train__steps=11
    )
    stages = load_pipeline(tiny.preset, overrides, upto="evaluate").stages
    for stage in stages:
        run(stage, finished_store, LocalBackend(1))
    after = read_manifest(finished_store, stages[-1].address)
    assert after
    assert after.provenance["parts_reused"] == 1
    assert after.parts[0].files == before.parts[0].files
    assert after.metrics["classifier_accuracy"] == before.metrics["classifier_accuracy"]
    assert after.metrics != before.metrics


def test_a_measure_is_the_same_whatever_else_is_measured(tiny: Tiny, finished_store: Store) -> None:
    _, together = measured(tiny, finished_store, **WITH_SET)
    for measure in ("classifier", "memorisation"):
        remove_all(finished_store)
        _, alone = measured(tiny, finished_store, quality_set="digits", quality=[measure])
        found, before = (
            {value["name"]: value["value"] for value in body[measure]["values"]} for body in (alone, together)
        )
        assert {name: before[name] for name in found if name in before} == {
            name: pytest.approx(value, rel=1e-6) for name, value in found.items() if name in before
        }


def remove_all(store: Store) -> None:
    for manifest in all_manifests(store, "quality"):
        store.delete(manifest.address.path)


def test_inceptions_figures_come_from_the_users_file_and_the_real_side_is_kept(
    tiny: Tiny, finished_store: Store, inception_weights: Path
) -> None:
    asked = {"quality": ["inception"], "inception_weights": str(inception_weights)}
    manifest, bodies = measured(tiny, finished_store, **asked)
    assert bodies["inception"]["images"]["samples"] == 100
    assert {"fid", "kid", "precision", "recall", "inception_score"} <= manifest.metrics.keys()
    assert all(np.isfinite(value) for value in manifest.metrics.values())
    (real,) = manifest.named("real-")
    *_, stage = load_pipeline(
        tiny.preset, tiny.changed(**{f"evaluate__{k}": v for k, v in asked.items()}), upto="evaluate"
    ).of("evaluate")
    model = load_trained(finished_store, stage.input_manifest(finished_store, "train"))
    shards = open_shards(finished_store, stage.input_manifest(finished_store, "shards"), model.spec.size)
    net = load_inception(str(inception_weights), None, inception_weights.parent / "cache")
    images = torch.from_numpy(np.ascontiguousarray(shards.pixels(np.arange(len(shards)))))
    summary = Summary.from_bytes(read_part(finished_store, manifest.address, real), "real images")
    torch.testing.assert_close(summary.kept_NF, net(images)[0], rtol=1e-4, atol=1e-4)


def test_a_grey_net_is_compared_with_grey_images(tiny: Tiny, finished_store: Store) -> None:
    overrides = tiny.changed(
        train__channels=1,
        evaluate__sets=["lfw"],
        evaluate__quality=["pixels", "classifier", "memorisation"],
        evaluate__quality_set="lfw",
    )
    stages = load_pipeline(tiny.preset, overrides, upto="evaluate").stages
    for stage in stages:
        run(stage, finished_store, LocalBackend(1))
    manifest = read_manifest(finished_store, stages[-1].address)
    assert manifest
    assert manifest.counts == {"measures": 3}
    assert all(np.isfinite(value) for value in manifest.metrics.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quality": ["memorisation"]}, r"images that the generator has not seen.*train\.held_out"),
        ({"quality": ["classifier"]}, r"trained on a labelled set.*evaluate\.quality_set"),
        ({"quality_set": "cifar"}, r"quality_set is 'cifar', and evaluate\.sets has digits"),
        ({"quality": ["inception"]}, r"inception_weights is empty.*weights-inception-2015"),
        ({"quality": ["inception"], "inception_weights": "/nowhere.pth"}, r"there is no file /nowhere\.pth"),
        (
            {"quality": ["inception"], "inception_weights": "https://example.org/w.pth"},
            r"inception_weights_sha256 is needed",
        ),
    ],
)
def test_what_a_measure_lacks_is_said_before_anything_runs(
    changes: dict[str, Any], words: str, tiny: Tiny
) -> None:
    overrides = tiny.changed(**{f"evaluate__{name}": value for name, value in changes.items()})
    with pytest.raises(ConfigError, match=words):
        load_pipeline(tiny.preset, overrides)


def test_images_held_out_of_training_are_unseen(tiny: Tiny, finished_store: Store) -> None:
    overrides = tiny.changed(
        train__held_out=4, evaluate__quality=["pixels", "memorisation"], evaluate__quality_samples=100
    )
    stages = load_pipeline(tiny.preset, overrides, upto="evaluate").stages
    for stage in stages:
        run(stage, finished_store, LocalBackend(1))
    manifest = read_manifest(finished_store, stages[-1].address)
    assert manifest
    bodies = [json.loads(read_part(finished_store, manifest.address, f)) for f in manifest.named("quality-")]
    assert [body["unseen"] for body in bodies] == ["train.held_out"] * 2
    assert bodies[0]["images"] == {"samples": 100, "real": 4}
    assert bodies[1]["images"]["unseen"] == 4
    assert bodies[1]["images"]["training"] + 4 == manifest_samples(finished_store, stages)


def manifest_samples(store: Store, stages: Any) -> int:
    (shards,) = (stage for stage in stages if stage.artifact == "shards")
    manifest = read_manifest(store, shards.address)
    assert manifest
    return manifest.counts["samples"]
