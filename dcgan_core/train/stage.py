"""The stage `train`: shards in, a trained pair of networks out."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dcgan_core.artifacts import Receipt
from dcgan_core.config import Json, ShardConfig, TrainConfig
from dcgan_core.errors import ConfigError, NotEnoughMemory
from dcgan_core.memory import free_memory
from dcgan_core.models.specs import NetSpec, net_spec
from dcgan_core.progress import Progress, silent
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store

if TYPE_CHECKING:
    from dcgan_core.train.runtime import Runtime


@dataclass(frozen=True)
class Train(Stage):
    """Weights, samples, metrics and checkpoints. One part, worked on by all training workers together."""

    artifact: ClassVar[str] = "train"
    flow: ClassVar[str] = "train"
    version: ClassVar[int] = 3
    unit: ClassVar[str] = "steps"
    gang: ClassVar[bool] = True

    config: TrainConfig
    shard: ShardConfig
    gpus: int = -1

    def settings(self) -> dict[str, Json]:
        """The networks count as they are built, whatever fields describe them."""
        settings = self.config.identity()
        for field in ("net", "size", "width", "z_size", "channels", "d_activation", "spectral_norm"):
            del settings[field]
        if self.config.steps:
            del settings["epochs"]
        return {**settings, "spec": self.spec.to_json()}

    @property
    def spec(self) -> NetSpec:
        """The networks; ConfigError where they do not fit the images in the shards."""
        config = self.config
        spec = net_spec(
            config.net,
            size=config.size,
            width=config.width,
            z_size=config.z_size,
            channels=config.channels,
            d_activation=config.d_activation,
            spectral_norm=config.spectral_norm,
        )
        if spec.size != self.shard.size:
            raise ConfigError(
                f"train.net {config.net} draws {spec.size} px and the shards hold {self.shard.size} px: set "
                f"shard.size={spec.size} or train.size={self.shard.size}"
            )
        _check_batch(self.config.batch_size, 1)
        return spec

    def plan(self, store: Store) -> Sequence[Part]:
        content = self.input_manifest(store, "shards").content
        return [Part(0, self.part_key(content), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.train.runtime import LocalRuntime, local_device
        from dcgan_core.train.stopping import stop_requests

        device = local_device(self.gpus, progress)  # may wait, and there is nothing to save yet
        with stop_requests(signal.SIGTERM, signal.SIGINT) as request:
            runtime = LocalRuntime(device, progress, asked_to_stop=request)
            return self.train(store, part.key, runtime, progress)

    def train(self, store: Store, key: str, runtime: Runtime, progress: Progress = silent) -> Receipt:
        """Train under any runtime; all ranks call it, rank 0's receipt counts."""
        from dcgan_core.shard.reader import open_shards
        from dcgan_core.train.data import check_labels, place_pixels
        from dcgan_core.train.extend import anew, passed_over, reached, take_over
        from dcgan_core.train.loop import steps_of, train
        from dcgan_core.train.outputs import finish
        from dcgan_core.train.state import Job

        _check_batch(self.config.batch_size, runtime.world_size)
        spec = self.spec
        self._check_memory(spec, runtime)
        manifest = self.input_manifest(store, "shards")
        shards = open_shards(
            store, manifest, spec.size, max_bad=self.config.max_bad, true_labels=spec.classes > 0
        )
        check_labels(shards, spec)
        if self.config.held_out and not 2 <= self.config.held_out <= len(shards) - 2:
            raise ConfigError(
                f"train.held_out is {self.config.held_out} and there are {len(shards)} images in the shards: "
                "hold out at least two and leave at least two to train on, or set it to 0"
            )
        pixels = place_pixels(shards, self.config.data, runtime, progress)
        work = f"{self.version} {manifest.content}"
        job = Job(self.config, spec, self.seed, store, self.address, work, runtime)
        steps = steps_of(self.config, len(shards) - self.config.held_out)
        if runtime.rank == 0:
            take_over(job, steps)
            step = reached(job)
            progress(step, steps, f"going on from step {step:,}" if step else passed_over(job))
        runtime.barrier()
        run = train(pixels, job)
        counts = {
            "samples": len(shards),
            "steps": steps,
            "images_seen": run.step * self.config.batch_size,
            "g_updates": run.updates["g"],
            "d_updates": run.updates["d"],
            **({"rollbacks": len(run.rollbacks)} if run.rollbacks else {}),
        }
        files = []
        if runtime.rank == 0:
            facts = {"seed": self.seed, "config": self.settings(), "counts": counts}
            files = finish(run, job, {**facts, "rollbacks": run.rollbacks})
            store.delete(anew(self.address))
        if shards.bad:  # as far as this rank has met them, in this life of the run
            counts["unreadable"] = len(shards.bad)
        metrics = {**(run.log[-1] if run.log else {}), **{f"best_{k}": v for k, v in run.best.items()}}
        return Receipt(part=0, key=key, files=tuple(files), counts=counts, metrics=metrics)

    def refreshed(self, store: Store) -> None:
        from dcgan_core.train.extend import anew

        store.write_bytes(anew(self.address), b"")

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts, metrics=receipts[0].metrics)

    def _check_memory(self, spec: NetSpec, runtime: Runtime) -> None:
        import torch

        from dcgan_core.models.dcgan import training_bytes

        needed = training_bytes(spec, self.config.batch_size // runtime.world_size)
        if runtime.device.type == "cuda":
            free = torch.cuda.mem_get_info(runtime.device)[0]
        else:
            free = free_memory() // max(1, runtime.world_size)
        if needed > free:
            raise NotEnoughMemory(
                f"training {spec.name} at {spec.size} px with batches of {self.config.batch_size}",
                needed,
                free,
                "Lower train.batch_size or train.width, or use more workers (DCGAN_TRAIN_WORKERS)",
            )


def _check_batch(batch_size: int, workers: int) -> None:
    """Batch norm needs two images on each worker, and all workers the same number."""
    if batch_size % workers or batch_size < 2 * workers:
        raise ConfigError(
            f"train.batch_size {batch_size} cannot be split over {workers} workers: take a multiple of the "
            "number of workers (DCGAN_TRAIN_WORKERS) with at least two images each"
        )
