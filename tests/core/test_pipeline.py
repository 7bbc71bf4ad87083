"""A change reruns what depends on it and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import Address, Manifest, read_manifest, remove
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import ConfigError, NoUsableData
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import FLOW_OF, FLOWS, is_current, run
from dcgan_core.storage import Store
from tests.conftest import Tiny, make_all, set_changed
from tests.web.photo_host import PhotoHost
from tests.web.runs import Web

ARTIFACTS = (
    "photos",
    "crops",
    "autoencoder",
    "codes",
    "links",
    "dedup",
    "gallery",
    "shards",
    "train",
    "features",
    "scores",
    "quality",
    "figures",
    "report",
)
FROM_PHOTOS = set(ARTIFACTS)
FROM_CROPS = FROM_PHOTOS - {"photos"}
FROM_CODES = FROM_CROPS - {"crops", "autoencoder"}
FROM_SHARDS = {"shards", "train", "features", "scores", "quality", "figures", "report"}
FROM_TRAIN = FROM_SHARDS - {"shards"}


def addresses(tiny: Tiny, preset: str | None = None, **changes: Any) -> dict[str, Address]:
    pipeline = load_pipeline(preset or tiny.preset, tiny.changed(**changes))
    return {stage.artifact: stage.address for stage in pipeline.stages}


def remade(tiny: Tiny, store: Store, overrides: dict[str, Any] | None = None) -> set[str]:
    """The artifacts that a run of the whole pipeline did not find made."""
    return {name for name, artifact in make_all(tiny, store, overrides).items() if not artifact.cached}


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("seed", 43, FROM_PHOTOS),
        ("scrape.as_of", "2024-05-06", set()),  # a folder is as it is on any day
        ("scrape.split", "test", set()),  # nor has it splits
        ("train.epochs", 3, set()),  # train.steps is given
        ("scrape.max_bytes", 10**6, FROM_PHOTOS),
        ("scrape.limit", 19, FROM_PHOTOS),
        ("crop.method", "center", FROM_CROPS),
        ("crop.margin", 0.3, FROM_CROPS),
        ("crop.max_outside", 0.1, FROM_CROPS),
        ("crop.stored_size", 48, FROM_CROPS),
        ("crop.min_sharpness", 9.0, FROM_CROPS),
        ("crop.keep_names", True, FROM_CROPS),
        ("crop.min_score", 0.9, set()),  # the method is haar
        ("dedup.noise", 0.2, FROM_CROPS - {"crops"}),
        ("dedup.min_steps", 31, FROM_CROPS - {"crops"}),
        ("dedup.threshold", "zero", FROM_CODES),
        ("dedup.radius", 9, FROM_CODES - {"codes"}),
        ("dedup.verify", 0.95, FROM_CODES - {"codes", "links"}),
        ("dedup.verify_step", 0.02, FROM_CODES - {"codes", "links"}),
        ("dedup.diameter", 20, FROM_CODES - {"codes", "links"}),
        ("dedup.rank", ["side", "score"], FROM_CODES - {"codes", "links"}),
        ("dedup.codes_per_task", 2, set()),
        ("dedup.gallery_groups", 3, {"gallery", "report"}),
        ("dedup.method", "paper", FROM_CROPS - {"crops"}),
        ("shard.jpeg_quality", 90, FROM_SHARDS),
        ("shard.samples_per_shard", 6, FROM_SHARDS),
        ("train.beta1", 0.4, FROM_TRAIN),
        ("train.steps", 9, FROM_TRAIN),
        ("train.width", 16, FROM_TRAIN),
        ("evaluate.sets", ["lfw"], {"features", "scores", "report"}),
        ("evaluate.max_train", 101, {"features", "scores", "report"}),
        ("evaluate.svm_c", [1.0], {"scores", "report"}),
        ("evaluate.nn_samples", [100], set()),  # no set has the protocol
        ("evaluate.quality", [], {"quality", "report"}),
        ("evaluate.quality_samples", 101, {"quality", "report"}),
        ("train.held_out", 2, FROM_TRAIN),
        ("analyze.grid", 16, {"figures", "report"}),
        ("report.title", "Mine", {"report"}),
    ],
)
def test_a_changed_key_changes_its_stage_and_those_that_depend_on_it(
    key: str, value: Any, changed: set[str], tiny: Tiny
) -> None:
    before, after = addresses(tiny), addresses(tiny, **{key: value})
    assert tuple(before) == ARTIFACTS
    assert {name for name in ARTIFACTS if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("key", "value"),
    [("evaluate.max_test", 59), ("evaluate.max_train", 99), ("evaluate.test_share", 0.5)],
)
def test_what_decides_the_images_of_the_named_set_changes_the_measures(
    key: str, value: Any, tiny: Tiny
) -> None:
    named = {"evaluate__quality_set": "digits"}
    before, after = addresses(tiny, **named), addresses(tiny, **named, **{key: value})
    assert before["quality"] != after["quality"]
    assert addresses(tiny)["quality"] == addresses(tiny, **{key: value})["quality"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scrape.contact", "somebody@example.org"),
        ("scrape.download", True),
        ("scrape.concurrency", 1),
        ("scrape.timeout_seconds", 1.0),
        ("scrape.retries", 0),
        ("scrape.max_failure_rate", 0.5),
        ("scrape.max_shrink", 1.0),
        ("crop.weights", "/some/where.onnx"),
        ("crop.photo_seconds", 3.0),
        ("train.log_every", 3),
        ("train.sample_every", 3),
        ("train.checkpoint_every", 3),
        ("train.keep_checkpoints", 3),
    ],
)
def test_effort_changes_no_address(key: str, value: Any, tiny: Tiny) -> None:
    assert addresses(tiny, **{key: value}) == addresses(tiny)


def test_neither_the_name_of_the_preset_nor_places_change_an_address(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = addresses(tiny)
    mine = tmp_path / "mine.toml"
    mine.write_text('[train]\nnet = "paper64"\n')
    assert addresses(tiny, preset=str(mine)) == before
    moved = tmp_path / "moved"
    shutil.copytree(tiny.photos, moved)
    assert addresses(tiny, scrape__path=str(moved)) == before
    monkeypatch.setenv("DCGAN_ROOT", "/some/where")
    monkeypatch.setenv("DCGAN_SLOTS", "7")
    assert addresses(tiny) == before


def test_every_artifact_names_a_flow_that_there_is(tiny: Tiny) -> None:
    stages = load_pipeline(tiny.preset, tiny.overrides).stages
    searched = {"scrape.source": "search", "scrape.contact": "somebody@example.org"}
    stages += load_pipeline(tiny.preset, searched, upto="scrape").stages
    assert {stage.artifact: stage.flow for stage in stages} == FLOW_OF
    assert [flow for flow in FLOWS if flow in FLOW_OF.values()] == list(FLOWS)


def test_a_pipeline_up_to_a_stage_does_not_look_at_sources_of_later_ones(tiny: Tiny) -> None:
    absent = {"name": "absent", "kind": "parquet", "train": "/no/such/file"}
    upto = load_pipeline(tiny.preset, tiny.changed(evaluate__sets=[absent]), upto="analyze")
    assert {stage.flow for stage in upto.stages} == {*FLOWS} - {"evaluate", "report"}
    with pytest.raises(ConfigError, match="absent"):
        load_pipeline(tiny.preset, tiny.changed(evaluate__sets=[absent]), upto="evaluate")
    with pytest.raises(ConfigError, match="no stage 'paint'"):
        load_pipeline(tiny.preset, tiny.overrides, upto="paint")


def test_a_net_that_does_not_fit_the_shards_is_refused_before_any_work(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"set shard\.size=32 or train\.size=16"):
        load_pipeline(tiny.preset, tiny.changed(train__size=32), upto="train")


def test_a_second_run_finds_everything_made(finished_store: Store, tiny: Tiny) -> None:
    assert remade(tiny, finished_store) == set()


@pytest.mark.parametrize("artifact", ["crops", "dedup", "shards", "train", "scores", "figures"])
def test_a_removed_artifact_is_made_again_and_nothing_else(
    artifact: str, finished_store: Store, tiny: Tiny
) -> None:
    address = addresses(tiny)[artifact]
    before = manifest_at(finished_store, address)
    remove(finished_store, address)
    assert remade(tiny, finished_store) == {artifact}
    assert manifest_at(finished_store, address).content == before.content


def test_a_changed_threshold_reruns_codes_and_what_follows(finished_store: Store, tiny: Tiny) -> None:
    assert remade(tiny, finished_store, tiny.changed(dedup__threshold="zero")) == FROM_CODES
    assert remade(tiny, finished_store) == set()


def test_a_week_without_news_computes_nothing_after_the_photos(
    store: Store, tiny: Tiny, tmp_path: Path
) -> None:
    bodies = {f"/photos/{photo.name}": photo.read_bytes() for photo in sorted(tiny.photos.iterdir())}
    with PhotoHost(photos=bodies) as double:
        web = Web(store, tmp_path, double, ("photos.test",))
        overrides = {**tiny.overrides, **web.overrides(f"http://photos.test{path}" for path in bodies)}
        first = make_all(tiny, store, overrides | {"scrape.as_of": "2024-05-06"})
        second = make_all(tiny, store, overrides | {"scrape.as_of": "2024-05-13"})
    assert set(second) == {*ARTIFACTS, "candidates"}
    assert second["candidates"].cached
    for name in ARTIFACTS[1:]:
        before, after = (manifest_at(store, week[name].address) for week in (first, second))
        assert after.address != before.address
        assert after.predecessor == before.fingerprint, name
        # The page is drawn again: it names the week and the artifacts it shows, which `gc` may leave alone.
        assert after.provenance["parts_done"] == (name == "report"), name
        assert after.content == before.content, name
    page = store.read_bytes(second["report"].address.part_path("index.html")).decode()
    assert "2024-05-13" in page
    assert "2024-05-06" not in page
    for name in ("train", "gallery"):
        assert second[name].address.fingerprint in page
        assert first[name].address.fingerprint not in page


def test_added_photos_cost_only_the_parts_they_lie_in(store: Store, own_tiny: Tiny) -> None:
    before = photos_and_crops(own_tiny, store)
    for number in range(2):
        added = own_tiny.photos / f"added-{number}.jpg"
        shutil.copy(own_tiny.photos / f"face-0{number}.jpg", added)
        set_changed(added, 100 + number)
    after = photos_and_crops(own_tiny, store)
    for name in ("photos", "crops"):
        unchanged = {receipt.key for receipt in before[name].parts} & {
            receipt.key for receipt in after[name].parts
        }
        assert len(unchanged) >= len(before[name].parts) - 1
        assert after[name].provenance["parts_reused"] == len(unchanged)
        assert after[name].predecessor == before[name].fingerprint
    assert after["photos"].counts["items"] == before["photos"].counts["items"] + 2
    assert after["crops"].counts["ok"] > before["crops"].counts["ok"]


def test_a_changed_photo_is_read_again(store: Store, own_tiny: Tiny) -> None:
    before = photos_and_crops(own_tiny, store)
    photo = own_tiny.photos / "scene-01.jpg"
    photo.write_bytes((own_tiny.photos / "face-03.jpg").read_bytes())
    set_changed(photo, 17)  # the same time as before: its size tells
    after = photos_and_crops(own_tiny, store)
    assert after["crops"].counts["ok"] == before["crops"].counts["ok"] + 1


def test_a_source_without_any_photo_is_refused_with_what_to_do(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    scrape = load_pipeline("faces64", {"scrape.path": str(tmp_path / "empty")}, upto="scrape").stages[0]
    with pytest.raises(NoUsableData, match=r"empty: check scrape\.path"):
        run(scrape, store, LocalBackend(1))
    assert is_current(scrape, store) is None


def test_photos_without_any_face_are_refused_with_what_to_do(store: Store, own_tiny: Tiny) -> None:
    for photo in own_tiny.photos.iterdir():
        if not photo.name.startswith("scene"):
            photo.unlink()
    with pytest.raises(NoUsableData, match=r"3 no_face.*crop\.method=center"):
        photos_and_crops(own_tiny, store)


def manifest_at(store: Store, address: Address) -> Manifest:
    manifest = read_manifest(store, address)
    assert manifest is not None
    return manifest


def photos_and_crops(tiny: Tiny, store: Store) -> dict[str, Manifest]:
    made = {}
    for stage in load_pipeline(tiny.preset, tiny.overrides, upto="crop").stages:
        run(stage, store, LocalBackend(1))
        made[stage.artifact] = manifest_at(store, stage.address)
    return made
