"""What is known of a flow run: its date, its name, and other runs that work on the same root."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from dcgan_core.artifacts import Address, read_manifest
from dcgan_core.errors import DcganError, MissingArtifact
from dcgan_core.pipeline import load_pipeline
from dcgan_core.storage import Store
from tasks.termination import end_if_told

_ROOT = "dcgan.root"
"""Label of a flow run: the root it works on."""
_WAIT_SECONDS = 5.0
_SAY_EVERY = 12
"""Waits after which a waiting run says again what it waits for: once a minute."""


def run_name() -> str:
    """The name of the flow run that begins here: its preset and date, such as `faces64 2026-12-07`."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    parameters: dict[str, Any] = dict(context.parameters or {}) if context else {}
    day = parameters.get("as_of") or (scheduled_date(run) if run else None)
    day = day or datetime.now().astimezone().date()
    return f"{PurePath(str(parameters.get('preset', ''))).stem} {day}".strip()


def begin_run(as_of: date | None, root: str) -> date | None:
    """Note on the flow run that we are in which root it works on; ``as_of``, or else its scheduled date.

    A scheduled date becomes a parameter of the run, so that a rerun or a copy of it resumes the same week.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return as_of
    client = get_client(sync_client=True)
    client.update_flow_run_labels(run.id, {_ROOT: root})
    day = scheduled_date(run) if as_of is None else as_of
    if as_of is None and day is not None:
        client.update_flow_run(run.id, parameters={**run.parameters, "as_of": day.isoformat()})
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


def wait_for_maker(missing: MissingArtifact, store: Store) -> bool:
    """Wait while another flow run on the same root is going to make what is missing; whether there was one.

    Runs outside Prefect are not seen.
    """
    address = Address(missing.artifact, missing.fingerprint)
    makes: dict[UUID, bool] = {}
    waited = 0
    while True:
        if waited and read_manifest(store, address) is not None:
            return True
        maker = next(
            (run for run in _others(missing.flow, store.root) if _makes(run, address, store, makes)), None
        )
        if maker is None:
            return waited > 0
        if waited % _SAY_EVERY == 0:
            get_run_logger().info(
                f"{missing.wanted_by} waits for {address}, which the flow run {maker.name!r} ({maker.id}, "
                f"{maker.state_name}) makes"
            )
        end_if_told()
        time.sleep(_WAIT_SECONDS)
        waited += 1


def _others(flow: str, root: str) -> list[FlowRun]:
    """Flow runs, Running or Pending, of the flow or the whole pipeline; those that begin have no root yet."""
    context = FlowRunContext.get()
    own = context.flow_run.id if context and context.flow_run else None
    found = get_client(sync_client=True).read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [flow, "dcgan"]}}),
        flow_run_filter=FlowRunFilter.model_validate(
            {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}, "parent_task_run_id": {"is_null_": True}}
        ),
        limit=200,
    )
    return [run for run in found if run.id != own and run.labels.get(_ROOT, root) == root]


def _makes(run: FlowRun, address: Address, store: Store, known: dict[UUID, bool]) -> bool:
    """Whether a flow run's own parameters lead to an artifact; one that is wrongly called makes nothing."""
    if run.id not in known:
        parameters = run.parameters
        day = parameters.get("as_of") or scheduled_date(run)
        try:
            chosen = dated(parameters.get("overrides"), date.fromisoformat(str(day)) if day else None)
            stages = load_pipeline(parameters.get("preset", ""), chosen, store=store).stages
            known[run.id] = any(stage.address == address for stage in stages)
        except DcganError:
            known[run.id] = False
    return known[run.id]
