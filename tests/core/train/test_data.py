"""Batches are the same wherever the pixels live, however many threads make them, and after any stop."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import BadSamples, ConfigError, NotEnoughMemory
from dcgan_core.models.specs import net_spec
from dcgan_core.pipeline import load_pipeline
from dcgan_core.progress import silent
from dcgan_core.shard.order import Indices, Positions, Sampler
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.train.data import (
    Batch,
    DevicePixels,
    Feed,
    HostPixels,
    StreamedPixels,
    check_labels,
    choose,
    in_memory,
    place_pixels,
)
from dcgan_core.train.runtime import LocalRuntime
from tests.conftest import Tiny
from tests.core.tars import numbers_in, opened, reopened, rewrite, sample

CPU = torch.device("cpu")
PLACES: tuple[Literal["device", "host", "stream"], ...] = ("device", "host", "stream")


@dataclass(frozen=True)
class ManyRanks(LocalRuntime):
    """One of several workers of a machine that meet at a barrier."""

    meet: Any = field(default=None)

    def barrier(self) -> None:
        self.meet.wait(60)


def shown(batches: Iterable[Batch | Tensor]) -> list[int]:
    found: list[int] = []
    for one in batches:
        batch = one.pixels_N3SS if isinstance(one, Batch) else one
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous(memory_format=torch.channels_last)
        found += numbers_in(batch.numpy())
    return found


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any),
    st.integers(0, 2**31 - 1),
    st.lists(
        st.tuples(
            st.sampled_from(PLACES),
            st.integers(1, 9),  # global batch
            st.integers(1, 4),  # ranks, at most a batch's images
            st.integers(1, 3),  # threads
            st.integers(0, 6),  # steps taken of those asked for
            st.integers(0, 5),  # batches made ahead and never taken
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_a_run_stopped_and_resumed_in_any_shape_sees_the_images_of_a_straight_one(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    seed: int,
    stretches: list[tuple[Literal["device", "host", "stream"], int, int, int, int, int]],
) -> None:
    shards = opened(tmp_path_factory.mktemp("tars"), counts)
    state = Sampler(len(shards), seed, 1).state_dict()
    seen: list[int] = []
    for where, batch_size, most_ranks, threads, steps, ahead in stretches:
        pixels = place_pixels(shards, where, LocalRuntime(CPU))
        ranks = min(most_ranks, batch_size)
        samplers = [
            Sampler(len(shards), seed, batch_size, rank=rank, world_size=ranks) for rank in range(ranks)
        ]
        feeds = []
        for sampler in samplers:
            sampler.load_state_dict(state)
            feeds.append(Feed(pixels, iter([next(sampler) for _ in range(steps + ahead)]), threads))
        for _ in range(steps):
            for feed in feeds:
                seen += shown([next(feed)])
        for feed in feeds:
            feed.close()
        # What counts is what was taken, not what was made ahead.
        taken = Sampler(len(shards), seed, batch_size)
        taken.load_state_dict(state)
        for _ in range(steps):
            next(taken)
        state = taken.state_dict()
    assert seen == Positions(len(shards), seed).take(0, len(seen)).tolist()
    for epoch in range(len(seen) // len(shards)):
        assert sorted(seen[epoch * len(shards) : (epoch + 1) * len(shards)]) == list(range(len(shards)))


@pytest.mark.parametrize("where", PLACES)
def test_a_bad_sample_has_the_same_stand_in_wherever_the_pixels_live(
    tmp_path: Path, where: Literal["device", "host", "stream"]
) -> None:
    opened(tmp_path, [6])
    members = [(f"k{number}.png", sample(number).data) for number in range(6)]
    members[5] = ("k5.png", b"no picture")
    rewrite(tmp_path / "000.tar", members)
    shards = reopened(tmp_path, 1, max_bad=0.5)
    pixels = place_pixels(shards, where, LocalRuntime(CPU))
    assert shown([pixels.batch(np.array([5, 1, 5]))]) == [0, 1, 0]
    assert list(shards.bad) == [5]
    with pytest.raises(BadSamples, match="1 of 6"):
        place_pixels(reopened(tmp_path, 1), where, LocalRuntime(CPU)).batch(np.array([5]))


def test_batches_are_made_ahead_by_several_threads_and_come_in_order() -> None:
    @dataclass(frozen=True)
    class Meeting:
        """Batches that are ready only when the next one is being made too."""

        both: threading.Barrier
        in_background: bool = True

        def __len__(self) -> int:
            return 8

        def batch(self, numbers_N: Indices) -> Tensor:
            self.both.wait(60)
            return torch.from_numpy(numbers_N)

        def labels(self, numbers_N: Indices) -> Tensor:
            pytest.fail("nobody asked for classes")

    feed = Feed(Meeting(threading.Barrier(2)), iter(np.array([number]) for number in range(8)), threads=2)
    assert [int(batch.pixels_N3SS) for batch in feed] == list(range(8))
    assert feed.waited_seconds > 0
    feed.close()


@pytest.mark.parametrize("where", PLACES)
def test_classes_come_with_the_batches_of_whoever_asks(
    tmp_path: Path, where: Literal["device", "host", "stream"]
) -> None:
    pixels = place_pixels(opened(tmp_path, [20, 7]), where, LocalRuntime(CPU))
    asked = [np.array([26, 3, 3]), np.array([0, 19])]
    plain, labelled = Feed(pixels, iter(asked)), Feed(pixels, iter(asked), labelled=True)
    assert all(batch.label_N is None for batch in plain)
    batches = list(labelled)
    assert [shown([batch]) for batch in batches] == [[26, 3, 3], [0, 19]]
    labels = [batch.label_N for batch in batches if batch.label_N is not None]
    assert [label_N.tolist() for label_N in labels] == [[6, 3, 3], [0, 9]]
    assert all(label_N.dtype == torch.int64 for label_N in labels)
    assert torch.equal(pixels.labels(np.array([11])), torch.tensor([1]))
    for feed in (plain, labelled):
        feed.close()


def test_a_set_in_memory_has_the_classes_it_is_given() -> None:
    grey = np.zeros((3, 3, 8, 8), np.uint8)
    assert in_memory(grey, CPU).labels(np.array([2, 0])).tolist() == [-1, -1]
    classes = np.array([4, 5, 6], np.int32)
    assert in_memory(grey, CPU, classes).labels(np.array([2, 0])).tolist() == [6, 4]


def test_a_conditional_net_wants_a_class_that_it_knows_with_every_image(tmp_path: Path) -> None:
    mnist = net_spec("mnist28")
    shards = opened(tmp_path, [12])
    check_labels(shards, mnist)
    for labels, says in (
        (
            [0, -1, -1],
            r"mnist28 learns a class with every image, and 2 of the 3 in .*000\.tar have none",
        ),
        ([0, 10, 3], r"mnist28 knows classes 0 to 9, and .*000\.tar holds class 10"),
    ):
        wrong = replace(shards, index=replace(shards.index, label_N=np.array(labels, np.int32)))
        check_labels(wrong, net_spec("paper64"))
        with pytest.raises(ConfigError, match=says):
            check_labels(wrong, mnist)


def test_an_error_comes_where_its_batch_would_have(tmp_path: Path) -> None:
    shards = opened(tmp_path, [4])
    feed = Feed(StreamedPixels(shards, CPU), iter([np.array([0]), np.array([9]), np.array([1])]))
    assert shown([next(feed)]) == [0]
    with pytest.raises(IndexError):
        next(feed)
    assert shown([next(feed)]) == [1]
    with pytest.raises(StopIteration):
        next(feed)
    feed.close()


def test_the_place_follows_from_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_core.train.data.free_memory", lambda: 1000)
    alone, one_of_two = LocalRuntime(CPU), LocalRuntime(CPU, silent, 0, 2)
    assert [choose("auto", needed, alone) for needed in (500, 501)] == ["device", "stream"]
    assert [choose("auto", needed, one_of_two) for needed in (500, 501)] == ["host", "stream"]
    assert choose("host", 10**9, alone) == "host"


def test_ranks_that_measure_differently_agree_on_the_least(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class BesideAFullOne(LocalRuntime):
        """A rank that has room, beside one that has none: it must not wait for it."""

        def least(self, number: int) -> int:
            return 0

        def barrier(self) -> None:
            pytest.fail("only this rank would be here")

    shards = opened(tmp_path, [4])
    rank = BesideAFullOne(CPU, silent, 0, 2)
    assert isinstance(place_pixels(shards, "auto", rank), StreamedPixels)


def test_pixels_that_do_not_fit_where_they_are_wanted_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = opened(tmp_path, [4])
    monkeypatch.setattr("dcgan_core.train.data.free_memory", lambda: 100)
    for where in ("device", "host"):
        with pytest.raises(NotEnoughMemory, match=r"holding 4 images of 8 px \(\w+\).*train\.data=stream"):
            place_pixels(shards, where, LocalRuntime(CPU))
    assert isinstance(place_pixels(shards, "auto", LocalRuntime(CPU)), StreamedPixels)


def rank_reads(folder: Path, counts: list[int], rank: int, meet: Any, answers: Any) -> None:
    shards = replace(reopened(folder, len(counts)), address="shards/abc")
    pixels = place_pixels(shards, "host", ManyRanks(CPU, silent, rank, 2, meet=meet))
    assert isinstance(pixels, HostPixels)
    shared = isinstance(pixels.pixels_NSS3, np.memmap)
    answers.put((rank, shared, shown([pixels.batch(np.arange(len(shards)))])))


def test_workers_of_one_machine_share_the_decoded_set_and_leave_nothing_behind(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir():
        pytest.skip("there is no /dev/shm")
    before = {path.name for path in shared_memory.glob("dcgan-*")}
    opened(tmp_path, [3, 2])
    spawn = multiprocessing.get_context("spawn")
    meet, answers = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=rank_reads, args=(tmp_path, [3, 2], rank, meet, answers)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    got = sorted(answers.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert got == [(rank, True, [0, 1, 2, 3, 4]) for rank in range(2)]
    assert {path.name for path in shared_memory.glob("dcgan-*")} == before


def test_training_ends_with_the_same_weights_wherever_the_pixels_live(
    finished_store: Store, tiny: Tiny
) -> None:
    ends = {}
    for where in PLACES:
        stage = load_pipeline(tiny.preset, tiny.changed(train__data=where), upto="train").stages[-1]
        run(stage, finished_store, LocalBackend(1), refresh=True)
        manifest = read_manifest(finished_store, stage.address)
        assert manifest is not None
        lines = finished_store.read_bytes(stage.address.part_path("metrics.jsonl"))
        ends[where] = (manifest.content, lines)
    assert ends["device"] == ends["host"] == ends["stream"]


def test_a_set_on_the_processor_is_taken_as_it_is(tmp_path: Path) -> None:
    shards = opened(tmp_path, [4])
    pixels = place_pixels(shards, "auto", LocalRuntime(CPU))
    assert isinstance(pixels, DevicePixels)
    assert len(pixels) == 4
