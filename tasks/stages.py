"""A stage as a Prefect task: cached, done or failed, with its progress and its results in the UI."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import Task

from dcgan_core.errors import TrainingStopped, TransientError
from dcgan_core.pipeline import load_pipeline
from dcgan_core.place import Place, load_place
from dcgan_core.stage import Artifact, Stage, run
from dcgan_core.storage import Store
from tasks.backends import backend_of
from tasks.reporting import ProgressArtifact, publish

_RETRY_SECONDS = [10.0, 60.0, 300.0]


def look_at(preset: str, overrides: Mapping[str, Any] | None) -> None:
    """Whether all that a run of every stage reads from outside is there, labelled sets among it.

    They are wanted after the training, hours later; ConfigError says now which of them are missing.
    """
    load_pipeline(preset, overrides, gpus=load_place().gpus)


def run_flow(flow: str, preset: str, overrides: Mapping[str, Any] | None, refresh: bool) -> list[str]:
    """Make the artifacts of one flow, in order, each as a task; returns where they are.

    The configuration is read first, so that a wrong one fails in the flow's first second.
    """
    place = load_place()
    store = place.store()
    pipeline = load_pipeline(preset, overrides, upto=flow, gpus=place.gpus, store=store)
    return [_make(stage, store, place, refresh).uri for stage in pipeline.of(flow)]


def _make(stage: Stage, store: Store, place: Place, refresh: bool) -> Artifact:
    """One stage as a task. Its state is named Cached where there was nothing to do."""

    def make() -> State[Artifact]:
        log = get_run_logger()
        with ProgressArtifact(stage, store) as progress, _signals_handed_on():
            artifact = run(
                stage,
                store,
                backend_of(place),
                refresh=refresh and task_run.run_count <= 1,  # a retry goes on with what the first try did
                progress=progress,
                place={"root": place.root, "train_workers": place.train_workers},
            )
        if artifact.cached:
            log.info("%s is there already: %s", artifact.address, artifact.uri)
            return Completed(name="Cached", message=f"{artifact.address} is there already", data=artifact)
        log.info("%s made in %.1f s: %s", artifact.address, artifact.seconds, artifact.uri)
        publish(stage, store, artifact)
        return Completed(message=f"{artifact.address} made in {artifact.seconds:.1f} s", data=artifact)

    state = cast("State[Artifact]", _as_task(make, stage)(return_state=True))
    return state.result()


@contextmanager
def _signals_handed_on() -> Iterator[None]:
    """A training that was asked to stop has saved: now the signal does what it would have done at once.

    Prefect's handler ends the run as crashed, not as failed, and it is not tried again.
    """
    try:
        yield
    except TrainingStopped as stopped:
        get_run_logger().info(str(stopped))
        if stopped.signal_number:
            signal.raise_signal(stopped.signal_number)
        raise


def _as_task(make: Any, stage: Stage) -> Task[[], State[Artifact]]:
    return task(
        name=stage.artifact,
        task_run_name=f"{stage.artifact}/{stage.address.fingerprint}",
        description=(type(stage).__doc__ or "").strip(),
        retries=len(_RETRY_SECONDS),
        retry_delay_seconds=_RETRY_SECONDS,
        retry_jitter_factor=0.5,
        retry_condition_fn=_may_pass,
        persist_result=False,
        cache_policy=NO_CACHE,
    )(make)


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
    except TransientError:
        return True
    except BaseException:
        return False
    return False
