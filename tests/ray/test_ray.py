"""Real Ray: the same bytes as without it, errors that come out whole, training that survives its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcgan_core.artifacts import Receipt, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import ConfigError
from dcgan_core.pipeline import build, load_pipeline
from dcgan_core.place import Place
from dcgan_core.progress import Progress, silent
from dcgan_core.stage import Part, Stage, run
from dcgan_core.storage import Store
from dcgan_core.train.runtime import Runtime
from dcgan_core.train.stage import Train
from tasks.backends import RayBackend
from tests.conftest import Tiny
from tests.web.photo_host import PhotoHost
from tests.web.runs import Web, check_manners
from tests.web.server import Faults

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    """One embedded Ray of two processors for all tests here."""
    ray = pytest.importorskip("ray")
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
class Refusing(Train):
    """A training that finds its configuration wrong on the worker."""

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        raise ConfigError(f"rank {runtime.rank} of {runtime.world_size} says no")


@dataclass(frozen=True)
class Suicidal(Train):
    """A training whose second worker dies once, by SIGKILL, in the middle."""

    note: str = ""

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        marker = Path(self.note)

        def report(step: int, *_rest: object) -> None:
            if runtime.rank == 1 and step == 6 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        object.__setattr__(runtime, "report", report)
        return super().train(store, key, runtime, progress)


def _train_stage(kind: type[Train], tiny: Tiny, **more: str) -> Train:
    train = build(load_pipeline(tiny.preset, tiny.overrides).config, tiny.preset, upto="train").stages[-1]
    assert isinstance(train, Train)
    return kind(train.seed, train.inputs, train.preset, train.config, train.shard, 0, **more)


def test_an_error_of_ours_comes_out_of_a_worker_as_it_was_raised(
    tiny: Tiny, finished_store: Store, backend: RayBackend
) -> None:
    with pytest.raises(ConfigError, match="of 2 says no"):
        run(_train_stage(Refusing, tiny), finished_store, backend, refresh=True)


def test_training_outlives_a_killed_worker_and_ends_where_a_straight_run_ends(
    tiny: Tiny, finished_store: Store, backend: RayBackend, tmp_path: Path
) -> None:
    marker = tmp_path / "died"
    stage = _train_stage(Suicidal, tiny, note=str(marker))
    run(stage, finished_store, backend, refresh=True)
    assert marker.exists()
    broken = read_manifest(finished_store, stage.address)
    run(_train_stage(Train, tiny), finished_store, backend, refresh=True)
    straight = read_manifest(finished_store, stage.address)
    assert broken and straight
    assert broken.content == straight.content


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
