"""The flow `crop`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="crop", flow_run_name=run_name, persist_result=False)
def crop(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """Square crops out of the photos."""
    return run_flow("crop", preset, overrides, refresh, as_of)
