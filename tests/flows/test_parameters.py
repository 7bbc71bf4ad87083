"""What a flow is called with: refused early, by name, and dated by its schedule."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.utilities.importtools import import_object

from dcgan_core.errors import ConfigError
from flows import dcgan as whole
from flows.parameters import dated

PROJECT = Path(__file__).parents[2]
STAGES = ("scrape", "crop", "dedup", "shard", "train", "evaluate", "analyze", "report")


def _deployments() -> list[dict]:
    return yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda deployment: deployment["entrypoint"])
def test_every_entrypoint_is_a_flow_with_the_three_parameters(deployment: dict) -> None:
    flow = import_object(deployment["entrypoint"])
    assert isinstance(flow, Flow)
    assert list(flow.parameters.properties) == ["preset", "overrides", "refresh"]
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["work_pool"]["name"] == "dcgan"


def test_every_stage_and_the_whole_pipeline_are_deployed() -> None:
    names = {f"{each['entrypoint'].split('.')[1]}/{each['name']}" for each in _deployments()}
    assert names == {"dcgan/full-pipeline", *(f"{stage}/default" for stage in STAGES)}


def test_the_weekly_schedule_is_inactive() -> None:
    (pipeline,) = [each for each in _deployments() if each["name"] == "full-pipeline"]
    assert [schedule["active"] for schedule in pipeline["schedules"]] == [False]


def _in_run(**facts: Any) -> FlowRunContext:
    run = FlowRun.model_construct(**facts)
    return FlowRunContext.model_construct(flow_run=run)


def test_a_scheduled_run_takes_its_date_as_as_of() -> None:
    when = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    with _in_run(auto_scheduled=True, expected_start_time=when):
        assert dated({"train.steps": 5}) == {"train.steps": 5, "scrape.as_of": "2026-11-23"}
        assert dated({"scrape.as_of": "2020-01-01"}) == {"scrape.as_of": "2020-01-01"}


def test_a_run_started_by_hand_is_not_dated() -> None:
    when = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    with _in_run(auto_scheduled=False, expected_start_time=when):
        assert dated({"train.steps": 5}) == {"train.steps": 5}
    assert dated(None) == {}


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
