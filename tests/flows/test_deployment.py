"""The deployed pipeline on a real Prefect server and worker, with real Ray, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dcgan_core.artifacts import all_manifests
from dcgan_core.storage import Store
from tests.conftest import Tiny

pytestmark = pytest.mark.slow
START_SECONDS = 180
RUN_SECONDS = 400


@dataclass(frozen=True)
class Up:
    """A running ``make up``."""

    process: subprocess.Popen[str]
    api: str
    root: str
    environment: dict[str, str]

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )

    def run(self, deployment: str, tiny: Tiny, **overrides: Any) -> subprocess.CompletedProcess[str]:
        """Run a deployment to its end; the exit code is 1 where the run failed."""
        chosen = {**tiny.overrides, **{key.replace("__", "."): value for key, value in overrides.items()}}
        parameters = ("-p", f"preset={tiny.preset}", "-p", f"overrides={json.dumps(chosen)}")
        return self.prefect("deployment", "run", deployment, *parameters, "--watch")

    def filtered(self, what: str, **body: Any) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.api}/{what}/filter", json={"limit": 200, **body}, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def task_states_of_latest(self, flow: str) -> dict[str, str]:
        """Artifact and state name of each task in the newest run of a flow and its subflows."""
        runs = self.filtered(
            "flow_runs", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_DESC", limit=1
        )
        children = self.filtered("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [runs[0]["id"]]}})
        ids = [run["id"] for run in (runs[0], *children)]
        tasks = self.filtered("task_runs", flow_runs={"id": {"any_": ids}})
        return {
            task["name"].split("/")[0]: task["state_name"]
            for task in tasks
            if not task["task_inputs"].get("__parents__") and "/" in task["name"]
        }


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """``make up`` without make: server, pool, deployments, worker."""
    home = tmp_path_factory.mktemp("up")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api,
        "DCGAN_UP_PORT": str(port),
        "DCGAN_ROOT": str(home / "root"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.up"],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ready, lines = threading.Event(), []

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ready."):
                ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.wait(START_SECONDS), "".join(lines)
        assert process.poll() is None, "".join(lines)
        yield Up(process, api, str(home / "root"), environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_the_whole_pipeline_runs_from_its_deployment(up: Up, tiny: Tiny) -> None:
    done = up.run("dcgan/full-pipeline", tiny)
    assert done.returncode == 0, done.stdout
    made = {manifest.artifact for manifest in all_manifests(Store(up.root))}
    assert set(up.task_states_of_latest("dcgan")) == made
    assert set(up.task_states_of_latest("dcgan").values()) == {"Completed"}
    assert (Path(up.root) / "report" / "index.html").stat().st_size > 10_000
    kinds = {artifact["type"] for artifact in up.filtered("artifacts")}
    assert {"table", "markdown", "image", "progress"} <= kinds
    links = {artifact["key"]: artifact["data"] for artifact in up.filtered("artifacts")}
    for name in ("gallery", "report"):
        assert f"(file://{up.root}/artifacts/{name}/" in links[f"{name}-page"]


def test_a_second_run_is_all_cached(up: Up, tiny: Tiny) -> None:
    done = up.run("dcgan/full-pipeline", tiny)
    assert done.returncode == 0, done.stdout
    states = up.task_states_of_latest("dcgan")
    assert len(states) == 14
    assert set(states.values()) == {"Cached"}


def test_dedup_alone_with_another_radius_makes_only_dedup_anew(up: Up, tiny: Tiny) -> None:
    done = up.run("dedup/default", tiny, dedup__radius=3)
    assert done.returncode == 0, done.stdout
    states = up.task_states_of_latest("dedup")
    assert states == {
        "autoencoder": "Cached",
        "codes": "Cached",
        "links": "Completed",
        "dedup": "Completed",
        "gallery": "Completed",
    }


def test_more_baselines_are_judged_beside_what_was_and_shown_as_a_table(up: Up, tiny: Tiny) -> None:
    more = {"evaluate__baselines": ["untrained", "pixels", "knn", "kmeans"], "evaluate__kmeans_units": 8}
    done = up.run("evaluate/default", tiny, **more)
    assert done.returncode == 0, done.stdout
    states = {"features": "Cached", "scores": "Completed", "quality": "Cached"}
    assert up.task_states_of_latest("evaluate") == states
    scores = all_manifests(Store(up.root), "scores")[-1]
    assert (scores.provenance["parts_done"], scores.provenance["parts_reused"]) == (2, 3)
    tables = [
        artifact["data"]
        for artifact in up.filtered("artifacts", sort="CREATED_DESC")
        if artifact["key"] == "scores-table"
    ]
    rows = json.loads(tables[0])
    assert [row["features"] for row in rows] == [
        "discriminator",
        "untrained discriminator",
        "raw pixels",
        "nearest neighbours in pixels",
        "K-means",
    ]
    figures = next(
        artifact["data"] for artifact in up.filtered("artifacts") if artifact["key"] == "quality-table"
    )
    assert "Mean distance of two samples" in {row["generator"] for row in json.loads(figures)}
    said = scores.metrics["accuracy"]["digits"]["K-means"]["all labels"]
    assert float(rows[-1]["accuracy %"]) == pytest.approx(100 * said, abs=0.01)
    assert up.run("evaluate/default", tiny, **more).returncode == 0
    assert set(up.task_states_of_latest("evaluate").values()) == {"Cached"}


def test_a_labelled_set_that_is_missing_ends_the_pipeline_before_its_first_stage(up: Up, tiny: Tiny) -> None:
    done = up.run("dcgan/full-pipeline", tiny, seed=43, evaluate__sets=["svhn"])
    assert done.returncode != 0
    (failed,) = up.filtered("flow_runs", flows={"name": {"any_": ["dcgan"]}}, sort="START_TIME_DESC", limit=1)
    assert "nothing says where SVHN, cropped digits lies" in failed["state"]["message"]
    children = up.filtered("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [failed["id"]]}})
    assert children == []


def test_a_stage_without_its_input_says_what_to_run(up: Up, tiny: Tiny) -> None:
    done = up.run("shard/default", tiny, dedup__radius=1)
    assert done.returncode != 0
    (failed,) = up.filtered("flow_runs", flows={"name": {"any_": ["shard"]}}, sort="START_TIME_DESC", limit=1)
    assert "prefect deployment run dedup/default -p preset=faces64" in failed["state"]["message"]


def test_a_bad_preset_is_refused_at_submission(up: Up) -> None:
    refused = up.prefect("deployment", "run", "dcgan/full-pipeline", "-p", "preset=faces46")
    assert refused.returncode != 0
    assert "preset" in refused.stdout + refused.stderr


def test_a_misspelt_override_fails_with_the_nearest_name(up: Up, tiny: Tiny) -> None:
    done = up.run("train/default", tiny, train__stepz=3)
    assert done.returncode != 0
    (failed,) = up.filtered("flow_runs", flows={"name": {"any_": ["train"]}}, sort="START_TIME_DESC", limit=1)
    assert "did you mean 'train.steps'?" in failed["state"]["message"]
    assert failed["total_run_time"] < RUN_SECONDS


def test_it_stops_cleanly_and_leaves_no_process(up: Up) -> None:
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert children
    up.process.send_signal(signal.SIGTERM)
    up.process.send_signal(signal.SIGINT)  # whoever is impatient
    assert up.process.wait(60) == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
