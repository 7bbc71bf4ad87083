"""The flow `train`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="train", persist_result=False)
def train(preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False) -> list[str]:
    """A DCGAN trained on the shards."""
    return run_flow("train", preset, overrides, refresh)
