"""The flow `evaluate`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="evaluate", flow_run_name=run_name, persist_result=False)
def evaluate(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """What the discriminator's features are worth on labelled sets."""
    return run_flow("evaluate", preset, overrides, refresh, as_of)
