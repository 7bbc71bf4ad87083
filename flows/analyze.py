"""The flow `analyze`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="analyze", persist_result=False)
def analyze(
    preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False
) -> list[str]:
    """Pictures of what was learned."""
    return run_flow("analyze", preset, overrides, refresh)
