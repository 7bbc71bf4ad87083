"""Training as a Ray Train run: the core's loop on any number of workers."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow.fs
import torch
import torch.distributed as dist

from dcgan_core.artifacts import Receipt, read_receipts, write_receipt
from dcgan_core.errors import ClusterError, DcganError, NotEnoughResources, TrainingStopped, TransientError
from dcgan_core.place import Place
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage
from dcgan_core.storage import Store
from dcgan_core.train import checkpoint
from dcgan_core.train.stage import Train
from dcgan_core.train.stopping import StopRequest, stop_requests
from dcgan_core.waiting import Waiting
from tasks.board import BoardProgress, Look, beating, board_actor
from tasks.cluster import connect, holds, in_words, is_queued, processors_per_worker

_RESTARTS = 3
_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_LOST_SECONDS = 15.0
_TOLD_TO_END = (
    "training was told to end while no worker was at work; run it again: it goes on from the last checkpoint"
)


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

    SIGTERM and Ctrl-C make all workers save first. Raises TrainingStopped then, the loop's own errors,
    ClusterError if workers are lost again and again without getting on, and NotEnoughResources if there is no
    room for them within ``place.gpu_wait_seconds``. While no worker is in the loop (none has started, they
    read the shards, or were lost) there is nothing to save, and a signal ends training at once.
    """
    while True:
        ray = connect(place)
        board, reached = board_actor(ray), _reached(store, stage)
        with stop_requests(signal.SIGTERM, signal.SIGINT) as request:
            trainer = _trainer(ray, stage, store, part, place, board)
            failure = _watched(trainer, ray, board, progress, request)
        if failure is None:
            return read_receipts(store, stage.address)[part.index]
        if not place.ray_address and not trainer.running.is_alive():  # which would crash in Ray's shutdown
            ray.shutdown()  # without a dashboard, what a lost controller had reserved stays reserved
        if request() or isinstance(failure, NotEnoughResources):  # the signal was sent on, and survived
            raise failure
        if _reached(store, stage) <= reached:
            raise ClusterError(
                f"training was given up after {_RESTARTS} restarts: {type(failure).__name__}: {failure}; run "
                "it again: it goes on from the last checkpoint"
            ) from failure


@dataclass(frozen=True)
class _Trainer:
    """A Ray Train run, ready to start, where Ray's own notes on it lie, and what it needs.

    It runs in a thread of its own, as it would take Ctrl-C for itself; ``failures`` has what it failed with.
    """

    running: threading.Thread
    failures: list[Exception]
    tidy: Callable[[], None]
    waiting: Waiting
    has_room: Callable[[], bool]


def _trainer(ray: Any, stage: Stage, store: Store, part: Part, place: Place, board: Any) -> _Trainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from tasks.stopping import Controlled, StoppableTorch

    workers = place.train_workers
    use_gpu = place.gpus > 0 or (place.gpus < 0 and holds(ray, workers, gpus=1))
    cpus = 1 if use_gpu else processors_per_worker(ray, workers)
    notes = f"tmp/ray-train-{uuid.uuid4().hex}"  # our checkpoints lie in the artifact
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"stage": stage, "store": store, "key": part.key, "board": board, "threads": cpus},
        torch_config=StoppableTorch(
            backend="nccl" if use_gpu else "gloo", on_this_machine=not place.ray_address
        ),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus}
        ),
        run_config=RunConfig(
            name="train",
            storage_path=store.key(notes),
            storage_filesystem=_arrow(store),
            failure_config=FailureConfig(max_failures=_RESTARTS),
            callbacks=cast("list[Any]", [Controlled(board)]),
        ),
    )
    each = "a GPU and a processor" if use_gpu else "a processor" if cpus == 1 else f"{cpus} processors"
    waiting = Waiting(
        f"training asks for {workers} workers with {each} each (DCGAN_TRAIN_WORKERS={workers}, "
        f"DCGAN_GPUS={place.gpus})",
        "lower DCGAN_TRAIN_WORKERS" + (", set DCGAN_GPUS=0 to train on processors" if use_gpu else ""),
        place.gpu_wait_seconds,
    )
    gpus = 1 if use_gpu else 0
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failures.append(error)

    return _Trainer(
        running=threading.Thread(target=fit, name="ray-train", daemon=True),
        failures=failures,
        tidy=lambda: store.delete(notes),
        waiting=waiting,
        has_room=lambda: holds(ray, workers, gpus=gpus),
    )


def _watched(
    trainer: _Trainer, ray: Any, board: Any, progress: Progress, request: StopRequest
) -> Exception | None:
    """Run it; what it failed with, if it did.

    Meanwhile show how far it is, or what it waits for, and hand a request to stop on to the workers. Raises
    the error that a worker left on the board.
    """
    running = trainer.running
    running.start()
    look: Look = Look()
    heard = time.monotonic()
    try:
        while running.is_alive():
            running.join(_POLL_SECONDS)
            if (answer := _answer(ray, board.look)) is not None:
                look, heard = answer, time.monotonic()
            elif time.monotonic() - heard > _LOST_SECONDS:
                look = Look()
            if request():
                _answer(ray, board.stop)
                if not look.can_save and running.is_alive():
                    raise _answer(ray, board.error) or ClusterError(_TOLD_TO_END)
            if look.alive:
                trainer.waiting.over()
            elif running.is_alive():
                _wait_for_room(ray, trainer, progress)
            if look.alive and look.report is not None:
                progress(*look.report)
        if (told := _answer(ray, board.error)) is not None:
            raise told
    except (ClusterError, NotEnoughResources) as error:
        _end(ray, board, running)
        return error
    finally:
        _answer(ray, board.end)
        trainer.tidy()
    return trainer.failures[0] if trainer.failures else None


def _wait_for_room(ray: Any, trainer: _Trainer, progress: Progress) -> None:
    """No worker is alive: say so if that is for want of room, as long as it may take."""
    if not trainer.has_room():
        trainer.waiting.go_on(in_words(ray), progress)
    elif is_queued(ray):
        trainer.waiting.go_on(f"{in_words(ray)}, in use", progress)


def _end(ray: Any, board: Any, running: threading.Thread) -> None:
    """End a trainer, wherever it is, and what it has asked for; Ray Train's own way waits for workers.

    One whose controller has not started yet ends by itself when it does.
    """
    if (controller := _answer(ray, board.end)) is not None:
        ray.kill(controller)
    running.join(_LOST_SECONDS)


def _answer(ray: Any, ask: Any, *arguments: object) -> Any:
    """What the board answers; None if it does not, so that no signal waits for a lost cluster."""
    try:
        return ray.get(ask.remote(*arguments), timeout=_ANSWER_SECONDS)
    except ray.exceptions.RayError:
        return None


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
        with beating(board, lambda: asked.began):
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
