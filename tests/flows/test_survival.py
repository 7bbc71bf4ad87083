"""Runs that their process, worker or server has lost are found and go on; healthy ones are left alone.

On one real server, with light flows that wait. All cases wait at the same time: what happens to each is begun
by the fixture, one after the other, and each test looks at its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.cluster import Cluster, cluster, files, until

pytestmark = pytest.mark.slow
WINDOW_SECONDS = 40
"""Without a heartbeat for so long a run has crashed: the shortest that heartbeats every 30 seconds allow."""
FOUND_SECONDS = 120
"""Within which an operator must see what became of a lost run."""
CASES = ("process", "pipeline", "pod", "submitted", "cancelling", "silent", "slot")
OF_THE_POD = ("pod", "submitted", "cancelling")
"""Cases whose worker is lost with everything that it has started."""
FLOWS = {"pipeline": "pipeline", "silent": "silent"}
NAMES = {"pipeline": "dcgan", "silent": "evaluate"}


@dataclass
class Lost:
    """The cluster after everything has happened to it: a run a case, and the folder that it waits in."""

    cluster: Cluster
    runs: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def folder(self, case: str) -> Path:
        return self.cluster.home / case

    def start(self, case: str, **parameters: Any) -> str:
        self.folder(case).mkdir(exist_ok=True)
        deployment = f"{NAMES.get(case, 'analyze')}/{case}"
        self.runs[case] = self.cluster.run(deployment, folder=str(self.folder(case)), **parameters)
        return self.runs[case]

    def processes(self, case: str) -> list[int]:
        notes = self.folder(case) / "processes"
        return [int(line) for line in notes.read_text().split()] if notes.exists() else []

    def begun(self, case: str, times: int = 1) -> int:
        """Wait until a run's process is at work (for the n-th time); its id."""
        return until(f"{case} at work", lambda: self.processes(case)[times - 1 :], 120)[0]

    def let_go(self, case: str) -> None:
        (self.folder(case) / "go").touch()

    def goes_on(self, case: str) -> None:
        """The same run is at work again, in another process, and completes."""
        first = self.processes(case)[0]
        assert self.begun(case, times=2) != first
        self.let_go(case)
        self.cluster.until_state(self.runs[case], "Completed", 60)
        assert self.cluster.flow_run(self.runs[case])["run_count"] == 2


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    home = tmp_path_factory.mktemp("survival")
    with cluster(home) as made:
        windows = {
            "dcgan-lost-run": WINDOW_SECONDS,
            "dcgan-lost-before-start": 60,
            "dcgan-lost-while-cancelling": 30,
            "dcgan-start-again": 10,
        }
        folder = files(home / "project", windows)
        whole = yaml.safe_load((folder / "prefect.yaml").read_text())
        pattern = whole["deployments"][1]
        whole["deployments"] = [
            {
                **pattern,
                "name": case,
                "entrypoint": f"tests.flows.waiting.{FLOWS.get(case, 'alone')}",
                "parameters": {},
                "work_pool": {
                    **pattern["work_pool"],
                    "work_queue_name": "pod" if case in OF_THE_POD else "default",
                },
            }
            for case in CASES
        ]
        (folder / "prefect.yaml").write_text(yaml.safe_dump(whole))
        made.deploy(folder)
        state = Lost(made)
        _let_it_happen(state)
        yield state


def _let_it_happen(lost: Lost) -> None:
    made = lost.cluster
    made.start_worker()
    pod = made.start_worker("pod")
    at_work = ("silent", "process", "pipeline", "pod", "slot")
    for case in at_work:
        # One at a time: a start that takes longer than the window looks like a lost worker.
        lost.start(case, **({"seconds": 3.0 * WINDOW_SECONDS} if case == "silent" else {}))
        lost.begun(case)
    lost.notes["waiting"] = made.run("analyze/slot", folder=str(lost.folder("slot")))
    # The server's power is cut; its start takes longer than the eleven seconds that once were too many.
    assert made.server is not None
    made.kill(made.server)
    made.start_server()
    for case in ("process", "pipeline"):
        os.kill(lost.processes(case)[0], signal.SIGKILL)
    made.kill(pod)
    # The lost worker had just taken one run, and had another to cancel.
    for case, states in {
        "submitted": ["PENDING"],
        "cancelling": ["PENDING", "RUNNING", "CANCELLING"],
    }.items():
        lost.start(case)
        for each in states:
            made.ask("POST", f"flow_runs/{lost.runs[case]}/set_state", state={"type": each}, force=True)
    made.start_worker("pod")


def test_a_run_whose_process_was_killed_goes_on_by_itself(lost: Lost) -> None:
    lost.cluster.until_state(lost.runs["process"], "Running", FOUND_SECONDS)
    lost.goes_on("process")
    assert {"Crashed", "Rescheduled"} <= set(lost.cluster.history(lost.runs["process"]))


def test_a_pipeline_goes_on_and_leaves_no_stage_running(lost: Lost) -> None:
    lost.goes_on("pipeline")

    def all_ended() -> bool:
        children = lost.cluster.children(lost.runs["pipeline"])
        return all(child["state_type"] in ("COMPLETED", "CRASHED") for child in children)

    until("the end of every stage", all_ended, FOUND_SECONDS)


def test_a_run_that_was_lost_with_its_worker_crashes_and_goes_on_when_there_is_one(lost: Lost) -> None:
    id_ = lost.runs["pod"]
    until("a crash", lambda: "Crashed" in lost.cluster.history(id_), FOUND_SECONDS)
    lost.goes_on("pod")


def test_a_run_whose_worker_was_lost_before_it_began_is_scheduled_again(lost: Lost) -> None:
    lost.begun("submitted")
    lost.let_go("submitted")
    lost.cluster.until_state(lost.runs["submitted"], "Completed", 60)
    assert "Rescheduled" in lost.cluster.history(lost.runs["submitted"])


def test_a_cancellation_that_nobody_confirms_is_one_after_all_and_nothing_revives_it(lost: Lost) -> None:
    lost.cluster.until_state(lost.runs["cancelling"], "Cancelled", FOUND_SECONDS)
    assert lost.cluster.history(lost.runs["cancelling"])[-1] == "Cancelled"
    assert lost.processes("cancelling") == []


def test_a_server_that_comes_back_knows_who_holds_a_slot(lost: Lost) -> None:
    made, id_ = lost.cluster, lost.runs["slot"]
    run = made.flow_run(id_)
    assert run["state_name"] == "Running"
    lease = run["state"]["state_details"]["deployment_concurrency_lease_id"]
    made.ask("POST", f"v2/concurrency_limits/leases/{lease}/renew", lease_duration=300)
    assert made.flow_run(lost.notes["waiting"])["state_type"] == "SCHEDULED"
    lost.let_go("slot")
    for each in (id_, lost.notes["waiting"]):
        made.until_state(each, "Completed", 120)
    assert made.deployment("analyze/slot")["global_concurrency_limit"]["active_slots"] == 0


def test_a_healthy_stage_may_be_silent_for_three_windows(lost: Lost) -> None:
    lost.cluster.until_state(lost.runs["silent"], "Completed", 4 * WINDOW_SECONDS)
    history = lost.cluster.history(lost.runs["silent"])
    assert "Crashed" not in history
    assert lost.cluster.flow_run(lost.runs["silent"])["run_count"] == 1


def test_a_completed_run_stays_completed(lost: Lost) -> None:
    """Also if an automation comes late, as its events were lost on a busy server."""
    id_ = lost.runs["silent"]
    lost.cluster.until_state(id_, "Completed", 4 * WINDOW_SECONDS)
    answer = lost.cluster.ask("POST", f"flow_runs/{id_}/set_state", state={"type": "CRASHED"})
    assert answer["status"] == "ABORT"
    assert lost.cluster.state(id_) == "Completed"


def test_slots_that_a_lost_lease_holds_are_given_back_at_the_next_deploy(lost: Lost) -> None:
    limit = lost.cluster.deployment("analyze/process")["global_concurrency_limit"]
    lost.cluster.until_state(lost.runs["process"], "Completed", FOUND_SECONDS)
    lost.cluster.ask("PATCH", f"v2/concurrency_limits/{limit['id']}", active_slots=1)
    assert "1 lost slots given back" in lost.cluster.deploy(lost.cluster.home / "project")
    assert lost.cluster.deployment("analyze/process")["global_concurrency_limit"]["active_slots"] == 0
