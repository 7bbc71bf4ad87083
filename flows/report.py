"""The flow `report`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="report", persist_result=False)
def report(
    preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False
) -> list[str]:
    """The page that sums everything up."""
    return run_flow("report", preset, overrides, refresh)
