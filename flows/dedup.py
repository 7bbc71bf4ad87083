"""The flow `dedup`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="dedup", flow_run_name=run_name, persist_result=False)
def dedup(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """Near duplicates among the crops, by an autoencoder's semantic hash."""
    return run_flow("dedup", preset, overrides, refresh, as_of)
