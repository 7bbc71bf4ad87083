"""The whole training loop: batches, updates, samples, checks, checkpoints, and exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from dcgan_core.config import TrainConfig
from dcgan_core.errors import TrainingDiverged, TrainingStopped, TransientError
from dcgan_core.shard.order import Indices, Sampler, balanced, state_after
from dcgan_core.train import checkpoint
from dcgan_core.train.augment import noise_size
from dcgan_core.train.curves import Curves
from dcgan_core.train.data import Feed, Pixels
from dcgan_core.train.engine import Engine
from dcgan_core.train.health import Trouble
from dcgan_core.train.judge import Judge
from dcgan_core.train.noise import (
    AUGMENT_ANSWER,
    AUGMENT_FAKE,
    AUGMENT_REAL,
    draw_batch_z,
    draw_uniform,
    salted,
)
from dcgan_core.train.outputs import draw_grids, prune, save, write_log
from dcgan_core.train.runtime import Runtime, autocast_dtype
from dcgan_core.train.schedule import Update, rate_share, update_of
from dcgan_core.train.state import Job, Run, begin, restore, resume
from dcgan_core.train.step import Inputs, Recipe, set_rate, update_average
from dcgan_core.train.writer import Writer

_WORTH_SAYING = 0.05
_ASK_SECONDS = 2.0
"""How often ranks ask each other whether one of them was told to stop."""


def steps_of(config: TrainConfig, samples: int) -> int:
    """Minibatches that the configuration means for a set of so many samples."""
    return config.steps or max(1, math.ceil(config.epochs * samples / config.batch_size))


def train(pixels: Pixels, job: Job, unseen: Pixels | None = None) -> Run:
    """Train to the end, from the latest checkpoint where there is one; rank 0 writes under ``job.address``.

    Steps are scored by ``unseen`` images, which are never trained on; without any, by those of ``pixels``.
    z, augmentation and the order of the data are functions of (seed, step, number of the sample), so a
    resumed run repeats a straight one: bit for bit on the same processor, to rounding on a GPU.

    Raises TrainingDiverged where the run fails and what ``config.on_trouble`` allows does not help,
    TrainingStopped where it was asked to stop, after saving, ResumeRefused where the checkpoints were made
    under other settings, and NoUsableData where all images are equal.
    """
    run, writer = begin(job), Writer()
    tried = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # shapes do not change: a GPU's fastest convolutions are found once
    try:
        if job.runtime.rank == 0:
            checkpoint.drop_others(job.store, job.address, job.key)
        job.runtime.barrier()
        resume(run, job)
        job.runtime.barrier()  # nobody reads any more
        if job.runtime.rank == 0:
            prune(run, job, run.best.get("step"), run.health.healthy_step)  # a kill may have left too many
        judge = _first_look(unseen or pixels, job)
        while trouble := _run(run, pixels, job, judge, writer):
            run = _answered(run, trouble, job, writer)
        writer.settle(final=True)
    finally:
        torch.backends.cudnn.benchmark = tried
        writer.close()
    job.runtime.barrier()
    return run


def _first_look(pixels: Pixels, job: Job) -> Judge | None:
    """Rank 0's judge, with the first of the images that samples are compared with."""
    if job.runtime.rank != 0:
        return None
    return Judge(pixels, np.arange(min(len(pixels), job.config.score_images)), job)


def _run(run: Run, pixels: Pixels, job: Job, judge: Judge | None, writer: Writer) -> Trouble | None:
    """From where the run is to its end, or to what is wrong with it."""
    config, runtime = job.config, job.runtime
    samples = len(pixels)
    steps, began, first = steps_of(config, samples), time.monotonic(), run.step
    recipe = Recipe(
        job.spec, config.objective, config.augment, autocast_dtype(config.precision, runtime.device)
    )
    engine = Engine(run.pair, recipe, runtime, run.seen, job.graphs)
    feed = Feed(pixels, _wanted(run, job, samples, steps), config.data_threads)
    labels = _labels(run, job, pixels, samples) if job.spec.classes else None
    curves = Curves(job.store, job.address, run.step) if runtime.rank == 0 else None
    patrol = _Patrol(runtime, run.step)
    try:
        while run.step < steps:
            which = update_of(config.schedule, config.d_steps, run.step)
            rate = run.rate(config) * rate_share(run.step, steps, config.decay)
            set_rate(run.pair.generator.optimiser, rate)
            set_rate(run.pair.discriminator.optimiser, rate)
            engine.step(which, _inputs(run, job, which, feed, labels))
            _count(run, which, config)
            run.loader = state_after(run.step * config.batch_size, samples)
            run.seconds, run.waited_seconds = time.monotonic() - began, feed.waited_seconds
            last, stopping = run.step == steps, patrol.stopping(run.step, run.seconds)
            scored = run.step % config.score_every == 0 or last
            saved = run.step % config.checkpoint_every == 0 or last or scored or stopping
            if trouble := _check(run, job, judge, whole=run.step % config.check_every == 0, needed=saved):
                return trouble
            best = scored and _score(run, judge, job)
            if run.step % config.log_every == 0 or scored:
                _log(run, steps, (run.step - first) * config.batch_size / run.seconds, job, curves)
            if judge and curves and (run.step % config.sample_every == 0 or last):
                draw_grids(run, job, judge, curves, writer)
            retry = writer.postponed and run.step % config.check_every == 0  # never what was not checked
            if run.step % config.checkpoint_every == 0 or last or best or stopping or retry:
                save(run, job, curves, writer)
            writer.look()
            if stopping:
                writer.settle(final=True)
                runtime.barrier()
                raise TrainingStopped(run.step, steps)
    finally:
        feed.close()
    return None


def _wanted(run: Run, job: Job, samples: int, steps: int) -> Iterator[Indices]:
    """This rank's share of the minibatches that D will see, in order; the others are passed over unread."""
    sampler = _sampler(run, job, samples)
    for number in range(run.step, steps):
        indices = next(sampler)
        if update_of(job.config.schedule, job.config.d_steps, number).d:
            yield indices


def _labels(run: Run, job: Job, pixels: Pixels, samples: int) -> Iterator[Tensor]:
    """The classes of every minibatch: G is told them as well, also where D is not updated."""
    for indices in _sampler(run, job, samples):
        yield pixels.labels(indices)


def _sampler(run: Run, job: Job, samples: int) -> Sampler:
    runtime = job.runtime
    sampler = Sampler(
        samples, job.seed, job.config.batch_size, rank=runtime.rank, world_size=runtime.world_size
    )
    sampler.load_state_dict(run.loader)
    return sampler


def _inputs(run: Run, job: Job, which: Update, feed: Feed, labels: Iterator[Tensor] | None) -> Inputs:
    """This rank's stretch of the global minibatch's random numbers, and its images."""
    config, runtime = job.config, job.runtime
    mine = balanced(config.batch_size, runtime.world_size)[runtime.rank]
    seed, columns = salted(job.seed, run.noise_attempt), noise_size(config.augment)

    def here(values: Tensor) -> Tensor:
        stretch = values[mine.start : mine.stop]
        if runtime.device.type == "cuda":
            stretch = stretch.pin_memory()
        return stretch.to(runtime.device, non_blocking=True)

    def noise(stream: int, wanted: bool) -> Tensor | None:
        if not (columns and wanted):
            return None
        return here(draw_uniform(seed, stream + run.step, config.batch_size, columns))

    return Inputs(
        here(draw_batch_z(job.spec, seed, run.step, config.batch_size)),
        next(feed).pixels_N3SS if which.d else None,
        next(labels) if labels else None,
        noise(AUGMENT_REAL, which.d),
        noise(AUGMENT_FAKE, which.d),
        noise(AUGMENT_ANSWER, which.g),
    )


def _count(run: Run, which: Update, config: TrainConfig) -> None:
    run.step += 1
    run.updates["d"] += which.d
    run.updates["g"] += which.g
    if which.g and run.average is not None:
        update_average(run.average, run.pair.generator.net, config.ema, run.updates["g"])


def _check(run: Run, job: Job, judge: Judge | None, *, whole: bool, needed: bool) -> Trouble | None:
    """Look for signs of collapse; ``needed``: the state is about to be kept, so it must be finite."""
    if not (whole or needed):
        return None
    runtime, numbers = job.runtime, run.seen.read()
    names = [name for name, value in numbers.items() if not _not_yet(run, name)]
    if whole:  # samples are looked at by one rank, and judged by all alike
        found = judge.vitals(run) if judge else {"diversity": 0.0, "saturation": 0.0}
        run.vitals = dict(zip(found, runtime.from_first(list(found.values())), strict=True))
    vitals = dict(zip(names, runtime.mean([numbers[name] for name in names]), strict=True))
    if whole:
        return run.health.check(run.step, {**vitals, **run.vitals})
    return run.health.finite(run.step, vitals)


def _not_yet(run: Run, name: str) -> bool:
    """Whether a number belongs to a net that has not been updated yet."""
    return not run.updates["g" if name in ("loss_g", "grad_g") else "d"]


def _score(run: Run, judge: Judge | None, job: Job) -> bool:
    """Compare samples with real images; whether they are the best so far."""
    found = judge.scores(run) if judge else {"nearest": 0.0, "kernel": 0.0}
    scores = dict(zip(found, job.runtime.from_first(list(found.values())), strict=True))
    run.vitals = {**run.vitals, **scores}
    value = scores[job.config.best_by]
    if not value < run.best.get("value", math.inf):
        return False
    run.best = {"step": run.step, "value": value}
    return True


def _log(run: Run, steps: int, rate: float, job: Job, curves: Curves | None) -> None:
    numbers = run.seen.read()
    values = job.runtime.mean(list(numbers.values()))
    metrics = {name: value for name, value in zip(numbers, values, strict=True) if math.isfinite(value)}
    metrics |= run.vitals
    run.vitals = {}
    counts = {"step": run.step, "images": run.step * job.config.batch_size}
    counts |= {f"{player}_updates": count for player, count in run.updates.items()}
    run.log.append({**counts, **{name: float(f"{value:.6g}") for name, value in metrics.items()}})
    if curves:
        curves.numbers(run.step, {**metrics, "images per second": rate})
    job.runtime.report(run.step, steps, metrics, _note(run, metrics, rate))


def _note(run: Run, metrics: dict[str, float], rate: float) -> str:
    shown = {"D": "loss_d", "G": "loss_g", "D(x)": "d_real", "D(G(z))": "d_fake"}
    parts = [f"{name} {metrics[key]:.2f}" for name, key in shown.items() if key in metrics]
    parts.append(f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s")
    if run.waited_seconds > _WORTH_SAYING * run.seconds:
        parts.append(f"waiting for data {run.waited_seconds / run.seconds:.0%}")
    if run.rollbacks:
        parts.append(f"rolled back {len(run.rollbacks)}x")
    return "  ".join(parts)


def _answered(run: Run, trouble: Trouble, job: Job, writer: Writer) -> Run:
    """The run as it goes on after trouble: at its last healthy checkpoint, or at its beginning.

    Raises TrainingDiverged where that is not allowed, or has been tried often enough.
    """
    config, runtime = job.config, job.runtime
    if config.on_trouble == "stop" or len(run.rollbacks) >= config.max_rollbacks:
        if runtime.rank == 0:
            with suppress(TransientError):  # what is wrong with the run is what shall be read
                writer.settle(final=True)
                write_log(run, job)
        runtime.barrier()
        curve = [line[trouble.metric] for line in run.log if trouble.metric in line]
        last = (*curve[-7:], trouble.value)
        raise TrainingDiverged(trouble.step, trouble.metric, trouble.words, last, len(run.rollbacks))
    writer.settle(final=True)
    runtime.barrier()
    healthy = [each for each in checkpoint.saved(job.store, job.address) if each.step <= _sound(run, trouble)]
    runtime.barrier()  # before one of them deletes what another still lists
    rollbacks = [*run.rollbacks, _note_of(trouble, healthy[-1].step if healthy else 0, config)]
    fresh = begin(job, sum(each["answer"] == "new_seed" for each in rollbacks))
    restore(fresh, job, healthy)
    if runtime.rank == 0:
        checkpoint.keep(job.store, job.address, [each.step for each in fresh.checkpoints])
    runtime.barrier()
    fresh.rollbacks = rollbacks
    return fresh


def _sound(run: Run, trouble: Trouble) -> int:
    """The last step whose state may be trusted; earlier each time the same place is not got over."""
    healthy = min(run.health.healthy_step, trouble.step - 1)
    if run.rollbacks and trouble.step <= run.rollbacks[-1]["step"] + 1:
        return min(healthy, run.rollbacks[-1]["to_step"] - 1)
    return healthy


def _note_of(trouble: Trouble, to_step: int, config: TrainConfig) -> dict[str, object]:
    return {
        "step": trouble.step,
        "sign": trouble.sign,
        "words": trouble.words,
        "to_step": to_step,
        "answer": config.on_trouble,
    }


class _Patrol:
    """Whether any rank was asked to stop; ranks exchange that every two seconds or so, at the same steps."""

    def __init__(self, runtime: Runtime, step: int) -> None:
        self._runtime, self._first, self._next = runtime, step, step + 1

    def stopping(self, step: int, seconds: float) -> bool:
        if self._runtime.world_size == 1:
            return self._runtime.stopping()
        if step < self._next:
            return False
        pace = max(1, int(_ASK_SECONDS * (step - self._first) / max(seconds, 1e-6)))
        asked = self._runtime.least(0 if self._runtime.stopping() else 1) == 0
        self._next = step + self._runtime.least(pace)
        return asked
