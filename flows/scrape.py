"""The flow `scrape`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="scrape", flow_run_name=run_name, persist_result=False)
def scrape(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """Photos from the configured source."""
    return run_flow("scrape", preset, overrides, refresh, as_of)
