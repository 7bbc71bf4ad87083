"""The flow `report`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="report", flow_run_name=run_name, persist_result=False)
def report(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """The page that sums everything up."""
    return run_flow("report", preset, overrides, refresh, as_of)
