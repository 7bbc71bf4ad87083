"""Shuffled through files or made in one piece, shards are the same; what is damaged is named and mended."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan_core.artifacts import Address, Manifest, read_manifest, write_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ShardConfig
from dcgan_core.errors import BadSamples, ConfigError, MissingArtifact
from dcgan_core.shard.check import damage, repair, shard_files
from dcgan_core.shard.order import Shuffle
from dcgan_core.shard.plan import Layout
from dcgan_core.shard.reader import open_shards
from dcgan_core.shard.stage import Scatter, Shard
from dcgan_core.stage import run
from dcgan_core.storage import Store
from tests.core.tars import CROPS_ADDRESS, made, shard_stage, write_inputs


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=6).filter(
        lambda tables: sum(kept for kept, _ in tables) > 0
    ),
    st.integers(1, 7),
    st.integers(1, 20),
)
def test_in_two_waves_or_in_one_piece_the_tars_are_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    tables: list[tuple[int, int]],
    samples_per_shard: int,
    samples_per_task: int,
) -> None:
    store = Store(str(tmp_path_factory.mktemp("root")))
    keys = write_inputs(store, tables)
    whole = made(shard_stage(samples_per_shard, 10**6), store)
    stage = shard_stage(samples_per_shard, samples_per_task)
    assert (len(stage.plan(store)) == 1) == (len(stage.layout(stage.crops(store).counts()).tasks) == 1)
    split = made(stage, store, refresh=True)
    assert split.content == whole.content
    assert split.counts == whole.counts
    shards = open_shards(store, split, 8)
    order = Shuffle(len(keys), 3)(np.arange(len(keys)))
    assert shards.index.keys == [keys[number] for number in order]
    counts = np.diff(shards.index.first_T)
    assert counts.max() - counts.min() <= 1
    assert len(counts) == -(-len(keys) // samples_per_shard)
    assert not store.exists(f"{stage.address.path}/blocks")


@pytest.mark.parametrize("lost", ["nothing", "deleted", "changed", "cut"])
def test_a_run_that_was_cut_off_between_the_waves_ends_with_the_same_tars(store: Store, lost: str) -> None:
    write_inputs(store, [(6, 1), (0, 3), (5, 0), (7, 2)])
    whole = made(shard_stage(3, 10**6), store)
    stage = shard_stage(3, 6)

    class OnlyTheFirstWave(LocalBackend):
        def work(self, stage: Any, store: Any, parts: Any, progress: Any) -> Any:
            if parts[0].wave == 1:
                raise KeyboardInterrupt
            yield from super().work(stage, store, parts, progress)

    with pytest.raises(KeyboardInterrupt):
        run(stage, store, OnlyTheFirstWave(1), refresh=True)
    blocks = store.names(f"{stage.address.path}/blocks")
    assert len(blocks) > 1
    path = store.local_path(f"{stage.address.path}/blocks/{blocks[0]}")
    data = path.read_bytes()
    scattered: list[int] = []

    class Counting(LocalBackend):
        def work(self, stage: Any, store: Any, parts: Any, progress: Any) -> Any:
            scattered.extend(part.index for part in parts if isinstance(part.payload, Scatter))
            yield from super().work(stage, store, parts, progress)

    if lost == "deleted":
        path.unlink()
    elif lost == "changed":
        path.write_bytes(data[:-40] + b"\0" + data[-39:])
    elif lost == "cut":
        path.write_bytes(data[: len(data) // 2])
    assert made(stage, store, Counting(1)).content == whole.content
    assert scattered == ([0] if lost == "deleted" else [])


def test_tars_taken_over_from_an_earlier_edition_keep_their_names(store: Store) -> None:
    write_inputs(store, [(8, 0), (10, 0)])
    first = made(shard_stage(2, 6), store)
    again = same_crops_at_another_address(store)
    stage = shard_stage(2, 10**6)
    for samples_per_task in (4, 6, 2, 10**6):
        config = stage.config.model_copy(update={"samples_per_task": samples_per_task})
        other = replace(stage, inputs={**stage.inputs, "crops": again}, config=config)
        second = made(other, store)
        assert second.content == first.content
        names = [file.name for file in second.files]
        assert len(set(names)) == len(names) == 18
        store.delete(other.address.path)


def test_an_edition_with_the_same_crops_shuffles_nothing(store: Store) -> None:
    write_inputs(store, [(8, 0), (10, 0)])
    first_stage = shard_stage(2, 6)
    first = made(first_stage, store)
    again = same_crops_at_another_address(store)
    second = made(replace(first_stage, inputs={**first_stage.inputs, "crops": again}), store)
    assert any(not receipt.files for receipt in first.parts)  # shuffled through blocks
    assert second.predecessor == first.fingerprint
    assert second.provenance["parts_done"] == 0
    assert second.content == first.content


def same_crops_at_another_address(store: Store) -> Address:
    """The same crops, of another source."""
    again = Address("crops", "e" * 16)
    shutil.copytree(store.local_path(CROPS_ADDRESS.path), store.local_path(again.path))
    manifest = read_manifest(store, CROPS_ADDRESS)
    assert manifest is not None
    write_manifest(store, manifest.model_copy(update={"fingerprint": again.fingerprint}))
    return again


def test_tasks_are_few_and_none_holds_more_than_it_may() -> None:
    small = Layout((60_000,), 0, 2048, 131_072)
    assert [len(task) for task in small.tasks] == [8, 8, 8, 6]  # several workers have something to do
    large = Layout((100_000_000,), 0, 2048, 131_072)
    ends = np.array([0, *large.task_ends])
    assert np.diff(ends).max() <= 131_072
    assert len(large.tasks) < 800
    assert large.shards[-1].stop == 100_000_000
    assert [len(Layout((100,), 0, 2048, 10).tasks), len(Layout((100,), 0, 10, 10).tasks)] == [1, 10]


@pytest.mark.parametrize(
    ("format_name", "ending", "exact"), [("jpeg", "jpg", False), ("png", "png", True), ("webp", "webp", True)]
)
def test_images_are_written_in_the_format_asked_for(
    store: Store, format_name: str, ending: str, exact: bool
) -> None:
    write_inputs(store, [(4, 0)])
    stage = replace(shard_stage(4, 100), config=ShardConfig(size=16, format=format_name))  # pyright: ignore[reportArgumentType]
    shards = open_shards(store, made(stage, store), 16)
    assert {Path(name).suffix for name in names_in(store, stage)} == {f".{ending}", ".cls"}
    grey = sorted(int(shards[number][0].max()) for number in range(4))
    assert np.allclose(grey, [1, 2, 3, 4], atol=0 if exact else 2)


def names_in(store: Store, stage: Shard) -> list[str]:
    import tarfile

    with tarfile.open(store.local_path(stage.address.part_path("train-00000.tar"))) as tar:
        return tar.getnames()


@pytest.fixture
def shards(store: Store) -> Manifest:
    """Three tars of four samples."""
    write_inputs(store, [(5, 2), (7, 1)])
    return made(shard_stage(4, 100), store)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def all_damage(store: Store, manifest: Manifest) -> list[str]:
    found = [each for number in range(len(shard_files(manifest))) for each in damage(store, manifest, number)]
    return [f"{Path(each.file).name}|{each.sample}|{each.why}" for each in found]


def test_sound_shards_have_no_damage(store: Store, shards: Manifest) -> None:
    assert all_damage(store, shards) == []


def test_one_flipped_byte_is_named_by_its_sample_and_mended(store: Store, shards: Manifest) -> None:
    index = open_shards(store, shards, 8).index
    for number in range(len(index)):
        tar = int(index.tar_of(np.array([number]))[0])
        path = store.local_path(index.tars[tar].path)
        before = path.read_bytes()
        flip(path, int(index.offset_N[number]) + int(index.size_N[number]) // 2)
        assert all_damage(store, shards) == [
            f"{path.name}|{index.key(number)}|its bytes differ from the hash in the index"
        ]
        with pytest.raises(BadSamples, match=f"{index.key(number)}.*--repair"):
            open_shards(store, shards, 8).pixels(np.arange(len(index)))
        repair(store, shards, tar)
        assert path.read_bytes() == before
    assert all_damage(store, shards) == []


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("header", "its name or class has changed"),
        ("padding", "train-00001.tar||its bytes differ from the manifest's hash, outside of the images"),
        ("cut", "bytes instead of"),
        ("no tar", "train-00001.tar||the file is missing"),
        ("no index", "train-00001.index.parquet||the file is missing"),
        ("other index", "train-00001.index.parquet||its sha256 differs"),
    ],
)
def test_whatever_else_is_lost_is_named_and_mended(
    store: Store, shards: Manifest, what: str, says: str
) -> None:
    tar, index = (store.local_path(shards.address.part_path(file.name)) for file in shard_files(shards)[1])
    before = tar.read_bytes(), index.read_bytes()
    if what == "header":
        flip(tar, 3)
    elif what == "padding":
        flip(tar, -1)
    elif what == "cut":
        tar.write_bytes(before[0][:2000])
    elif what == "no tar":
        tar.unlink()
    elif what == "no index":
        index.unlink()
    else:
        flip(index, 100)
    found = all_damage(store, shards)
    assert any(says in each for each in found), found
    if what == "cut":
        assert sum("behind the end of the file" in each for each in found) == 1
    if "index" in what:  # the tar says where its samples are, so reading goes on
        read = open_shards(store, shards, 8)
        assert read.pixels(np.arange(len(read))).shape[0] == 12
    repair(store, shards, 1)
    assert (tar.read_bytes(), index.read_bytes()) == before


def test_shards_are_not_mended_from_other_crops(store: Store, shards: Manifest) -> None:
    write_inputs(store, [(5, 2), (6, 2)])
    with pytest.raises(
        ConfigError, match=r"(crops/c+|dedup/d+) has changed since .*dcgan run shard --refresh"
    ):
        repair(store, shards, 0)
    store.delete(CROPS_ADDRESS.path)
    with pytest.raises(MissingArtifact, match="crops/cccc"):
        repair(store, shards, 0)
