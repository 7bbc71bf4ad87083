"""A stage as a Prefect task: cached, done or failed, with its progress and its results in the UI."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import Task

from dcgan_core.errors import MissingArtifact, TransientError
from dcgan_core.pipeline import load_pipeline
from dcgan_core.place import Place, load_place
from dcgan_core.stage import Artifact, Backend, Stage, run
from dcgan_core.storage import Store
from tasks.backends import backend_of
from tasks.flow_runs import begin_run, dated, wait_for_maker
from tasks.reporting import ProgressArtifact, publish, publish_page

_RETRY_SECONDS = [10.0, 60.0, 300.0]


def begin_pipeline(preset: str, overrides: Mapping[str, Any] | None, as_of: date | None) -> date | None:
    """Check that all that a run of every stage reads from outside is there; the date of the run.

    Labelled sets are wanted after the training, hours later; ConfigError says now which are missing.
    """
    place = load_place()
    day = begin_run(as_of, place.root)
    load_pipeline(preset, dated(overrides, day), gpus=place.gpus, store=place.store())
    return day


def run_flow(
    flow: str, preset: str, overrides: Mapping[str, Any] | None, refresh: bool, as_of: date | None
) -> list[str]:
    """Make the artifacts of one flow, in order, each as a task; returns where they are.

    The configuration is read first, so that a wrong one fails in the flow's first second.
    """
    place = load_place()
    chosen = dated(overrides, begin_run(as_of, place.root))
    store = place.store()
    pipeline = load_pipeline(preset, chosen, upto=flow, gpus=place.gpus, store=store)
    return [_make(stage, store, place, refresh).uri for stage in pipeline.of(flow)]


def _make(stage: Stage, store: Store, place: Place, refresh: bool) -> Artifact:
    """One stage as a task. Its state is named Cached where there was nothing to do."""

    def make() -> State[Artifact]:
        log = get_run_logger()
        with ProgressArtifact(stage, store) as progress:
            artifact = _run_when_possible(
                stage,
                store,
                backend_of(place),
                refresh=refresh and task_run.run_count <= 1,  # a retry goes on with what the first try did
                progress=progress,
                place={"root": place.root, "train_workers": place.train_workers},
            )
        if artifact.cached:
            log.info("%s is there already: %s", artifact.address, artifact.uri)
            publish_page(stage, store, artifact, place.report_url)
            return Completed(name="Cached", message=f"{artifact.address} is there already", data=artifact)
        log.info("%s made in %.1f s: %s", artifact.address, artifact.seconds, artifact.uri)
        publish(stage, store, artifact, place.report_url)
        return Completed(message=f"{artifact.address} made in {artifact.seconds:.1f} s", data=artifact)

    state = cast("State[Artifact]", _as_task(make, stage)(return_state=True))
    return state.result()


def _run_when_possible(stage: Stage, store: Store, backend: Backend, **how: Any) -> Artifact:
    """Run a stage as soon as no other flow run is about to make what it misses."""
    while True:
        try:
            return run(stage, store, backend, **how)
        except MissingArtifact as missing:
            if not wait_for_maker(missing, store):
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
