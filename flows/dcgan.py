"""The flow `dcgan`: every stage as a subflow, from photos to the report."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from prefect import flow

from flows.analyze import analyze
from flows.crop import crop
from flows.dedup import dedup
from flows.evaluate import evaluate
from flows.parameters import Overrides, Preset, dated
from flows.report import report
from flows.scrape import scrape
from flows.shard import shard
from flows.train import train
from tasks.stages import look_at


@flow(name="dcgan", persist_result=False)
def dcgan(preset: Preset = "faces64", overrides: Overrides | None = None, refresh: bool = False) -> list[str]:
    """From photos of the open web to a trained DCGAN, and what it learned."""
    chosen = dated(overrides)
    look_at(preset, chosen)
    for stage in (scrape, crop, dedup, shard, train):
        stage(preset, chosen, refresh)
    with ThreadPoolExecutor(max_workers=2) as side_by_side:
        runs = [
            side_by_side.submit(copy_context().run, stage, preset, chosen, refresh)
            for stage in (evaluate, analyze)
        ]
    for run in runs:
        run.result()
    return report(preset, chosen, refresh)
