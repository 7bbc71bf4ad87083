"""Training as a Ray Train run: the core's loop on any number of workers."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, cast

import pyarrow.fs
import torch
import torch.distributed as dist

from dcgan_core.artifacts import Receipt, read_receipts, write_receipt
from dcgan_core.errors import ClusterError, DcganError, TransientError
from dcgan_core.place import Place
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage
from dcgan_core.storage import Store
from dcgan_core.train.stage import Train
from tasks.board import BoardProgress, board_actor, show
from tasks.cluster import connect, processors_per_worker

_RESTARTS = 3
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RayRuntime:
    """A Ray Train worker: gradients are averaged in one all-reduce a step."""

    rank: int
    world_size: int
    device: torch.device
    progress: Progress

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def report(self, step: int, steps: int, metrics: Mapping[str, float], note: str) -> None:
        if self.rank == 0:
            self.progress(step, steps, note)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def least(self, number: int) -> int:
        if self.world_size == 1:
            return number
        agreed = torch.tensor([number], device=self.device)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        return int(agreed.item())


def train_on_ray(stage: Stage, store: Store, part: Part, place: Place, progress: Progress) -> Receipt:
    """Train with ``place.train_workers`` workers; lost ones are replaced and go on from the last checkpoint.

    Raises the loop's own errors, ClusterError where workers are lost too often or cannot be had.
    """
    ray = connect(place)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    board = board_actor(ray)
    use_gpu = place.gpus != 0 and ray.cluster_resources().get("GPU", 0) >= place.train_workers
    cpus = 1 if use_gpu else processors_per_worker(ray, place.train_workers)
    notes = f"tmp/ray-train-{uuid.uuid4().hex}"  # Ray's own notes; our checkpoints lie in the artifact
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"stage": stage, "store": store, "key": part.key, "board": board, "threads": cpus},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=place.train_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
        ),
        run_config=RunConfig(
            name="train",
            storage_path=store.key(notes),
            storage_filesystem=_arrow(store),
            failure_config=FailureConfig(max_failures=_RESTARTS),
        ),
    )
    finished = threading.Event()
    # In this task's context, so that Prefect knows whose progress it is.
    watching = copy_context().run
    watcher = threading.Thread(target=watching, args=(_watch, ray, board, progress, finished), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except Exception as error:
        told = ray.get(board.error.remote())
        if told is not None:
            raise told from None
        raise ClusterError(
            f"training was given up after {_RESTARTS} restarts: {type(error).__name__}: {error}; run it "
            "again: it goes on from the last checkpoint"
        ) from error
    finally:
        finished.set()
        watcher.join()
        store.delete(notes)
    return read_receipts(store, stage.address)[part.index]


def _arrow(store: Store) -> pyarrow.fs.FileSystem | None:
    """The root as Ray Train wants it: with the store's own endpoint and credentials."""
    if store.is_local:
        return None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.filesystem()))


def _watch(ray: Any, board: Any, progress: Progress, finished: threading.Event) -> None:
    while not finished.wait(_POLL_SECONDS):
        show(ray, board, progress)


def _worker(config: dict[str, Any]) -> None:
    """One rank's whole training."""
    import ray
    import ray.train.torch

    stage, store, board = cast("Train", config["stage"]), cast("Store", config["store"]), config["board"]
    told = cast("DcganError | None", ray.get(board.error.remote()))
    if told is not None:  # a restart would only fail again
        raise told
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"])
    runtime = RayRuntime(context.get_world_rank(), context.get_world_size(), device, BoardProgress(board))
    try:
        receipt = stage.train(store, config["key"], runtime, BoardProgress(board))
        if runtime.rank == 0:
            write_receipt(store, stage.address, receipt)
        runtime.barrier()
    except DcganError as error:
        if not isinstance(error, TransientError):
            ray.get(board.fail.remote(error))
        raise
