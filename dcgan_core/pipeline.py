"""Which stages there are and what follows from what; addresses follow from the configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dcgan_core.analyze.stage import Analyze
from dcgan_core.artifacts import Address
from dcgan_core.config import PipelineConfig, load_config
from dcgan_core.crop.stage import Crop
from dcgan_core.dedup.links import Links
from dcgan_core.dedup.stage import Codes, Dedup, TrainAutoencoder
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.quality_stage import Quality
from dcgan_core.evaluate.scores import Scores
from dcgan_core.evaluate.stage import Features
from dcgan_core.report.gallery_stage import ShowDuplicates
from dcgan_core.report.stage import Report
from dcgan_core.scrape.candidates import Candidates
from dcgan_core.scrape.fetch_stage import Fetch
from dcgan_core.scrape.people import People
from dcgan_core.scrape.search import Searches
from dcgan_core.scrape.stage import Scrape
from dcgan_core.shard.stage import Shard
from dcgan_core.stage import FLOWS, Stage
from dcgan_core.storage import Store
from dcgan_core.train.stage import Train

SHOWN = (
    "photos",
    "crops",
    "autoencoder",
    "codes",
    "dedup",
    "gallery",
    "shards",
    "train",
    "scores",
    "quality",
    "figures",
)
"""Artifacts that a report shows."""


@dataclass(frozen=True)
class Pipeline:
    """Every stage of a configuration, in order, each knowing its inputs' addresses."""

    preset: str
    config: PipelineConfig
    stages: tuple[Stage, ...]

    def of(self, flow: str) -> list[Stage]:
        """The stages of one flow (``all``: of every flow); ConfigError for an unknown name."""
        if flow == "all":
            return list(self.stages)
        if flow not in FLOWS:
            raise ConfigError(f"there is no stage {flow!r}; stages: {', '.join(FLOWS)}, all")
        return [stage for stage in self.stages if stage.flow == flow]


def load_pipeline(
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    upto: str = "all",
    gpus: int = -1,
    store: Store | None = None,
) -> Pipeline:
    """The stages that a preset and overrides mean, up to and including a flow.

    Sources are looked at (listings, hashes), nothing is computed. In a ``store`` files whose times have
    changed are known again by their bytes. Raises ConfigError.
    """
    return build(load_config(preset, overrides), preset, upto=upto, gpus=gpus, store=store)


def build(
    config: PipelineConfig,
    preset: str,
    *,
    upto: str = "all",
    gpus: int = -1,
    store: Store | None = None,
) -> Pipeline:
    """The stages of a configuration. Those after ``upto`` are left out, so their sources need not exist."""
    if upto != "all" and upto not in FLOWS:
        raise ConfigError(f"there is no stage {upto!r}; stages: {', '.join(FLOWS)}, all")
    wanted = FLOWS if upto == "all" else FLOWS[: FLOWS.index(upto) + 1]
    seed = config.seed
    made: dict[str, Address] = {}
    stages: list[Stage] = []

    def inputs(*names: str) -> dict[str, Address]:
        return {name: made[name] for name in names}

    def add(stage: Stage) -> None:
        made[stage.artifact] = stage.address
        stages.append(stage)

    if config.scrape.source == "search":
        add(People(seed, {}, preset, config.scrape))
        add(Searches(seed, inputs("people"), preset, config.scrape))
        add(Candidates(seed, inputs("searches"), preset, config.scrape))
    elif config.scrape.source == "urls":
        add(Candidates(seed, {}, preset, config.scrape))
    if "candidates" in made:
        add(Fetch(seed, inputs("candidates"), preset, config.scrape))
    else:
        add(Scrape(seed, {}, preset, config.scrape, store))
    if "crop" in wanted:
        add(Crop(seed, inputs("photos"), preset, config.crop))
    if "dedup" in wanted:
        if config.dedup.encoder:
            made["autoencoder"] = Address(*config.dedup.encoder.split("/"))
        else:
            add(TrainAutoencoder(seed, inputs("crops"), preset, config.dedup))
        add(Codes(seed, inputs("crops", "autoencoder"), preset, config.dedup))
        add(Links(seed, inputs("codes"), preset, config.dedup))
        ranked_by = ("photos",) if "licence" in config.dedup.rank else ()
        add(Dedup(seed, inputs("codes", "links", *ranked_by), preset, config.dedup))
        shown = inputs("photos", "crops", "codes", "links", "dedup")
        add(ShowDuplicates(seed, shown, preset, config.dedup))
    if "shard" in wanted:
        add(Shard(seed, inputs("crops", "dedup"), preset, config.shard))
    if "train" in wanted:
        train = Train(seed, inputs("shards"), preset, config.train, config.shard, gpus)
        size = train.spec.size
        add(train)
        if "evaluate" in wanted and upto != "analyze":
            judged_on = config.evaluate.located(config.scrape)
            for labelled in judged_on.sets:
                if labelled.protocol == "mnist-nn" and not train.spec.classes:
                    raise ConfigError(
                        f"labelled set {labelled.name}: the protocol mnist-nn needs a generator that is told "
                        f"classes, and {train.spec.name} is not: train.net=mnist28, or another protocol"
                    )
            add(Features(seed, inputs("train"), preset, judged_on, size, gpus))
            add(Scores(seed, inputs("train", "features"), preset, judged_on, size, gpus))
            holds_out = config.train.held_out > 0
            add(Quality(seed, inputs("train", "shards"), preset, judged_on, size, gpus, holds_out))
        if "analyze" in wanted:
            add(Analyze(seed, inputs("train", "shards"), preset, config.analyze))
        if "report" in wanted:
            add(Report(seed, inputs(*SHOWN), preset, config))
    return Pipeline(preset, config, tuple(stages))
