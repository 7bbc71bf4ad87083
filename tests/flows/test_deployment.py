"""The deployed pipeline as a user starts it: ``make up`` in a terminal, real server, worker and Ray."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dcgan_core.artifacts import all_manifests
from dcgan_core.pipeline import load_pipeline
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from tests.conftest import Tiny
from tests.flows.cluster import free_port, until

pytestmark = pytest.mark.slow
START_SECONDS = 180
RUN_SECONDS = 400


@dataclass(frozen=True)
class Up:
    """A running ``make up``."""

    process: subprocess.Popen[bytes]
    api: str
    root: str
    environment: dict[str, str]
    terminal: int
    """File descriptor of the terminal's other end."""
    lines: list[str]

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            env={**self.environment, "PREFECT_API_AUTH_STRING": self.login},
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
        return self.ask("POST", f"{what}/filter", **{"limit": 200, **body})

    @property
    def login(self) -> str:
        return (Path(self.environment["PREFECT_HOME"]) / "login").read_text()

    def ask(self, method: str, path: str, **json: Any) -> Any:
        name, password = self.login.split(":")
        answer = httpx.request(method, f"{self.api}/{path}", json=json, auth=(name, password), timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

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
    port, pages = free_port(), free_port()
    api = f"http://127.0.0.1:{port}/api"
    (home / "prefect").mkdir(mode=0o755)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api,
        "DCGAN_UP_PORT": str(port),
        "DCGAN_UP_PAGES_PORT": str(pages),
        "DCGAN_ROOT": str(home / "root"),
    }
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.up"],
        env=environment,
        cwd=home,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )
    ready, lines = threading.Event(), []

    def listen() -> None:
        with os.fdopen(os.dup(ours), errors="replace") as terminal, suppress(OSError):  # its end is an error
            for line in terminal:
                lines.append(line)
                if "prefect deployment run" in line:
                    ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert ready.wait(START_SECONDS), "".join(lines)
        assert process.poll() is None, "".join(lines)
        yield Up(process, api, str(home / "root"), environment, ours, lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_it_asks_nothing_and_says_where_and_with_which_login(up: Up) -> None:
    said = "".join(up.lines)
    assert "?" not in said
    assert up.api.removesuffix("/api") in said
    assert f"http://127.0.0.1:{up.environment['DCGAN_UP_PAGES_PORT']}" in said
    assert up.login in said


def test_nobody_without_the_login_gets_in_and_no_page_of_another_origin(up: Up) -> None:
    assert httpx.post(f"{up.api}/deployments/filter", json={}).status_code == 401
    assert httpx.post(f"{up.api}/deployments/filter", json={}, auth=("dcgan", "guess")).status_code == 401
    foreign = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    asked = httpx.options(f"{up.api}/deployments/filter", headers=foreign)
    assert "access-control-allow-origin" not in asked.headers
    own = foreign | {"Origin": up.api.removesuffix("/api")}
    asked = httpx.options(f"{up.api}/deployments/filter", headers=own)
    assert asked.headers["access-control-allow-origin"] == own["Origin"]


def test_its_files_are_for_its_user_alone(up: Up) -> None:
    home = Path(up.environment["PREFECT_HOME"])
    assert home.stat().st_mode & 0o777 == 0o700
    for name in ("login", "prefect.db"):
        assert (home / name).stat().st_mode & 0o777 == 0o600


def test_it_listens_on_this_machine_alone(up: Up) -> None:
    family = psutil.Process(up.process.pid).children(recursive=True)

    def listening() -> list[Any]:
        return [
            each.laddr for one in family for each in one.net_connections("tcp") if each.status == "LISTEN"
        ]

    ports = {int(up.environment[name]) for name in ("DCGAN_UP_PORT", "DCGAN_UP_PAGES_PORT")}
    until("the API and the pages", lambda: ports <= {each.port for each in listening()}, 60)
    assert {each.ip for each in listening()} <= {"127.0.0.1", "::1"}


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
        url = re.findall(r"\((http[^)]+)\)", links[f"{name}-page"])[0]
        assert httpx.get(url).text.startswith("<!")
    keys = [(each["flow_run_id"], each["key"]) for each in up.filtered("artifacts") if each["flow_run_id"]]
    assert len(set(keys)) == len(keys), "a card came twice"


def test_a_second_run_is_all_cached(up: Up, tiny: Tiny) -> None:
    done = up.run("dcgan/full-pipeline", tiny)
    assert done.returncode == 0, done.stdout
    states = up.task_states_of_latest("dcgan")
    assert len(states) == 14
    assert set(states.values()) == {"Cached"}
    (run,) = up.filtered("flow_runs", flows={"name": {"any_": ["report"]}}, sort="START_TIME_DESC", limit=1)
    assert "report-page" in {
        each["key"] for each in up.filtered("artifacts") if each["flow_run_id"] == run["id"]
    }


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


def test_a_wrong_preset_is_answered_with_the_nearest(up: Up) -> None:
    done = up.prefect("deployment", "run", "dcgan/full-pipeline", "-p", "preset=faces46", "--watch")
    assert done.returncode != 0
    (failed,) = up.filtered("flow_runs", flows={"name": {"any_": ["dcgan"]}}, sort="START_TIME_DESC", limit=1)
    assert "did you mean 'faces64'?" in failed["state"]["message"]


def test_a_cancelled_training_saves_and_is_cancelled_with_its_parent_and_nothing_revives_it(
    up: Up, tiny: Tiny
) -> None:
    chosen = tiny.changed(train__steps=100_000, train__checkpoint_every=100_000, seed=7)
    parameters = ("-p", f"preset={tiny.preset}", "-p", f"overrides={json.dumps(chosen)}")
    assert up.prefect("deployment", "run", "dcgan/full-pipeline", *parameters).returncode == 0

    def newest(flow: str) -> dict[str, Any] | None:
        runs = up.filtered("flow_runs", flows={"name": {"any_": [flow]}}, sort="START_TIME_DESC", limit=1)
        return runs[0] if runs and runs[0]["parameters"]["overrides"].get("seed") == 7 else None

    pipeline = load_pipeline(tiny.preset, chosen, upto="train")
    training = Store(up.root), pipeline.stages[-1].address
    samples = training[1].part_path("samples")
    # Past its first steps: while it reads its shards there is nothing to save.
    until("a training at work", lambda: training[0].names(samples), 240)
    parent = newest("dcgan")
    assert parent
    up.ask("POST", f"flow_runs/{parent['id']}/set_state", state={"type": "CANCELLING"})
    for flow in ("dcgan", "train"):
        until(f"{flow} Cancelled", lambda: newest(flow)["state_name"] == "Cancelled", 120)  # type: ignore[index]  # noqa: B023
        run = newest(flow)
        assert run
        states = [each["name"] for each in up.ask("GET", f"flow_run_states/?flow_run_id={run['id']}")]
        assert "Crashed" not in states
    saved = checkpoint.saved(*training)
    assert saved and 0 < saved[-1].step < 100_000


def test_a_misspelt_override_fails_with_the_nearest_name(up: Up, tiny: Tiny) -> None:
    done = up.run("train/default", tiny, train__stepz=3)
    assert done.returncode != 0
    (failed,) = up.filtered("flow_runs", flows={"name": {"any_": ["train"]}}, sort="START_TIME_DESC", limit=1)
    assert "did you mean 'train.steps'?" in failed["state"]["message"]
    assert failed["total_run_time"] < RUN_SECONDS


def test_a_stage_waits_for_the_run_that_makes_what_it_misses(up: Up, tiny: Tiny) -> None:
    chosen = tiny.changed(seed=8)
    parameters = ("-p", f"preset={tiny.preset}", "-p", f"overrides={json.dumps(chosen)}")
    for deployment in ("scrape/default", "crop/default"):  # both start at the same time
        assert up.prefect("deployment", "run", deployment, *parameters).returncode == 0

    def crop() -> dict[str, Any] | None:
        runs = up.filtered("flow_runs", flows={"name": {"any_": ["crop"]}}, sort="START_TIME_DESC", limit=1)
        ended = runs and runs[0]["state_type"] in ("COMPLETED", "FAILED")
        return runs[0] if ended and runs[0]["parameters"]["overrides"].get("seed") == 8 else None

    assert until("the end of crop", crop, 120)["state_name"] == "Completed"


def test_ctrl_c_ends_everything_within_fifteen_seconds_and_the_terminal_still_echoes(up: Up) -> None:
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert children
    deadline = time.monotonic() + 15
    os.write(up.terminal, b"\x03\x03")  # whoever is impatient
    assert up.process.wait(15) == 0
    _, alive = psutil.wait_procs(children, timeout=deadline - time.monotonic())
    assert alive == []
    assert termios.tcgetattr(up.terminal)[3] & termios.ECHO
    assert "Traceback" not in "".join(up.lines[-20:])
