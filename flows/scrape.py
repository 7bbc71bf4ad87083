"""The flow `scrape`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="scrape", persist_result=False)
def scrape(
    preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False
) -> list[str]:
    """Photos from the configured source."""
    return run_flow("scrape", preset, overrides, refresh)
