"""Real Ray: the same bytes as without it, errors that come out whole, training that survives its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, cast

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm

from dcgan_core.artifacts import Receipt, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import Json
from dcgan_core.errors import ClusterError, ConfigError
from dcgan_core.pipeline import build, load_pipeline
from dcgan_core.place import Place
from dcgan_core.progress import Progress, silent
from dcgan_core.stage import Part, Stage, Summary, run
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint, loop
from dcgan_core.train.runtime import Runtime
from dcgan_core.train.stage import Train
from tasks import stopping, training
from tasks.backends import RayBackend
from tasks.board import Board, BoardProgress
from tasks.training import RayRuntime
from tests.conftest import Tiny
from tests.web.photo_host import PhotoHost
from tests.web.runs import Web, check_manners
from tests.web.server import Faults

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ENOUGH = 300
"""Steps that outlast a request to stop."""
Fate = Callable[[int, Runtime, Path], None]


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    """One embedded Ray of two processors for all tests here."""
    yield RayBackend(Place(root="unused", slots=2, train_workers=2))
    ray.shutdown()


def test_parts_done_on_ray_are_the_bytes_of_parts_done_here(
    tiny: Tiny, finished_root: Path, store: Store, backend: RayBackend
) -> None:
    in_two_waves = tiny.changed(shard__samples_per_task=5)  # where shards lie does not depend on it
    pipeline = load_pipeline(tiny.preset, in_two_waves, upto="shard")
    shown: list[float] = []
    for stage in pipeline.stages:
        run(stage, store, backend, progress=lambda done, total, note: shown.append(done))
    for stage in pipeline.stages:
        here, there = (read_manifest(each, stage.address) for each in (Store(str(finished_root)), store))
        assert here and there
        assert there.content == here.content, stage.artifact
    assert shown


@pytest.mark.parametrize("slots", [1, 2])
def test_codes_shuffled_and_compared_on_ray_give_the_groups_of_one_process(
    tiny: Tiny, finished_store: Store, backend: RayBackend, slots: int
) -> None:
    config = tiny.changed(dedup__codes_per_task=6)
    stages = {stage.artifact: stage for stage in load_pipeline(tiny.preset, config, upto="dedup").stages}
    links, dedup = stages["links"], stages["dedup"]
    whole = read_manifest(finished_store, dedup.address)  # where it lies does not depend on how it is made
    worked = RayBackend(backend.place.model_copy(update={"slots": slots}))
    for stage in (links, dedup):
        run(stage, finished_store, worked, refresh=True)
    split = read_manifest(finished_store, links.address)
    again = read_manifest(finished_store, dedup.address)
    assert whole and split and again
    assert len(split.parts) > 10
    assert split.provenance["backend"] == worked.name
    assert again.content == whole.content


@dataclass(frozen=True)
class Modest(Stage):
    """Parts that say what they were given: processors, and threads of torch."""

    artifact: ClassVar[str] = "given"
    flow: ClassVar[str] = "given"
    version: ClassVar[int] = 1

    def settings(self) -> dict[str, Json]:
        return {}

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(index, str(index), None) for index in range(3)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        import torch

        processors = int(ray.get_runtime_context().get_assigned_resources()["CPU"])
        given = {"processors": processors, "threads": torch.get_num_threads()}
        return Receipt(part=part.index, key=part.key, files=(), counts=given, metrics={})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary({name: sum(each.counts[name] for each in receipts) for name in receipts[0].counts})


@dataclass(frozen=True)
class Greedy(Modest):
    """The same, each part of which wants the machine for itself."""

    whole_machine: ClassVar[bool] = True


def test_a_part_that_takes_the_whole_machine_gets_all_its_processors_and_the_next_stage_has_none_of_them(
    store: Store, backend: RayBackend
) -> None:
    for kind, share in ((Modest, 1), (Greedy, 2), (Modest, 1)):
        stage = kind(0, {}, "none")
        run(stage, store, backend, refresh=True)
        manifest = read_manifest(store, stage.address)
        assert manifest
        assert manifest.counts == {"processors": 3 * share, "threads": 3 * share}


@dataclass(frozen=True)
class Telling(Greedy):
    """Parts that say that half of them is behind, and go on once that has been shown."""

    pipes: str = ""

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        progress(1, 2, f"part {part.index}")
        (Path(self.pipes) / str(part.index)).read_text()  # until the driver writes
        return super().work(store, part, progress)


@pytest.mark.timeout(120)
def test_progress_within_parts_is_shown_where_each_has_the_machine_for_itself(
    store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    for index in range(3):
        os.mkfifo(tmp_path / str(index))
    seen: dict[str, float] = {}

    def shown(done: float, total: float, note: str) -> None:
        if note.startswith("part ") and note not in seen:
            seen[note] = done
            (tmp_path / note.removeprefix("part ")).write_text("seen")

    run(Telling(0, {}, "none", str(tmp_path)), store, backend, progress=shown)
    assert seen == {"part 0": 0.5, "part 1": 1.5, "part 2": 2.5}


def test_a_board_hears_of_work_a_few_times_a_second_and_of_its_end() -> None:
    class Remote:
        def __init__(self) -> None:
            self.heard: list[tuple[Any, ...]] = []

        def remote(self, *report: Any) -> None:
            self.heard.append(report)

    written, clock = SimpleNamespace(write=Remote()), iter((0.0, 0.1, 0.25, 0.3, 0.31))
    progress = BoardProgress(written, piece=4, clock=lambda: next(clock))
    for done in range(1, 6):
        progress(done, 5, f"{done}")
    assert [report[:2] for report in written.write.heard] == [(4, 1), (4, 3), (4, 5)]


def test_a_board_tells_of_the_first_piece_that_has_said_anything() -> None:
    board = Board()
    assert board.read([2, 1]) is None
    board.write(1, 1, 2, "one")
    assert board.read([2, 1]) == (1, 2, "one")
    board.write(2, 0, 3, "two")
    assert board.read([2, 1]) == (0, 3, "two")
    assert board.read([3]) is None


@dataclass(frozen=True)
class Refusing(Train):
    """A training that finds its configuration wrong on the worker."""

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        raise ConfigError(f"rank {runtime.rank} of {runtime.world_size} says no")


def _spared(step: int, runtime: Runtime, folder: Path) -> None:
    """Nothing happens."""


@dataclass(frozen=True)
class Unlucky(Train):
    """A training to which ``fate`` happens, in every worker, at each step that is reported."""

    fate: Fate = _spared
    folder: str = ""

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        loop._ASK_SECONDS = stopping._ASK_SECONDS = 0.0  # whether to stop is asked at every step

        def report(step: int, *_rest: object) -> None:
            if runtime.rank == 0:
                with Path(self.folder, "steps").open("a") as steps:
                    steps.write(f"{step}\n")
            self.fate(step, runtime, Path(self.folder))

        object.__setattr__(runtime, "report", report)
        return super().train(store, key, runtime, progress)

    def steps(self) -> list[int]:
        """All steps that rank 0 has reported, in all its lives."""
        return [int(step) for step in Path(self.folder, "steps").read_text().split()]


def _killed_once(step: int, runtime: Runtime, folder: Path) -> None:
    marker = folder / "died"
    if runtime.rank == 1 and step == 6 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _all_killed(step: int, runtime: Runtime, folder: Path) -> None:
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)


def _driver_told(step: int, runtime: Runtime, folder: Path) -> None:
    if runtime.rank == 0 and step == 12:
        os.kill(int((folder / "driver").read_text()), signal.SIGTERM)
        board = cast("RayRuntime", runtime).asked_to_stop.board  # type: ignore[attr-defined]
        while not ray.get(board.stopping.remote()):  # training is too short to be overtaken by a signal
            continue


def _worker_told(step: int, runtime: Runtime, folder: Path) -> None:
    marker = folder / "told"
    if runtime.rank == 1 and step == 12 and not marker.exists():
        marker.touch()
        # As on a node of its own: workers of an embedded Ray are deaf to it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)
        while not stopping._told():  # Ray's main thread runs no Python all the time
            continue


Kind = TypeVar("Kind", bound=Train)


def _train_stage(kind: type[Kind], tiny: Tiny, steps: int = 8, **more: Any) -> Kind:
    overrides = tiny.changed(train__steps=steps, train__log_every=1)
    train = build(load_pipeline(tiny.preset, overrides).config, tiny.preset, upto="train").stages[-1]
    assert isinstance(train, Train)
    return kind(train.seed, train.inputs, train.preset, train.config, train.shard, 0, **more)


def _contents(stage: Train, store: Store) -> str:
    manifest = read_manifest(store, stage.address)
    assert manifest
    return manifest.content


def _of(workers: int) -> RayBackend:
    return RayBackend(Place(root="unused", slots=2, train_workers=workers))


def test_an_error_of_ours_comes_out_of_a_worker_as_it_was_raised(
    tiny: Tiny, finished_store: Store, backend: RayBackend
) -> None:
    with pytest.raises(ConfigError, match="of 2 says no"):
        run(_train_stage(Refusing, tiny), finished_store, backend, refresh=True)


def test_training_outlives_a_killed_worker_and_ends_where_a_straight_run_ends(
    tiny: Tiny, finished_store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    stage = _train_stage(Unlucky, tiny, fate=_killed_once, folder=str(tmp_path))
    run(stage, finished_store, backend, refresh=True)
    assert (tmp_path / "died").exists()
    broken = _contents(stage, finished_store)
    run(_train_stage(Train, tiny), finished_store, backend, refresh=True)
    assert broken == _contents(stage, finished_store)


def test_a_driver_that_is_told_to_end_saves_first_and_a_rerun_goes_on_from_there(
    tiny: Tiny, finished_store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    (tmp_path / "driver").write_text(str(os.getpid()))
    stage = _train_stage(Unlucky, tiny, steps=ENOUGH, fate=_driver_told, folder=str(tmp_path))
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect sends it on to whoever was there before
    try:
        with pytest.raises(TerminationSignal), capture_sigterm():  # as within a flow
            run(stage, finished_store, backend, refresh=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    saved = checkpoint.saved(finished_store, stage.address)[-1].step
    assert 12 < saved < ENOUGH
    assert stage.steps() == list(range(1, saved + 1))
    run(stage, finished_store, backend)
    assert stage.steps() == list(range(1, ENOUGH + 1))
    broken = _contents(stage, finished_store)
    run(_train_stage(Train, tiny, steps=ENOUGH), finished_store, backend, refresh=True)
    assert broken == _contents(stage, finished_store)


def test_a_worker_that_is_told_to_end_has_all_save_and_the_run_goes_on_by_itself(
    tiny: Tiny, finished_store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    stage = _train_stage(Unlucky, tiny, steps=ENOUGH, fate=_worker_told, folder=str(tmp_path))
    run(stage, finished_store, backend, refresh=True)
    assert (tmp_path / "told").exists()
    assert stage.steps() == list(range(1, ENOUGH + 1))  # nothing was done twice


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_workers(
    before: int,
    after: int,
    tiny: Tiny,
    finished_store: Store,
    backend: RayBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = _train_stage(Unlucky, tiny, fate=_all_killed, folder=str(tmp_path))
    monkeypatch.setattr(training, "_RESTARTS", 0)
    with pytest.raises(ClusterError, match="given up after 0 restarts"):
        run(stage, finished_store, _of(before), refresh=True)
    killed = checkpoint.saved(finished_store, stage.address)[-1].step
    assert killed in (2, 4)  # one that was being written does not count
    (tmp_path / "steps").unlink()
    again = _train_stage(Unlucky, tiny, folder=str(tmp_path))
    run(again, finished_store, _of(after))
    assert again.steps() == list(range(killed + 1, 9))


def test_hosts_keep_their_manners_when_two_workers_fetch(
    store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    check_manners(store, tmp_path, backend)


def test_photos_fetched_on_ray_are_the_bytes_of_those_fetched_here(
    tmp_path: Path, backend: RayBackend
) -> None:
    hosts = tuple(f"h{number}.test" for number in range(6))
    urls = [f"http://{hosts[n % 6]}/photos/{n}.jpg" for n in range(60)]
    with PhotoHost(faults=Faults()) as double:
        contents = {
            Web(Store(str(tmp_path / name)), tmp_path, double, hosts).manifest(urls, each).content
            for name, each in {"ray": backend, "here": LocalBackend(1)}.items()
        }
    assert len(contents) == 1


def test_parts_and_stages_cross_process_borders(tiny: Tiny, finished_store: Store) -> None:
    import pickle  # noqa: TID251

    for stage in load_pipeline(tiny.preset, tiny.overrides).stages:
        parts = list(stage.plan(finished_store))
        again: tuple[Stage, list[Part]] = pickle.loads(pickle.dumps((stage, parts)))
        assert again[0].address == stage.address
        assert again[1] == parts
