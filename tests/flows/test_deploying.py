"""What `dcgan-deploy` leaves alone, what it brings, and a schedule that fires. On a real server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.deploy import merge
from tests.conftest import Tiny
from tests.flows.cluster import Cluster, cluster, files, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("deploying")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(server: Cluster) -> Path:
    """The files as they were deployed the first time."""
    made = files(server.home / "project")
    server.deploy(made)
    return made


def _change(folder: Path, deployment: str, **values: Any) -> None:
    whole = yaml.safe_load((folder / "prefect.yaml").read_text())
    (entry,) = [each for each in whole["deployments"] if each["name"] == deployment]
    entry.update(values)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(whole))


def test_what_an_operator_set_stays_what_the_file_changed_arrives_and_reset_says_what_it_undoes(
    server: Cluster, folder: Path
) -> None:
    name = "dcgan/full-pipeline"
    before = server.deployment(name)
    (schedule,) = before["schedules"]
    path = f"deployments/{before['id']}"
    rule = {"cron": "30 5 * * 2", "timezone": "Europe/Berlin"}
    mine = {"preset": "faces64", "overrides": {"scrape.path": "/photos"}}
    server.ask(
        "PATCH",
        f"{path}/schedules/{schedule['id']}",
        schedule=rule,
        active=True,
        parameters={"refresh": True},
    )
    server.ask("PATCH", path, parameters={**before["parameters"], **mine}, concurrency_limit=3)
    server.ask("PATCH", "work_pools/dcgan", concurrency_limit=7)
    (automation,) = [
        each for each in server.ask("POST", "automations/filter") if each["name"] == "dcgan-start-again"
    ]
    server.ask("PATCH", f"automations/{automation['id']}", enabled=False)

    assert f"{name}: unchanged" in server.deploy(folder)
    _change(folder, "full-pipeline", description="Another text.")
    assert "description: " in server.deploy(folder)

    after = server.deployment(name)
    (kept,) = after["schedules"]
    assert after["description"] == "Another text."
    assert kept["id"] == schedule["id"]
    assert {key: kept["schedule"][key] for key in rule} == rule
    assert kept["active"]
    assert kept["parameters"] == {"refresh": True}
    assert {key: after["parameters"][key] for key in mine} == mine
    assert after["global_concurrency_limit"]["limit"] == 3
    assert server.ask("GET", "work_pools/dcgan")["concurrency_limit"] == 7
    assert not server.ask("GET", f"automations/{automation['id']}")["enabled"]

    said = server.deploy(folder, reset=True)
    assert "schedules.weekly.cron: '30 5 * * 2' -> '0 3 * * 1' (reset)" in said
    assert "concurrency_limit: 3 -> 1 (reset)" in said
    assert "automation dcgan-start-again: changed (reset)" in said
    (shipped,) = server.deployment(name)["schedules"]
    assert (shipped["id"], shipped["active"]) == (schedule["id"], False)
    assert server.ask("GET", f"automations/{automation['id']}")["enabled"]


def test_where_both_changed_the_operators_stays_and_is_named() -> None:
    merged, said = merge({"limit": 1, "text": "a"}, {"limit": 3, "text": "a"}, {"limit": 2, "text": "b"})
    assert merged == {"limit": 3, "text": "b"}
    assert said == ["limit: 3 stays; the file says 2 (--reset takes that)", "text: 'a' -> 'b'"]


def test_what_an_operator_deleted_stays_deleted_and_what_the_file_drops_goes() -> None:
    assert merge({"gone": 1, "dropped": 2}, {"dropped": 2}, {"gone": 1}) == ({}, ["dropped: 2 -> None"])


def test_after_another_tool_has_deployed_only_what_is_not_there_at_all_is_added() -> None:
    merged, said = merge(None, {"limit": 3}, {"limit": 1, "new": 5})
    assert merged == {"limit": 3, "new": 5}
    assert len(said) == 2


def test_a_schedule_that_is_switched_on_makes_a_run_that_completes(
    server: Cluster, folder: Path, tiny: Tiny
) -> None:
    server.start_worker()
    deployment = server.deployment("scrape/default")
    soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    server.ask(
        "PATCH",
        f"deployments/{deployment['id']}",
        schedules=[
            {
                "slug": "test",
                "active": True,
                "schedule": {"interval": 86400, "anchor_date": soon, "timezone": "Pacific/Kiritimati"},
                "parameters": {"preset": tiny.preset, "overrides": tiny.overrides},
            }
        ],
    )

    def done() -> dict[str, Any] | None:
        runs = server.ask("POST", "flow_runs/filter", deployments={"id": {"any_": [deployment["id"]]}})
        return next((run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")), None)

    run = until("a scheduled run that has ended", done, 150)
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["auto_scheduled"]
    # Fourteen hours ahead of UTC: the date is the schedule's, and a parameter of the run.
    local = datetime.fromisoformat(run["expected_start_time"]) + timedelta(hours=14)
    assert run["parameters"]["as_of"] == local.date().isoformat()
    assert run["name"] == f"{tiny.preset} {local.date()}"
