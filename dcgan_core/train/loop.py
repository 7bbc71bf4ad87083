"""The whole training loop: batches, updates, samples, checkpoints, and exact resumption."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dcgan_core import images
from dcgan_core.artifacts import Address, PartFile, write_part
from dcgan_core.config import TrainConfig
from dcgan_core.errors import TrainingDiverged
from dcgan_core.models.dcgan import Discriminator, Generator, build
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.norms import Net, batch_statistics, recalibrated
from dcgan_core.models.specs import NetSpec
from dcgan_core.models.weights import describe_model, net_bytes, to_uint8
from dcgan_core.shard.order import Indices, Sampler, balanced, state_after
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.data import Feed, Pixels
from dcgan_core.train.runtime import Runtime, autocast_dtype
from dcgan_core.train.step import (
    Player,
    Seen,
    adam,
    draw_batch_z,
    update_average,
    update_discriminator,
    update_generator,
)

GRID_SAMPLES = 64
_RECALIBRATION_BATCHES = 32
_WORTH_SAYING = 0.05
# Streams of random numbers beside that of the training steps; a step number never reaches them.
_GRID_STREAM, _RECALIBRATION_STREAM = 2**40, 2**41


@dataclass
class Run:
    """The state of a run: what a checkpoint holds."""

    generator: Player[Generator]
    discriminator: Player[Discriminator]
    average: Generator | None
    step: int = 0
    loader: dict[str, int] = field(default_factory=lambda: state_after(0, 1))
    updates: dict[str, int] = field(default_factory=lambda: {"g": 0, "d": 0})
    seen: Seen = field(default_factory=Seen)
    log: list[dict[str, float]] = field(default_factory=list)
    samples: list[PartFile] = field(default_factory=list)
    checkpoints: list[PartFile] = field(default_factory=list)
    seconds: float = 0.0
    """How long the loop has run, since it was started or resumed."""
    waited_seconds: float = 0.0
    """How much of that it has waited for data."""


def steps_of(config: TrainConfig, samples: int) -> int:
    """Minibatches that the configuration means for a set of so many samples."""
    return config.steps or max(1, math.ceil(config.epochs * samples / config.batch_size))


def train(
    pixels: Pixels,
    config: TrainConfig,
    spec: NetSpec,
    seed: int,
    store: Store,
    address: Address,
    key: str,
    runtime: Runtime,
) -> Run:
    """Train to the end, from the latest checkpoint where there is one; rank 0 writes under ``address``.

    ``key`` names the work: checkpoints of another key (other data at the same address) are not gone on from.

    z and the order of the data are functions of (seed, step), so a resumed run repeats a straight one bit
    for bit on the same machine. Raises TrainingDiverged where a loss is no longer finite.
    """
    dtype = autocast_dtype(config.precision, runtime.device)
    run = _start(config, spec, seed, runtime)
    if runtime.rank == 0:
        checkpoint.drop_others(store, address, key)
        checkpoint.keep_latest(store, address, config.keep_checkpoints)  # a kill may have left one too many
    runtime.barrier()
    _resume(run, store, address, runtime)
    sampler = Sampler(len(pixels), seed, config.batch_size, rank=runtime.rank, world_size=runtime.world_size)
    sampler.load_state_dict(run.loader)
    mine = balanced(config.batch_size, runtime.world_size)[runtime.rank]
    steps, began, first = steps_of(config, len(pixels)), time.monotonic(), run.step
    feed = Feed(pixels, _wanted(sampler, config, run.step, steps), config.data_threads)
    try:
        while run.step < steps:
            z_NZ = draw_batch_z(spec, seed, run.step, config.batch_size)[mine.start : mine.stop]
            _update(run, config, feed, z_NZ.to(runtime.device), runtime, dtype)
            run.step += 1
            run.loader = state_after(run.step * config.batch_size, len(pixels))
            last = run.step == steps
            if run.step % config.log_every == 0 or last:
                run.seconds, run.waited_seconds = time.monotonic() - began, feed.waited_seconds
                rate = (run.step - first) * config.batch_size / run.seconds
                _log(run, config, steps, rate, runtime)
            if runtime.rank == 0 and (run.step % config.sample_every == 0 or last):
                _draw_samples(run, spec, seed, store, address, runtime)
            if run.step % config.checkpoint_every == 0 or last:
                _save(run, config, store, address, key, runtime)
    finally:
        feed.close()
    return run


def finish(
    run: Run,
    spec: NetSpec,
    seed: int,
    batch_size: int,
    store: Store,
    address: Address,
    facts: dict[str, object],
) -> list[PartFile]:
    """Write the finished model (batch norm statistics of G re-estimated, so that it draws one by one)."""
    batches = [
        draw_batch_z(spec, seed, _RECALIBRATION_STREAM + i, batch_size) for i in range(_RECALIBRATION_BATCHES)
    ]
    nets: dict[str, Generator] = {"generator": run.generator.net}
    if run.average is not None:
        nets["ema"] = run.average
    files = [
        write_part(
            store,
            address,
            f"{name}.safetensors",
            net_bytes(recalibrated(net, batches, lambda net, z: net(z))),
        )
        for name, net in nets.items()
    ]
    files.append(write_part(store, address, "discriminator.safetensors", net_bytes(run.discriminator.net)))
    files.append(write_part(store, address, "model.json", describe_model(spec, facts)))
    lines = "".join(json.dumps(line) + "\n" for line in run.log)
    files.append(
        write_part(store, address, "metrics.jsonl", lines.encode(), rows=len(run.log), is_data=False)
    )
    return [*files, *run.samples, *run.checkpoints]


def _start(config: TrainConfig, spec: NetSpec, seed: int, runtime: Runtime) -> Run:
    generator, discriminator = build(spec, seed)
    players = (_player(generator, config, runtime), _player(discriminator, config, runtime))
    return Run(*players, average=copy.deepcopy(players[0].net) if config.ema else None)


def _player(net: Net, config: TrainConfig, runtime: Runtime) -> Player[Net]:
    net = net.to(runtime.device).train()
    for parameter in net.parameters():
        if parameter.ndim == 4:  # channels_last, where there are channels
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimiser = adam(
        net, learning_rate=config.learning_rate, beta1=config.beta1, weight_decay=config.weight_decay
    )
    return Player(net, optimiser)


def _wanted(sampler: Sampler, config: TrainConfig, step: int, steps: int) -> Iterator[Indices]:
    """This rank's share of the minibatches that D will see, in order; the others are passed over unread."""
    for number in range(step, steps):
        indices = next(sampler)
        if _updates_discriminator(config, number):
            yield indices


def _updates_discriminator(config: TrainConfig, step: int) -> bool:
    # The authors' alternation starts with G; with "both", D goes first and G answers it.
    return config.schedule == "both" or step % 2 == 1


def _update(
    run: Run,
    config: TrainConfig,
    feed: Feed,
    z_NZ: Tensor,
    runtime: Runtime,
    dtype: torch.dtype,
) -> None:
    if _updates_discriminator(config, run.step):
        real = to_inputs(next(feed).pixels_N3SS, run.discriminator.net.spec)
        update_discriminator(run.generator, run.discriminator, real, z_NZ, runtime, dtype, run.seen)
        run.updates["d"] += 1
    if config.schedule == "both" or run.step % 2 == 0:
        update_generator(run.generator, run.discriminator, z_NZ, runtime, dtype, run.seen)
        run.updates["g"] += 1
        if run.average is not None:
            update_average(run.average, run.generator.net, config.ema, run.updates["g"])


def _log(run: Run, config: TrainConfig, steps: int, rate: float, runtime: Runtime) -> None:
    metrics = run.seen.read()
    for name, value in metrics.items():
        if not math.isfinite(value) and run.updates["g" if name == "loss_g" else "d"]:
            raise TrainingDiverged(run.step, name, str(value))
    counts = {"step": run.step, "images": run.step * config.batch_size}
    counts |= {f"{player}_updates": count for player, count in run.updates.items()}
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    run.log.append({**counts, **finite})
    note = f"loss D {metrics['loss_d']:.3f}  G {metrics['loss_g']:.3f}  {rate:,.0f} images/s"
    if run.waited_seconds > _WORTH_SAYING * run.seconds:
        note += f"  waiting for data {run.waited_seconds / run.seconds:.0%}"
    runtime.report(run.step, steps, metrics, note)


@torch.no_grad()
def _draw_samples(
    run: Run, spec: NetSpec, seed: int, store: Store, address: Address, runtime: Runtime
) -> None:
    z_NZ = draw_batch_z(spec, seed, _GRID_STREAM, GRID_SAMPLES).to(runtime.device)
    nets = {"step": run.generator.net, "ema": run.average}
    for name, net in nets.items():
        if net is not None:
            with batch_statistics(net):
                drawn = net(z_NZ)
            picture = images.encode_png(images.grid(to_uint8(drawn.float())))
            path = f"samples/{name}-{run.step:08d}.png"
            run.samples.append(write_part(store, address, path, picture, is_data=False))


def _save(run: Run, config: TrainConfig, store: Store, address: Address, key: str, runtime: Runtime) -> None:
    if runtime.rank == 0:
        tensors = {
            "generator": run.generator.net.state_dict(),
            "discriminator": run.discriminator.net.state_dict(),
            "adam-generator": checkpoint.optimiser_tensors(run.generator.optimiser),
            "adam-discriminator": checkpoint.optimiser_tensors(run.discriminator.optimiser),
            "seen": {name: value.reshape(1) for name, value in vars(run.seen).items()},
        }
        if run.average is not None:
            tensors["ema"] = run.average.state_dict()
        facts = {
            "key": key,
            "loader": run.loader,
            "updates": run.updates,
            "log": run.log,
            "samples": [file.model_dump() for file in run.samples],
        }
        saved = checkpoint.save(store, address, run.step, tensors, facts)
        kept = checkpoint.keep_latest(store, address, config.keep_checkpoints)
        run.checkpoints = [file for file in (*run.checkpoints, *saved) if file.name.split("/")[1] in kept]
    runtime.barrier()


def _resume(run: Run, store: Store, address: Address, runtime: Runtime) -> None:
    earlier = checkpoint.whole(store, address)
    if not earlier:
        return
    found = earlier[-1]
    for player, name in ((run.generator, "generator"), (run.discriminator, "discriminator")):
        player.net.load_state_dict(found.tensors[name])
        checkpoint.restore_optimiser(player.optimiser, found.tensors[f"adam-{name}"])
    if run.average is not None:
        run.average.load_state_dict(found.tensors["ema"])
    for name, value in found.tensors["seen"].items():
        setattr(run.seen, name, value.reshape(()).to(runtime.device))
    run.step, run.loader = found.step, found.facts["loader"]
    run.updates, run.log = found.facts["updates"], found.facts["log"]
    run.samples = [PartFile(**file) for file in found.facts["samples"]]
    run.checkpoints = [file for each in earlier for file in each.files]
