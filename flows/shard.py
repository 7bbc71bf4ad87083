"""The flow `shard`."""

from __future__ import annotations

from prefect import flow

from flows.parameters import Overrides, Preset
from tasks.stages import run_flow


@flow(name="shard", persist_result=False)
def shard(preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False) -> list[str]:
    """WebDataset shards of the kept crops."""
    return run_flow("shard", preset, overrides, refresh)
