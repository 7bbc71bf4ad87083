"""The flow `evaluate`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="evaluate", persist_result=False)
def evaluate(
    preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False
) -> list[str]:
    """What the discriminator's features are worth on labelled sets."""
    return run_flow("evaluate", preset, overrides, refresh)
