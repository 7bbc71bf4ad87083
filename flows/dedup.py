"""The flow `dedup`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="dedup", persist_result=False)
def dedup(preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False) -> list[str]:
    """Near duplicates among the crops, by an autoencoder's semantic hash."""
    return run_flow("dedup", preset, overrides, refresh)
