"""Doing a stage's parts on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dcgan_core.artifacts import Receipt
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import ClusterError, DcganError, NotEnoughResources, TransientError
from dcgan_core.place import Place
from dcgan_core.progress import Progress, silent
from dcgan_core.stage import Backend, Part, Stage, lanes_of, perform, perform_together
from dcgan_core.storage import Store
from dcgan_core.waiting import Waiting, gpu_wait
from tasks.board import BoardProgress, board_actor, show
from tasks.cluster import cluster_processors, connect, holds, in_words, machine_share

_TRIES_AFTER_A_LOST_WORKER = 3
_POLL_SECONDS = 1.0


def backend_of(place: Place) -> Backend:
    """The backend of flows: Ray unless the place says local."""
    return LocalBackend(place.worker_count()) if place.backend == "local" else RayBackend(place)


@dataclass(frozen=True)
class RayBackend:
    """Parts as Ray tasks of one processor each, or of a whole machine; training as a Ray Train run."""

    place: Place
    name: str = "ray"

    def work(
        self, stage: Stage, store: Store, parts: Sequence[Part], progress: Progress
    ) -> Iterator[Receipt]:
        """Yield a receipt as each part ends; errors of ours come out as they were raised."""
        if not parts:
            return
        ray = connect(self.place)
        if stage.gang:
            from tasks.training import train_on_ray

            yield train_on_ray(stage, store, parts[0], self.place, progress)
            return
        slots = self.place.slots or cluster_processors(ray)
        if stage.together:
            yield from _by_lanes(ray, stage, store, lanes_of(parts, slots))
            return
        gpus = self.place.gpus if stage.whole_machine or hasattr(stage, "gpus") else 0
        share: tuple[int, float] = (1, 0)
        if stage.whole_machine or gpus > 0:
            share = machine_share(ray, gpus=gpus)
            if not stage.whole_machine:  # as many at once on a GPU as it has processors
                share = (1, 1 / share[0])
        for_gpu = gpu_wait(stage.artifact, self.place.gpu_wait_seconds) if gpus > 0 else None
        yield from _spread(ray, stage, store, parts, slots, share, progress, for_gpu)


def _spread(
    ray: Any,
    stage: Stage,
    store: Store,
    parts: Sequence[Part],
    slots: int,
    share: tuple[int, float],
    progress: Progress,
    for_gpu: Waiting | None,
) -> Iterator[Receipt]:
    """Parts as tasks of their own; ``for_gpu``: the wait for the GPU that each asks for."""
    cpus, gpus = share
    do = ray.remote(_perform_with_threads if stage.whole_machine else perform).options(
        name=stage.artifact,
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=_TRIES_AFTER_A_LOST_WORKER,
        retry_exceptions=[TransientError],
    )
    # Progress inside a part is shown where it is alone: the only one, or the first on a machine of its own.
    board = board_actor(ray) if len(parts) == 1 or stage.whole_machine else None
    stage_ref, store_ref = ray.put(stage), ray.put(store)
    waiting, running, pieces = list(parts), [], {}
    while waiting or running:
        while waiting and len(running) < 2 * slots:
            part = waiting.pop(0)
            inner = BoardProgress(board, part.index) if board else silent
            running.append(do.remote(stage_ref, store_ref, part, inner))
            pieces[running[-1]] = part.index
        ready, running = ray.wait(running, timeout=_POLL_SECONDS)
        if for_gpu and not ready and not holds(ray, 1, gpus=1):
            try:
                for_gpu.go_on(in_words(ray), progress)
            except NotEnoughResources:
                for each in running:
                    ray.cancel(each)
                raise
        if board and running:
            show(ray, board, progress, [pieces[each] for each in running])
        for reference in ready:
            yield _receipt(ray, reference, stage)


def _perform_with_threads(stage: Stage, store: Store, part: Part, progress: Progress) -> Receipt:
    """With a thread for each processor of the task: the worker may have started for a task of one."""
    import ray
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(ray.get_runtime_context().get_assigned_resources()["CPU"]))
    try:
        return perform(stage, store, part, progress)
    finally:
        torch.set_num_threads(before)


def _by_lanes(ray: Any, stage: Stage, store: Store, groups: Sequence[list[Part]]) -> Iterator[Receipt]:
    """One task a group of lanes; its receipts come home one by one, and a lost one goes on where it was."""
    do = ray.remote(perform_together).options(
        name=stage.artifact,
        num_cpus=1,
        num_returns="streaming",
        max_retries=_TRIES_AFTER_A_LOST_WORKER,
        retry_exceptions=[TransientError],
    )
    stage_ref, store_ref = ray.put(stage), ray.put(store)
    running = [do.remote(stage_ref, store_ref, group) for group in groups]
    while running:
        ready, running = ray.wait(running, timeout=_POLL_SECONDS)
        for stream in ready:
            try:
                reference = next(stream)
            except StopIteration:
                continue
            yield _receipt(ray, reference, stage)
            running.append(stream)


def _receipt(ray: Any, reference: Any, stage: Stage) -> Receipt:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, DcganError) else error) from None
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"{stage.artifact}: Ray lost a worker ({type(error).__name__}: {error}); run it again: finished "
            "parts are kept. DCGAN_SLOTS=1 uses less memory"
        ) from error
