"""Shards on a real object store are read as on disk: in ranges or from the cache, well or ill."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.errors import BadSamples, StorageError
from dcgan_core.shard.access import RangedTars, access
from dcgan_core.shard.order import Shuffle
from dcgan_core.shard.reader import open_shards, open_tars
from dcgan_core.storage import Store
from tests.conftest import ObjectStore
from tests.core.tars import SIZE, made, numbers_in, shard_stage, write_inputs, write_tars
from tests.web.faulty_proxy import KINDS, FaultyProxy, Request, evenly

pytestmark = pytest.mark.slow

Pair = tuple[Store, Manifest, Store, Manifest]
"""A set of shards on the object store, and the same on disk."""


@pytest.fixture
def remote(object_store: ObjectStore) -> Store:
    return object_store.store("shards", f"root-{uuid.uuid4().hex}")


@pytest.fixture
def pair(remote: Store, store: Store) -> Pair:
    """The same shards, 40 samples in 6 tars, made on the object store and on disk, in two waves each."""
    found: list[Store | Manifest] = []
    for root in (remote, store):
        write_inputs(root, [(20, 2), (15, 4), (5, 0)])
        found += [root, made(shard_stage(7, 14), root)]
    return tuple(found)  # pyright: ignore[reportReturnType]


def place_of(store: Store) -> tuple[str, str]:
    """Bucket and prefix."""
    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    return bucket, prefix


def is_tar(request: Request) -> bool:
    return request.method == "GET" and request.target.partition("?")[0].endswith(".tar")


def test_shards_made_on_an_object_store_are_those_made_on_disk(
    pair: Pair,
) -> None:
    remote, there, _, here = pair
    assert there.content == here.content
    assert not remote.exists(f"{there.address.path}/blocks")


@pytest.mark.parametrize("cached", [False, True])
def test_reading_from_a_store_that_fails_gives_the_pixels_of_the_disk(
    pair: Pair, object_store: ObjectStore, tmp_path: Path, cached: bool
) -> None:
    remote, there, store, here = pair
    order = Shuffle(40, 1)(np.arange(40))
    expected = open_shards(store, here, 8).pixels(order)
    with FaultyProxy(object_store.port, evenly(dict.fromkeys(KINDS, 5), 60, seed=2)) as proxy:
        ill = object_store.store(*place_of(remote), proxy.endpoint, read_seconds=0.5)
        if cached:
            ill = replace(ill, cache=str(tmp_path / "cache"), cache_bytes=10**7)
        for _ in range(3):
            shards = open_shards(ill, there, 8)
            got = np.concatenate([shards.pixels(order[start : start + 8]) for start in range(0, 40, 8)])
            assert np.array_equal(got, expected)
            assert not shards.bad
        assert min(proxy.injected[kind] for kind in KINDS) > 0
        whole_tars = [request for request in proxy.requests if is_tar(request)]
    tars = [file for file in there.files if file.name.endswith(".tar")]
    if cached:
        names = {path.name for path in (tmp_path / "cache").iterdir() if path.is_file()}
        assert names == {file.sha256 for file in tars}
        assert len(whole_tars) < 100  # once each, and again after faults
    else:
        assert not (tmp_path / "cache").exists()


def test_a_cached_set_needs_the_store_no_more(pair: Pair, tmp_path: Path) -> None:
    remote, there, store, here = pair
    cached = replace(remote, cache=str(tmp_path / "cache"), cache_bytes=10**7)
    everything = np.arange(40)
    open_shards(cached, there, 8).pixels(everything)
    shards = open_shards(cached, there, 8)
    for file in there.files:
        if file.name.endswith(".tar"):
            remote.delete(there.address.part_path(file.name))
    assert np.array_equal(shards.pixels(everything), open_shards(store, here, 8).pixels(everything))


def test_a_set_that_is_larger_than_the_cache_is_read_in_ranges(pair: Pair, tmp_path: Path) -> None:
    remote, there, store, here = pair
    small = replace(remote, cache=str(tmp_path / "cache"), cache_bytes=10_000)
    shards = open_shards(small, there, 8)
    assert isinstance(access(small, shards.index), RangedTars)
    assert np.array_equal(
        shards.pixels(np.array([3, 39, 0])), open_shards(store, here, 8).pixels(np.array([3, 39, 0]))
    )


def test_samples_that_lie_together_are_one_request(pair: Pair, object_store: ObjectStore) -> None:
    remote, there, _, _ = pair
    with FaultyProxy(object_store.port) as proxy:
        through = object_store.store(*place_of(remote), proxy.endpoint)
        shards = open_shards(through, there, 8)
        proxy.inject()
        shards.pixels(np.arange(40))
        assert sum(is_tar(request) for request in proxy.requests) == 6


def test_a_sample_that_is_damaged_on_the_store_is_named(
    pair: Pair,
) -> None:
    remote, there, _, _ = pair
    index = open_shards(remote, there, 8).index
    path = index.tars[1].path
    data = bytearray(remote.read_bytes(path))
    number = int(index.first_T[1])
    data[int(index.offset_N[number]) + 20] ^= 1
    remote.write_bytes(path, bytes(data))
    with pytest.raises(BadSamples, match=f"1 of 40 .*{index.key(number)}"):
        open_shards(remote, there, 8).pixels(np.arange(40))
    remote.delete(path)
    with pytest.raises(BadSamples, match="the file is missing"):
        open_shards(remote, there, 8).pixels(np.arange(40))


def test_a_store_that_stays_away_is_no_damage(pair: Pair, object_store: ObjectStore) -> None:
    remote, there, _, _ = pair
    with FaultyProxy(object_store.port) as proxy:
        through = object_store.store(*place_of(remote), proxy.endpoint, tries=3)
        shards = open_shards(through, there, 8)
        proxy.inject(*["500"] * 10_000)
        with pytest.raises(StorageError, match="failed 3 times"):
            shards.pixels(np.arange(40))
        assert not shards.bad


def test_tars_of_others_are_read_from_an_object_store(remote: Store, tmp_path: Path) -> None:
    names = write_tars(tmp_path, [3, 4])
    for name in names:
        remote.write_bytes(name, (tmp_path / name).read_bytes())
    shards = open_tars(remote, names, SIZE)
    assert numbers_in(shards.pixels(np.arange(7))) == list(range(7))
    assert read_manifest(remote, shard_stage(1, 1).address) is None
