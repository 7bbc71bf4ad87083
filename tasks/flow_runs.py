"""What is known of a flow run: its date, its name, and other runs that work on the same root."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext


def run_name() -> str:
    """The name of the flow run that begins here: its preset and date, such as `faces64 2026-12-07`."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    parameters: dict[str, Any] = dict(context.parameters or {}) if context else {}
    day = parameters.get("as_of") or (scheduled_date(run) if run else None)
    day = day or datetime.now().astimezone().date()
    return f"{PurePath(str(parameters.get('preset', ''))).stem} {day}".strip()


def date_of_run(as_of: date | None) -> date | None:
    """``as_of``, or the scheduled date of the flow run that we are in.

    A scheduled date becomes a parameter of the run, so that a rerun or a copy of it resumes the same week.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if as_of is not None or run is None:
        return as_of
    day = scheduled_date(run)
    if day is not None:
        parameters = {**run.parameters, "as_of": day.isoformat()}
        get_client(sync_client=True).update_flow_run(run.id, parameters=parameters)
    return day


def scheduled_date(run: FlowRun) -> date | None:
    """The date on which a schedule started a flow run, as the schedule's time zone has it; else None."""
    if not run.auto_scheduled or run.expected_start_time is None:
        return None
    return run.expected_start_time.astimezone(_time_zone(run, get_client(sync_client=True))).date()


def _time_zone(run: FlowRun, client: SyncPrefectClient) -> ZoneInfo:
    """Of the schedule that made the run; UTC, as Prefect has it, if the schedule names none or is gone."""
    if run.deployment_id and run.created_by:
        for schedule in client.read_deployment_schedules(run.deployment_id):
            if schedule.id == run.created_by.id:
                return ZoneInfo(getattr(schedule.schedule, "timezone", None) or "UTC")
    return ZoneInfo("UTC")


def dated(overrides: Mapping[str, Any] | None, day: date | None) -> dict[str, Any]:
    """Overrides with ``scrape.as_of`` set to a day, unless they set it themselves."""
    chosen = dict(overrides or {})
    if day is not None:
        chosen.setdefault("scrape.as_of", day.isoformat())
    return chosen
