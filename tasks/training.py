"""Training as a Ray Train run: the core's loop on any number of workers."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow.fs
import torch
import torch.distributed as dist

from dcgan_core.artifacts import Receipt, read_receipts, write_receipt
from dcgan_core.errors import ClusterError, DcganError, TrainingStopped, TransientError
from dcgan_core.place import Place
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.runtime import LocalRuntime, local_device
from dcgan_core.train.stage import Train
from dcgan_core.train.stopping import StopRequest
from tasks.board import BoardProgress, board_actor, show
from tasks.cluster import connect, processors_per_worker
from tasks.termination import saving_first

_RESTARTS = 3


@dataclass(frozen=True)
class RayRuntime:
    """A Ray Train worker: gradients are averaged in one all-reduce a step."""

    rank: int
    world_size: int
    device: torch.device
    progress: Progress
    asked_to_stop: Callable[[], bool]

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

    def mean(self, values: Sequence[float]) -> list[float]:
        if self.world_size == 1:
            return list(values)
        summed = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return (summed / self.world_size).tolist()

    def from_first(self, values: Sequence[float]) -> list[float]:
        if self.world_size == 1:
            return list(values)
        told = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.broadcast(told, src=0)
        return told.tolist()

    def stopping(self) -> bool:
        return self.asked_to_stop()


def train_on_ray(stage: Stage, store: Store, part: Part, place: Place, progress: Progress) -> Receipt:
    """Train with ``place.train_workers`` workers; lost ones are replaced and go on from the last checkpoint.

    SIGTERM and Ctrl-C make all workers save before they are raised here. Raises the loop's own errors, and
    ClusterError where workers are lost again and again without getting on, or cannot be had.
    """
    while True:
        ray = connect(place)
        board, reached = board_actor(ray), _reached(store, stage)
        failure = _watched(_trainer(ray, stage, store, part, place, board), ray, board, progress)
        told = ray.get(board.error.remote())
        if told is not None:
            raise told
        if failure is None:
            return read_receipts(store, stage.address)[part.index]
        if not place.ray_address:
            ray.shutdown()  # without a dashboard, what a lost controller had reserved stays reserved
        if _reached(store, stage) <= reached:
            raise ClusterError(
                f"training was given up after {_RESTARTS} restarts: {type(failure).__name__}: {failure}; run "
                "it again: it goes on from the last checkpoint"
            ) from failure


@dataclass(frozen=True)
class _Trainer:
    """A Ray Train run, ready to start, and where Ray's own notes on it lie."""

    fit: Callable[[], object]
    tidy: Callable[[], None]


def _trainer(ray: Any, stage: Stage, store: Store, part: Part, place: Place, board: Any) -> _Trainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from tasks.stopping import StoppableTorch

    use_gpu = place.gpus != 0 and ray.cluster_resources().get("GPU", 0) >= place.train_workers
    cpus = 1 if use_gpu else processors_per_worker(ray, place.train_workers)
    notes = f"tmp/ray-train-{uuid.uuid4().hex}"  # our checkpoints lie in the artifact
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"stage": stage, "store": store, "key": part.key, "board": board, "threads": cpus},
        torch_config=StoppableTorch(
            backend="nccl" if use_gpu else "gloo", on_this_machine=not place.ray_address
        ),
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
    return _Trainer(trainer.fit, lambda: store.delete(notes))


def _watched(trainer: _Trainer, ray: Any, board: Any, progress: Progress) -> Exception | None:
    """Run it in a thread of its own, as it would take Ctrl-C for itself; what it failed with, if it did."""
    try:
        saving_first(
            trainer.fit, stop=lambda: ray.get(board.stop.remote()), watch=lambda: show(ray, board, progress)
        )
    except Exception as error:
        return error
    finally:
        trainer.tidy()
    return None


def train_here(stage: Stage, store: Store, part: Part, place: Place, progress: Progress) -> Receipt:
    """Train in this process, in another thread than the main one, so that Prefect's handlers stay."""
    train, request = cast("Train", stage), StopRequest()
    receipts: list[Receipt] = []

    def work() -> None:
        runtime = LocalRuntime(local_device(place.gpus), progress, asked_to_stop=request)
        receipts.append(train.train(store, part.key, runtime, progress))

    def stop() -> None:
        request.signal_number = signal.SIGTERM

    saving_first(work, stop)
    write_receipt(store, stage.address, receipts[0])
    return receipts[0]


def _reached(store: Store, stage: Stage) -> int:
    """The step of the newest checkpoint; -1 where there is none."""
    return max((each.step for each in checkpoint.saved(store, stage.address)), default=-1)


def _arrow(store: Store) -> pyarrow.fs.FileSystem | None:
    """The root as Ray Train wants it: with the store's own endpoint and credentials."""
    if store.is_local:
        return None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store.filesystem()))


def _worker(config: dict[str, Any]) -> None:
    """One rank's whole training."""
    import ray
    import ray.train.torch

    from tasks.stopping import AskedToStop

    stage, store, board = cast("Train", config["stage"]), cast("Store", config["store"]), config["board"]
    if ray.get(board.error.remote()) is not None:
        return  # a restart would only fail again; the driver raises it
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"])
    world_size = context.get_world_size()
    progress, asked = BoardProgress(board), AskedToStop(board, world_size)
    runtime = RayRuntime(context.get_world_rank(), world_size, device, progress, asked)
    try:
        receipt = stage.train(store, config["key"], runtime, progress)
        if runtime.rank == 0:
            write_receipt(store, stage.address, receipt)
        runtime.barrier()
    except TrainingStopped as stopped:  # raised by all ranks at once
        if not ray.get(board.stopping.remote()):
            raise ClusterError(f"a worker was told to end and has saved step {stopped.step}") from None
        ray.get(board.fail.remote(stopped))
    except DcganError as error:
        if not isinstance(error, TransientError):
            ray.get(board.fail.remote(error))
        raise  # so that Ray ends those that wait for this rank
