"""The state of a run: how it begins, what of it a checkpoint holds, and how it is put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dcgan_core.artifacts import Address, PartFile, as_json
from dcgan_core.config import TrainConfig
from dcgan_core.errors import ResumeRefused
from dcgan_core.models.dcgan import Generator, build
from dcgan_core.models.norms import Net
from dcgan_core.models.specs import NetSpec
from dcgan_core.models.synced import synchronised
from dcgan_core.shard.order import state_after
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.checkpoint import Saved
from dcgan_core.train.health import Health
from dcgan_core.train.noise import salted
from dcgan_core.train.runtime import Runtime
from dcgan_core.train.step import Pair, Player, Seen, adam

Line = dict[str, float]
OF_NETS = ("net", "size", "width", "z_size", "channels", "d_activation", "spectral_norm")
"""Fields that describe the nets: what counts is the nets that they mean."""


@dataclass(frozen=True)
class Job:
    """What a run is to do, and where."""

    config: TrainConfig
    spec: NetSpec
    seed: int
    store: Store
    address: Address
    key: str
    """Names the work: checkpoints of another key (other data at the same address) are not gone on from."""
    runtime: Runtime

    @property
    def graphs(self) -> bool:
        """Whether whole steps are replayed as CUDA graphs."""
        alone = self.runtime.world_size == 1  # what ranks tell each other is not captured
        return self.config.cuda_graphs and alone and self.runtime.device.type == "cuda"

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint's settings are compared with. A longer run goes on from a shorter one's
        checkpoint, unless the learning rate depends on the length."""
        left_out = {"result", *OF_NETS, *(() if self.config.decay else ("steps", "epochs"))}
        left_out |= {"epochs"} if self.config.steps else set()
        values = {name: value for name, value in self.config.identity().items() if name not in left_out}
        spec = {f"spec.{name}": value for name, value in self.spec.to_json().items()}
        return as_json({**values, "seed": self.seed, **spec})


@dataclass
class Run:
    """A run as it is now."""

    pair: Pair
    average: Generator | None
    health: Health
    seen: Seen = field(default_factory=Seen)
    step: int = 0
    loader: dict[str, int] = field(default_factory=lambda: state_after(0, 1))
    updates: dict[str, int] = field(default_factory=lambda: {"g": 0, "d": 0})
    log: list[Line] = field(default_factory=list)
    vitals: Line = field(default_factory=dict)
    """What the samples were like at the last check."""
    best: Line = field(default_factory=dict)
    """Step and score of the best checkpoint."""
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    samples: list[PartFile] = field(default_factory=list)
    checkpoints: list[Saved] = field(default_factory=list)
    seconds: float = 0.0
    """How long the loop has run, since it was started or resumed."""
    waited_seconds: float = 0.0
    """How much of that it has waited for data."""

    @property
    def noise_attempt(self) -> int:
        """Rollbacks that asked for another seed."""
        return sum(each["answer"] == "new_seed" for each in self.rollbacks)

    def rate(self, config: TrainConfig) -> float:
        """The learning rate before decay, lowered by rollbacks."""
        lowered = sum(each["answer"] == "lower_rate" for each in self.rollbacks)
        return config.learning_rate * config.rollback_rate**lowered


def begin(job: Job, attempt: int = 0) -> Run:
    """A run before its first step."""
    generator, discriminator = build(job.spec, salted(job.seed, attempt))
    if job.config.sync_bn and job.runtime.world_size > 1:
        synchronised(generator)
        synchronised(discriminator)
    pair = Pair(_player(generator, job), _player(discriminator, job))
    average = copy.deepcopy(pair.generator.net) if job.config.ema else None
    if job.config.compile:
        generator.compile()
        discriminator.compile()
    return Run(pair, average, Health(job.config.grace), Seen().to(job.runtime.device))


def _player(net: Net, job: Job) -> Player[Net]:
    config = job.config
    net = net.to(job.runtime.device).train()
    for parameter in net.parameters():
        if parameter.ndim == 4:  # channels_last, where there are channels
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimiser = adam(
        net,
        learning_rate=config.learning_rate,
        beta1=config.beta1,
        weight_decay=config.weight_decay,
        capturable=job.graphs,
    )
    return Player(net, optimiser)


def snapshot(run: Run) -> dict[str, dict[str, Tensor]]:
    """Copies in main memory of all tensors of a run, by file and name."""
    groups: dict[str, Mapping[str, Tensor]] = {
        "generator": run.pair.generator.net.state_dict(),
        "discriminator": run.pair.discriminator.net.state_dict(),
        "adam-generator": checkpoint.optimiser_tensors(run.pair.generator.optimiser),
        "adam-discriminator": checkpoint.optimiser_tensors(run.pair.discriminator.optimiser),
        "seen": {name: value.reshape(1) for name, value in vars(run.seen).items()},
    }
    if run.average is not None:
        groups["ema"] = run.average.state_dict()
    return {name: checkpoint.on_host(group) for name, group in groups.items()}


def facts_of(run: Run, job: Job) -> dict[str, Any]:
    """Everything else of a run, as JSON values; files that are being written are added by whoever writes."""
    return {
        "key": job.key,
        "spec": job.spec.to_json(),
        "settings": job.settings,
        "loader": run.loader,
        "updates": dict(run.updates),
        "log": list(run.log),
        "vitals": dict(run.vitals),
        "health": run.health.to_json(),
        "best": dict(run.best),
        "rollbacks": list(run.rollbacks),
    }


def resume(run: Run, job: Job) -> bool:
    """Put a run into the state of its newest checkpoint that is whole; False where there is none."""
    return restore(run, job, checkpoint.saved(job.store, job.address))


def restore(run: Run, job: Job, earlier: list[Saved]) -> bool:
    """The same with chosen checkpoints, oldest first.

    Raises ResumeRefused where the newest was made under other settings.
    """
    for place in range(len(earlier) - 1, -1, -1):
        found = earlier[place]
        _refuse_others(found.facts["settings"], job)
        tensors = checkpoint.load(job.store, job.address, found)
        if tensors is not None:
            _put_back(run, job, found, tensors)
            run.checkpoints = earlier[: place + 1]
            if run.best.get("step") not in [each.step for each in run.checkpoints]:
                run.best = {}  # its checkpoint is gone: the next score is the best again
            return True
    return False


def _put_back(run: Run, job: Job, found: Saved, tensors: dict[str, dict[str, Tensor]]) -> None:
    for player, name in ((run.pair.generator, "generator"), (run.pair.discriminator, "discriminator")):
        player.net.load_state_dict(tensors[name])
        checkpoint.restore_optimiser(player.optimiser, tensors[f"adam-{name}"])
    if run.average is not None:
        run.average.load_state_dict(tensors["ema"])
    run.seen.put(**{name: value.reshape(()) for name, value in tensors["seen"].items()})
    facts = found.facts
    run.step, run.loader = found.step, facts["loader"]
    run.updates, run.log, run.vitals = facts["updates"], facts["log"], facts["vitals"]
    run.best, run.rollbacks = facts["best"], facts["rollbacks"]
    run.health.load(facts["health"])
    run.samples = [PartFile(**file) for file in facts["samples"]]


def differences(saved: dict[str, Any], job: Job) -> tuple[tuple[str, str, str], ...]:
    """Settings in which a checkpoint differs from a job: name, there, here."""
    wanted = job.settings
    names = sorted(name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name))
    return tuple((name, str(saved.get(name)), str(wanted.get(name))) for name in names)


def _refuse_others(saved: dict[str, Any], job: Job) -> None:
    if changes := differences(saved, job):
        raise ResumeRefused(str(job.address), changes)
