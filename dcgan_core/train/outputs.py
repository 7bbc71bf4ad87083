"""What a run writes: grids and checkpoints while it goes on, the finished model at its end."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcgan_core.artifacts import PartFile, write_part
from dcgan_core.models.dcgan import Generator, classes_in_turn
from dcgan_core.models.norms import recalibrated
from dcgan_core.models.weights import describe_model, net_bytes
from dcgan_core.shard.index import Index
from dcgan_core.tables import write_rows
from dcgan_core.train import checkpoint
from dcgan_core.train.curves import Curves
from dcgan_core.train.judge import Judge
from dcgan_core.train.noise import RECALIBRATION, draw_batch_z
from dcgan_core.train.state import Job, Run, begin, facts_of, restore, snapshot
from dcgan_core.train.writer import Writer

_RECALIBRATION_BATCHES = 32
LOG = "metrics.jsonl"
HELD_OUT = "held-out.parquet"
_HELD_OUT = pa.schema([("key", pa.string()), ("photo_key", pa.string())])


def draw_grids(run: Run, job: Job, judge: Judge, curves: Curves, writer: Writer) -> None:
    """Grids of the same z each time, by G and by its moving average."""
    nets = {"step": run.pair.generator.net, "ema": run.average}
    for name, net in nets.items():
        if net is not None:
            picture, path = judge.grid(net), f"samples/{name}-{run.step:08d}.png"
            curves.picture(run.step, name, picture)

            def write(path: str = path, picture: bytes = picture) -> None:
                run.samples.append(write_part(job.store, job.address, path, picture, is_data=False))

            writer.submit(write)


def save(run: Run, job: Job, curves: Curves | None, writer: Writer) -> None:
    """Save everything that a resumed run needs, keeping the latest checkpoints and the best.

    The state is copied at once and written while the run goes on.
    """
    if job.runtime.rank != 0:
        return
    writer.settle()  # one copy of the state at a time
    step, tensors, facts, best = run.step, snapshot(run), facts_of(run, job), run.best.get("step")
    log, healthy, points = _log_bytes(run), run.health.healthy_step, curves.take() if curves else None

    def write() -> None:
        shown = [file.model_dump() for file in run.samples]
        written = checkpoint.save(job.store, job.address, step, tensors, {**facts, "samples": shown})
        run.checkpoints = [*(each for each in run.checkpoints if each.step != step), written]
        prune(run, job, best, healthy)
        write_part(job.store, job.address, LOG, log, is_data=False)
        if curves and points:
            curves.write(step, points)

    writer.submit(write)


def prune(run: Run, job: Job, best: float | None, healthy: int) -> None:
    """Delete all checkpoints but the latest, that of the step ``best``, and the newest that is not after
    the step ``healthy``: a sign of trouble becomes certain only later."""
    steps = [each.step for each in run.checkpoints]
    wanted = {*steps[-job.config.keep_checkpoints :], best}
    wanted.add(max((step for step in steps if step <= healthy), default=None))
    run.checkpoints = [each for each in run.checkpoints if each.step in wanted]
    checkpoint.keep(job.store, job.address, [each.step for each in run.checkpoints])


def write_log(run: Run, job: Job) -> PartFile:
    """The lines of metrics so far."""
    return write_part(job.store, job.address, LOG, _log_bytes(run), rows=len(run.log), is_data=False)


def write_held_out(job: Job, index: Index, is_held_N: NDArray[np.bool_]) -> PartFile:
    """The keys of the images that were held out, in the order of the shards, and those of their photos.

    They are no part of the content: ``forget`` takes a photo's row out, which makes no other model of it.
    """
    keys, photo_keys = index.keys, index.photo_keys
    rows = [
        {"key": keys[number], "photo_key": photo_keys[number]}
        for number in np.flatnonzero(is_held_N).tolist()
    ]
    return write_rows(job.store, job.address, HELD_OUT, rows, _HELD_OUT, is_data=False)


def finish(run: Run, job: Job, facts: dict[str, object]) -> list[PartFile]:
    """Write the finished model, and beside it that of the best step or, where ``config.result`` is ``best``,
    that of the last one."""
    best = _at_best(run, job)
    chosen, other = (best or run, run) if job.config.result == "best" else (run, best or run)
    files = _write_model(chosen, job, "", facts, is_data=True)
    if other.step != chosen.step:
        folder = "last/" if other is run else "best/"
        files += _write_model(other, job, folder, facts, is_data=False)
    files.append(write_log(run, job))
    kept = [file for each in run.checkpoints for file in each.files]
    return [*files, *run.samples, *kept]


def _at_best(run: Run, job: Job) -> Run | None:
    """The run as it was at its best step, where its checkpoint is there."""
    found = [each for each in run.checkpoints if each.step == run.best.get("step")]
    earlier = begin(job)
    return earlier if found and restore(earlier, job, found) else None


def _write_model(
    run: Run, job: Job, folder: str, facts: dict[str, object], *, is_data: bool
) -> list[PartFile]:
    """Batch norm statistics of G are re-estimated, so that it draws one by one."""
    batch_size = job.config.batch_size
    batches = [
        draw_batch_z(job.spec, job.seed, RECALIBRATION + i, batch_size) for i in range(_RECALIBRATION_BATCHES)
    ]
    label_N = classes_in_turn(job.spec, batch_size, job.runtime.device)

    def forward(net: Generator, z_NZ: object) -> object:
        return net(z_NZ, label_N)

    nets = {"generator": run.pair.generator.net}
    if run.average is not None:
        nets["ema"] = run.average
    described = {**facts, "step": run.step, "score": {"by": job.config.best_by, **run.best}}
    content = {
        f"{name}.safetensors": net_bytes(recalibrated(net, batches, forward)) for name, net in nets.items()
    }
    content["discriminator.safetensors"] = net_bytes(run.pair.discriminator.net)
    content["model.json"] = describe_model(job.spec, described)
    return [
        write_part(job.store, job.address, f"{folder}{name}", data, is_data=is_data)
        for name, data in content.items()
    ]


def _log_bytes(run: Run) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in run.log).encode()
