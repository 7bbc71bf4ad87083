"""The flow `dcgan`: every stage as a subflow, from photos to the report."""

from __future__ import annotations

from functools import partial

from prefect import flow

from flows.analyze import analyze
from flows.crop import crop
from flows.dedup import dedup
from flows.evaluate import evaluate
from flows.parameters import DEFAULT_PRESET, AsOf, Overrides, Preset, Refresh
from flows.report import report
from flows.scrape import scrape
from flows.shard import shard
from flows.train import train
from tasks.flow_runs import run_name
from tasks.stages import begin_pipeline
from tasks.termination import side_by_side


@flow(name="dcgan", flow_run_name=run_name, persist_result=False)
def dcgan(
    preset: Preset = DEFAULT_PRESET, overrides: Overrides = None, refresh: Refresh = False, as_of: AsOf = None
) -> list[str]:
    """From photos of the open web to a trained DCGAN, and what it learned."""
    day = begin_pipeline(preset, overrides, as_of)
    for stage in (scrape, crop, dedup, shard, train):
        stage(preset, overrides, refresh, day)
    side_by_side(*(partial(stage, preset, overrides, refresh, day) for stage in (evaluate, analyze)))
    return report(preset, overrides, refresh, day)
