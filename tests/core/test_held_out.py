"""An image held out of one week's training is trained on in no other week, and the reverse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan_core.artifacts import Address, Manifest, read_manifest, remove
from dcgan_core.backend import LocalBackend
from dcgan_core.config import TrainConfig, load_config
from dcgan_core.errors import ConfigError
from dcgan_core.held_out import BELOW, PATH, Threshold, places, threshold
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.sources import item_key
from dcgan_core.shard.reader import open_shards, read_images
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.conftest import PHOTO_SEED, Tiny, set_changed

FIRST, SECOND = Address("train", "1" * 16), Address("train", "2" * 16)


def photo_keys(numbers: list[int], crops: int = 1) -> list[str]:
    return [item_key(f"photo-{number}.jpg") for number in numbers for _ in range(crops)]


def sides(keys: list[str], below: float) -> tuple[set[str], set[str]]:
    is_held_N = places(keys) < below
    return (
        {key for key, held in zip(keys, is_held_N, strict=True) if held},
        {key for key, held in zip(keys, is_held_N, strict=True) if not held},
    )


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 10**6), min_size=40, max_size=200, unique=True),
    st.data(),
    st.one_of(st.integers(2, 20), st.floats(0.2, 0.8)),
)
def test_no_photo_changes_sides_when_others_come_go_or_change_places(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], data: st.DataObject, held_out: float
) -> None:
    store = Store(str(tmp_path_factory.mktemp("root")))
    new = range(10**6 + 1, 10**6 + 2 + len(first) // 20)
    second = data.draw(st.permutations(sorted({*first[len(first) // 20 :], *new})))
    weeks = [photo_keys(first), photo_keys(second)]
    found = [
        threshold(store, address, held_out, lambda keys=keys: keys).below
        for address, keys in zip((FIRST, SECOND), weeks, strict=True)
    ]
    (held, seen), (later_held, later_seen) = (sides(*each) for each in zip(weeks, found, strict=True))
    assert not held & later_seen
    assert not seen & later_held
    if held_out >= 2:
        assert len(held) == held_out


def test_the_first_threshold_holds_for_every_number_and_a_lost_file_comes_back(store: Store) -> None:
    keys = photo_keys(list(range(50)))
    first = threshold(store, FIRST, 5, lambda: keys)
    assert int((places(keys) < first.below).sum()) == 5
    assert threshold(store, SECOND, 20, lambda: keys[:30]) == first
    assert json.loads(store.read_bytes(PATH)) == {
        "below": first.below,
        "wanted": 5,
        "training": str(FIRST),
    }
    assert first.below not in places(keys)  # it says of no photo that it was there


def test_crops_of_one_photo_are_on_one_side(store: Store) -> None:
    keys = photo_keys(list(range(20)), crops=3)
    held = places(keys) < threshold(store, FIRST, 4, lambda: keys).below
    assert int(held.sum()) == 6
    assert [set(three) for three in np.split(held, 20) if len(set(three.tolist())) > 1] == []


def test_a_threshold_that_would_leave_one_side_empty_is_not_kept(store: Store) -> None:
    for keys, wanted in ((photo_keys([1, 2, 3]), 2), (photo_keys([1], crops=9), 4)):
        with pytest.raises(
            ConfigError, match=r"train\.held_out=\d holds out \d of the \d images.*at least two"
        ):
            threshold(store, FIRST, wanted, lambda keys=keys: keys)
    assert not store.exists(PATH)


def test_a_damaged_file_is_said_and_not_guessed(store: Store) -> None:
    store.write_bytes(PATH, b"{}")
    with pytest.raises(ConfigError, match=r"held-out\.json cannot be read; delete it"):
        threshold(store, FIRST, 5, lambda: photo_keys(list(range(50))))


@pytest.mark.parametrize("value", [0, 0.0, "0"])
def test_nothing_held_out_is_one_setting_however_it_is_written(value: Any) -> None:
    config = load_config("faces64", {"train.held_out": value}).train
    assert json.dumps(config.identity("held_out")) == '{"held_out": 0}'


@pytest.mark.parametrize(("value", "kept"), [(0.05, 0.05), (1000, 1000), (1000.0, 1000)])
def test_a_share_or_a_number_can_be_held_out(value: float, kept: float) -> None:
    assert repr(TrainConfig(held_out=value).held_out) == repr(kept)


@pytest.mark.parametrize("value", [1, 1.0, 1.5, -1, -0.1, 2.5, True])
def test_what_is_neither_a_share_nor_a_number_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"train\.held_out: .*a share.*0\.05.*1000"):
        load_config("faces64", {"train.held_out": value})


def make(tiny: Tiny, store: Store, **changes: Any) -> dict[str, Manifest]:
    """Everything up to the training, in two steps of it."""
    found = {}
    overrides = tiny.changed(**{"train__steps": 2, "train__score_every": 1, **changes})
    for stage in load_pipeline(tiny.preset, overrides, upto="train").stages:
        run(stage, store, LocalBackend(1))
        manifest = read_manifest(store, stage.address)
        assert manifest
        found[stage.artifact] = manifest
    return found


def sides_of(store: Store, made: dict[str, Manifest]) -> tuple[set[str], set[str]]:
    """Photos held out, as the training names them, and the others in its shards."""
    every = set(open_shards(store, made["shards"], 16).index.photo_keys)
    held = set(read_all(store, made["train"], "held-out").column("photo_key").to_pylist())
    return held, every - held


def more_photos(folder: Path, subjects: range) -> None:
    from dcgan_core.scrape.demo import DemoPhoto, render

    for subject in subjects:
        path = folder / f"new-{subject:02d}.jpg"
        path.write_bytes(render(DemoPhoto(path.stem, "face", subject, "original"), PHOTO_SEED))
        set_changed(path, 100 + subject)


def test_next_week_trains_on_no_image_that_was_held_out(own_tiny: Tiny, finished_store: Store) -> None:
    store, held_out = finished_store, {"train__held_out": 4}
    first = make(own_tiny, store, **held_out)
    held, seen = sides_of(store, first)
    assert first["train"].counts["held_out"] == len(held) == 4

    more_photos(own_tiny.photos, range(20, 24))
    (own_tiny.photos / "face-03.jpg").unlink()
    second = make(own_tiny, store, **held_out)
    later_held, later_seen = sides_of(store, second)
    assert second["train"].address != first["train"].address
    assert second["shards"].content != first["shards"].content
    assert not held & later_seen
    assert not seen & later_held
    assert second["train"].metrics[BELOW] == first["train"].metrics[BELOW]
    assert second["train"].counts["held_out"] == len(later_held)

    remove(store, first["train"].address)
    store.delete(PATH)  # what is left of the first training is what the second took over
    third = make(own_tiny, store, **held_out, train__learning_rate=1e-3)
    assert sides_of(store, third) == (later_held, later_seen)
    taken = Threshold(first["train"].metrics[BELOW], 4, str(second["train"].address))
    assert json.loads(store.read_bytes(PATH)) == vars(taken)


def test_the_threshold_is_there_before_training_begins_and_outlives_a_kill(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcgan_core.train import loop

    store = finished_store

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tiny, store, train__held_out=5)
    below = json.loads(store.read_bytes(PATH))["below"]
    ended = make(tiny, store, train__held_out=3, train__learning_rate=1e-3)["train"]
    assert (ended.metrics[BELOW], ended.counts["held_out"]) == (below, 5)


def test_with_nothing_held_out_the_training_is_where_it_was(tiny: Tiny, finished_store: Store) -> None:
    made = make(tiny, finished_store)["train"]
    assert "held_out_by" not in made.config
    assert BELOW not in made.metrics
    assert "held_out" not in made.counts
    assert not made.named("held-out")
    assert not finished_store.exists(PATH)


def test_a_cut_off_training_ends_with_the_same_bytes_and_the_same_keys(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcgan_core.train import loop

    store, looks, score = finished_store, iter(range(100)), loop._score
    changes = {"train__held_out": 0.3, "train__checkpoint_every": 1}

    def cut_off(*of: Any) -> bool:
        if next(looks) == 1:
            raise KeyboardInterrupt
        return score(*of)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_score", cut_off)
        with pytest.raises(KeyboardInterrupt):
            make(tiny, store, **changes)
    resumed = make(tiny, store, **changes)["train"]
    remove(store, resumed.address)
    straight = make(tiny, store, **changes)["train"]
    assert {file.name: file.sha256 for file in resumed.files if file.data} == {
        file.name: file.sha256 for file in straight.files if file.data
    }
    assert resumed.named("held-out") == straight.named("held-out")


def test_what_stands_in_for_a_bad_sample_is_of_its_side(tiny: Tiny, finished_store: Store) -> None:
    shards = read_manifest(finished_store, load_pipeline(tiny.preset, tiny.overrides).of("shard")[0].address)
    assert shards
    opened = open_shards(finished_store, shards, 16, max_bad=0.9, held_below=0.4)
    whole = opened.pixels(np.arange(len(opened)))
    for is_held_N in (opened.is_held_N, ~opened.is_held_N):
        side = np.flatnonzero(is_held_N)
        assert len(side) >= 2, "choose another threshold"
        ill = open_shards(finished_store, shards, 16, max_bad=0.9, held_below=0.4)
        ill.index.check_N[side[:-1]] ^= 1  # type: ignore[index]
        shown = ill.pixels(side)
        assert (shown == whole[side[-1]]).all()


def test_neighbours_are_sought_among_the_images_that_were_trained_on(
    tiny: Tiny, finished_store: Store
) -> None:
    shards = read_manifest(finished_store, load_pipeline(tiny.preset, tiny.overrides).of("shard")[0].address)
    assert shards
    opened = open_shards(finished_store, shards, 16, held_below=0.4)
    images = read_images(finished_store, shards, 16, held_below=0.4)
    seen_N = np.flatnonzero(~opened.is_held_N)
    assert 0 < len(seen_N) < len(opened)
    assert images.keys == [opened.index.keys[number] for number in seen_N.tolist()]
    assert np.array_equal(images.pixels_N3SS, opened.pixels(seen_N))
