"""The flow `crop`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="crop", persist_result=False)
def crop(preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False) -> list[str]:
    """Square crops out of the photos."""
    return run_flow("crop", preset, overrides, refresh)
