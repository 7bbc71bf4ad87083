"""The flow `train`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from tasks.flow_runs import run_name
from tasks.stages import run_flow


@flow(name="train", flow_run_name=run_name, persist_result=False)
def train(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """A DCGAN trained on the shards."""
    return run_flow("train", preset, overrides, refresh, as_of)
