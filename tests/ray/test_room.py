"""Training that finds no room on Ray says so, waits as long as it may, and ends on signals meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm

from dcgan_core.artifacts import Receipt
from dcgan_core.errors import NotEnoughResources
from dcgan_core.pipeline import build, load_pipeline
from dcgan_core.place import Place
from dcgan_core.progress import Progress, silent
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.train.runtime import Runtime
from dcgan_core.train.stage import Train
from tasks.backends import RayBackend
from tasks.board import Board
from tests.conftest import Tiny
from tests.ray.test_ray import Greedy, Modest

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True, scope="module")
def end_ray() -> Iterator[None]:
    yield
    ray.shutdown()


def on_ray(**more: Any) -> RayBackend:
    return RayBackend(Place(root="unused", slots=2, **more))


def stage_of(kind: type[Train], tiny: Tiny, gpus: int = 0) -> Train:
    train = build(load_pipeline(tiny.preset, tiny.overrides).config, tiny.preset, upto="train").stages[-1]
    assert isinstance(train, Train)
    return kind(train.seed, train.inputs, train.preset, train.config, train.shard, gpus)


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ({"train_workers": 8, "gpus": 0}, "8 workers with a processor each (DCGAN_TRAIN_WORKERS=8"),
        ({"gpus": 1}, "1 workers with a GPU and a processor each (DCGAN_TRAIN_WORKERS=1, DCGAN_GPUS=1)"),
    ],
)
def test_what_is_asked_for_and_what_is_there_is_said_and_then_it_ends(
    place: dict[str, Any], wanted: str, tiny: Tiny, finished_store: Store
) -> None:
    notes: list[str] = []
    with pytest.raises(NotEnoughResources) as refused:
        run(
            stage_of(Train, tiny, place["gpus"]),
            finished_store,
            on_ray(gpu_wait_seconds=2, **place),
            refresh=True,
            progress=lambda done, total, note: notes.append(note),
        )
    there = "Ray has 2 processors and no GPUs on 1 nodes"
    assert f"training asks for {wanted}" in str(refused.value)
    assert f"{there}, also after 2 s" in str(refused.value)
    assert any(wanted in note and there in note and "left" in note for note in notes)


class Wanting(Greedy):
    """A stage that a GPU was asked for."""

    gpus = 1


class Sharing(Modest):
    """The same, whose parts share GPUs."""

    gpus = 1


@pytest.mark.parametrize("kind", [Wanting, Sharing])
def test_parts_that_a_gpu_is_asked_for_are_not_done_on_processors(kind: type[Modest], store: Store) -> None:
    with pytest.raises(NotEnoughResources, match=r"given asks for a GPU \(DCGAN_GPUS=1\) and Ray has"):
        run(kind(0, {}, "none"), store, on_ray(gpus=1, gpu_wait_seconds=2), refresh=True)


class Reading(Train):
    """A training that never comes to its loop."""

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        progress(0, 1, "reading")
        return threading.Event().wait()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "place", "phase", "number"),
    [
        (Train, {"train_workers": 8}, "waiting", signal.SIGTERM),
        (Reading, {"train_workers": 1}, "reading", signal.SIGINT),
    ],
)
def test_a_signal_ends_training_while_no_worker_is_in_its_loop(
    kind: type[Train],
    place: dict[str, Any],
    phase: str,
    number: signal.Signals,
    tiny: Tiny,
    finished_store: Store,
) -> None:
    sent = threading.Event()

    def send(done: float, total: float, note: str) -> None:
        if phase in note and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), number)

    # As within a flow: the signal is raised when there is nothing more to wait for.
    raised = TerminationSignal if number == signal.SIGTERM else KeyboardInterrupt
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect sends it on to whoever was there before
    try:
        with pytest.raises(raised), capture_sigterm():
            run(stage_of(kind, tiny), finished_store, on_ray(gpus=0, **place), refresh=True, progress=send)
    finally:
        signal.signal(signal.SIGTERM, before)
    for thread in threading.enumerate():
        if thread.name == "ray-train":  # with it ends what it has asked for
            thread.join(100)
            assert not thread.is_alive()


def test_workers_count_as_lost_when_nothing_is_heard_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tasks.board.time.monotonic", lambda: now)
    board = Board()
    assert board.look()[:2] == (False, False)
    board.beat(False)
    assert board.look()[:2] == (True, False)  # it reads, and would not heed a request to save
    board.beat(True)
    now += 14
    assert board.look()[:2] == (True, True)
    now += 2
    assert board.look()[:2] == (False, False)


def test_a_trainer_that_was_ended_before_its_controller_started_may_not_go_on() -> None:
    board = Board()
    assert board.controlled_by("an actor")
    assert board.end() == "an actor"
    assert board.end() is None
    assert not board.controlled_by("another")
    assert board.end() is None
