"""What a flow is called with: refused early, by name, and dated by its schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import FlowRunContext
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object

from dcgan_core.config import preset_names
from dcgan_core.errors import ConfigError
from flows import dcgan as whole
from tasks import flow_runs
from tasks.flow_runs import begin_run, dated, run_name

PROJECT = Path(__file__).parents[2]
STAGES = ("scrape", "crop", "dedup", "shard", "train", "evaluate", "analyze", "report")


def _deployments() -> list[dict]:
    return yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda deployment: deployment["entrypoint"])
def test_every_entrypoint_is_a_flow_with_the_same_parameters(deployment: dict) -> None:
    flow = import_object(deployment["entrypoint"])
    assert isinstance(flow, Flow)
    assert list(flow.parameters.properties) == ["preset", "overrides", "refresh", "as_of"]
    assert deployment["parameters"].keys() == flow.parameters.properties.keys() - {"as_of"}
    assert deployment["work_pool"]["name"] == "dcgan"
    assert deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert deployment["description"]


def test_every_stage_and_the_whole_pipeline_are_deployed() -> None:
    names = {f"{each['entrypoint'].split('.')[1]}/{each['name']}" for each in _deployments()}
    assert names == {"dcgan/full-pipeline", *(f"{stage}/default" for stage in STAGES)}


def test_the_weekly_schedule_is_inactive() -> None:
    (pipeline,) = [each for each in _deployments() if each["name"] == "full-pipeline"]
    assert [schedule["active"] for schedule in pipeline["schedules"]] == [False]


@dataclass
class Schedules:
    """A Prefect API with one schedule, and what it was told of the run."""

    time_zone: str
    id: UUID = field(default_factory=uuid4)
    updates: list[dict[str, Any]] = field(default_factory=list)

    def read_deployment_schedules(self, _deployment: UUID) -> list[Any]:
        return [SimpleNamespace(id=self.id, schedule=CronSchedule(cron="0 3 * * 1", timezone=self.time_zone))]

    def update_flow_run_labels(self, _run: UUID, labels: dict[str, str]) -> None:
        assert labels == {"dcgan.root": "root"}

    def update_flow_run(self, _run: UUID, *, parameters: dict[str, Any]) -> None:
        self.updates.append(parameters)


def _in_run(when: datetime, schedules: Schedules, *, by_schedule: bool = True) -> FlowRunContext:
    run = FlowRun.model_construct(
        id=uuid4(),
        deployment_id=uuid4(),
        parameters={"preset": "demo"},
        auto_scheduled=by_schedule,
        expected_start_time=when,
        created_by=SimpleNamespace(id=schedules.id),
    )
    return FlowRunContext.model_construct(flow_run=run, parameters={"preset": "demo"})


@pytest.mark.parametrize(
    ("time_zone", "utc", "local"),
    [
        ("UTC", "2026-11-23T03:00", "2026-11-23"),
        ("Asia/Tokyo", "2026-11-22T18:00", "2026-11-23"),  # Monday 03:00 there is Sunday in UTC
        ("America/Los_Angeles", "2026-11-24T02:00", "2026-11-23"),
        # 00:30 in Berlin, the Mondays before and after clocks go back: the offset is another, the day is not.
        ("Europe/Berlin", "2026-10-18T22:30", "2026-10-19"),
        ("Europe/Berlin", "2026-10-25T23:30", "2026-10-26"),
    ],
)
def test_a_scheduled_run_takes_its_date_in_the_time_zone_of_its_schedule(
    time_zone: str, utc: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules = Schedules(time_zone)
    monkeypatch.setattr(flow_runs, "get_client", lambda **_: schedules)
    with _in_run(datetime.fromisoformat(utc).replace(tzinfo=UTC), schedules):
        assert run_name() == f"demo {local}"
        day = begin_run(None, "root")
        assert day == date.fromisoformat(local)
        assert dated({"train.steps": 5}, day) == {"train.steps": 5, "scrape.as_of": local}
        assert dated({"scrape.as_of": "2020-01-01"}, day) == {"scrape.as_of": "2020-01-01"}
    # A parameter of the run from now on: a rerun resumes the same week.
    assert schedules.updates == [{"preset": "demo", "as_of": local}]


def test_a_run_with_a_date_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = Schedules("UTC")
    monkeypatch.setattr(flow_runs, "get_client", lambda **_: schedules)
    with _in_run(datetime(2026, 11, 23, 3, tzinfo=UTC), schedules):
        assert begin_run(date(2026, 11, 16), "root") == date(2026, 11, 16)
    assert schedules.updates == []


def test_a_run_started_by_hand_is_not_dated(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = Schedules("UTC")
    monkeypatch.setattr(flow_runs, "get_client", lambda **_: schedules)
    with _in_run(datetime(2026, 11, 23, 3, tzinfo=UTC), schedules, by_schedule=False):
        assert begin_run(None, "root") is None
        assert run_name() == f"demo {datetime.now().astimezone().date()}"
    assert begin_run(None, "root") is None
    assert dated({"train.steps": 5}, None) == {"train.steps": 5}
    assert dated(None, None) == {}


def test_the_form_of_a_run_explains_every_parameter_and_lists_the_presets() -> None:
    properties = parameter_schema(whole.dcgan).properties
    assert all(each.get("description") for each in properties.values())
    assert properties["preset"]["enum"] == preset_names()


def test_a_wrong_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'face64'; did you mean 'faces64'"):
        whole.dcgan.fn("face64")


def test_the_whole_pipeline_looks_for_its_labelled_sets_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "photo.png").write_bytes(b"")
    begun: list[str] = []
    monkeypatch.setattr(whole, "scrape", lambda *_: begun.append("scrape"))
    with pytest.raises(ConfigError, match="labelled set cifar10: nothing says where CIFAR-10 lies"):
        whole.dcgan.fn("imagenet32", {"scrape.path": str(tmp_path)})
    assert begun == []
