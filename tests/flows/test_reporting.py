"""What Prefect is told while a stage runs and where it is made to end, on a real server."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import write_part
from dcgan_core.images import encode_png, grid
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import Stage
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.runtime import LocalRuntime
from tests.conftest import Tiny

pytestmark = pytest.mark.slow
prefect = pytest.importorskip("prefect")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """A server of its own, on loopback, with a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


def _run_id() -> str:
    """Of the flow that runs."""
    from prefect.runtime import flow_run

    return str(flow_run.id)


def _artifacts(run_id: str) -> dict[str, dict[str, Any]]:
    """Description and data of all artifacts of a run, by key; there is one of each."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [each for each in client.read_artifacts() if str(each.flow_run_id) == run_id]
    assert len({artifact.key for artifact in found}) == len(found)
    return {str(artifact.key): artifact.model_dump(include={"description", "data"}) for artifact in found}


def _training(tiny: Tiny) -> Stage:
    return load_pipeline(tiny.preset, tiny.overrides, upto="train").stages[-1]


def _draw(store: Store, stage: Stage, name: str, brightness: int) -> None:
    import numpy as np

    picture = encode_png(grid(np.full((4, 8, 8, 3), brightness, np.uint8)))
    write_part(store, stage.address, f"samples/{name}.png", picture, is_data=False)


def test_the_newest_samples_and_the_time_left_are_shown_while_training_goes_on(
    server: None, tiny: Tiny, store: Store
) -> None:
    from tasks.reporting import ProgressArtifact

    stage, now = _training(tiny), [0.0]
    seen: list[dict[str, dict[str, Any]]] = []

    @prefect.flow
    def flow() -> None:
        with ProgressArtifact(stage, store, clock=lambda: now[0]) as progress:
            for step, seconds in ((0, 0), (100, 20), (200, 40), (300, 80), (400, 120)):
                if step >= 200:
                    for name in ("ema", "step"):
                        _draw(store, stage, f"{name}-{step:08d}", step // 4)
                now[0] = float(seconds)
                progress(step, 1000, "D 1.10")
                seen.append(_artifacts(_run_id()))

    flow()
    words = [each["train-progress"]["description"] for each in seen]
    assert words[0] == "train: 0 of 1,000 steps  D 1.10"
    assert words[2] == "train: 200 of 1,000 steps  D 1.10  about 3 min left"
    assert [each["train-ema"]["description"] for each in seen if "train-ema" in each] == [
        "samples/ema-00000200.png",
        "samples/ema-00000300.png",
        "samples/ema-00000400.png",
    ]
    pictures = {each["train-ema"]["data"] for each in seen if "train-ema" in each}
    assert len(pictures) == 3
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    assert set(seen[-1]) == {"train-progress", "train-ema"}


def test_a_store_that_is_away_ends_no_stage(server: None, tiny: Tiny, tmp_path: Path) -> None:
    from tasks.reporting import ProgressArtifact

    class Away(Store):
        def names(self, path: str) -> list[str]:
            raise OSError("away")

    now = [0.0]

    @prefect.flow
    def flow() -> str:
        with ProgressArtifact(_training(tiny), Away(str(tmp_path)), clock=lambda: now[0]) as progress:
            for seconds in (0, 40, 80):
                now[0] = float(seconds)
                progress(seconds, 100, "")
        return _run_id()

    assert _artifacts(flow())["train-progress"]["description"] == "train: done"


def test_a_flow_that_is_told_to_end_crashes_after_its_training_has_saved_and_a_rerun_goes_on(
    server: None, tiny: Tiny, finished_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import TerminationSignal

    from flows.train import train

    root, told = tmp_path / "root", []
    shutil.copytree(finished_root, root)
    monkeypatch.setenv("DCGAN_ROOT", str(root))
    monkeypatch.setenv("DCGAN_BACKEND", "local")
    changed = tiny.changed(train__steps=400, train__log_every=1, train__checkpoint_every=400)
    stage = load_pipeline(tiny.preset, changed, upto="train").stages[-1]
    report, steps = LocalRuntime.report, []

    def telling(self: LocalRuntime, step: int, *rest: Any) -> None:
        steps.append(step)
        if step == 50 and not told:
            told.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        report(self, step, *rest)

    monkeypatch.setattr(LocalRuntime, "report", telling)
    ended: list[int] = []  # Prefect sends the signal on to whoever had handled it before
    before = signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    try:
        with pytest.raises(TerminationSignal):
            train(tiny.preset, changed)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [signal.SIGTERM]
    saved = checkpoint.saved(Store(str(root)), stage.address)[-1].step
    assert 50 < saved < 400
    with get_client(sync_client=True) as client:
        states = {
            run.name: run.state_type for run in client.read_task_runs() if run.name.startswith("train/")
        }
    assert [str(state.value) for state in states.values() if state] == ["CRASHED"]
    train(tiny.preset, changed)
    assert steps[steps.index(saved) + 1 :] == list(range(saved + 1, 401))


@pytest.mark.parametrize("base", ["", "http://pages.example:4201/"])
def test_a_run_in_which_all_is_cached_still_links_to_its_pages(
    server: None, tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    from tasks.stages import run_flow

    monkeypatch.setenv("DCGAN_ROOT", finished_store.root)
    monkeypatch.setenv("DCGAN_BACKEND", "local")
    monkeypatch.setenv("DCGAN_REPORT_URL", base)

    @prefect.flow
    def flow() -> str:
        for name in ("dedup", "report"):
            run_flow(name, tiny.preset, tiny.overrides, False, None)
        return _run_id()

    shown = _artifacts(flow())
    assert set(shown) == {"gallery-page", "report-page"}  # nothing else comes twice
    stages = {stage.artifact: stage for stage in load_pipeline(tiny.preset, tiny.overrides).stages}
    for name in ("gallery", "report"):
        page = stages[name].address.part_path("index.html")
        start = base.rstrip("/") if base else f"file://{finished_store.root}"
        assert f"({start}/{page})" in shown[f"{name}-page"]["data"]
