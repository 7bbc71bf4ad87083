"""Doing parts on this machine, in this process or in several."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from dcgan_core.artifacts import Receipt
from dcgan_core.errors import ClusterError
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, lanes_of, perform, perform_together
from dcgan_core.storage import Store


@dataclass(frozen=True)
class LocalBackend:
    """Parts in up to ``slots`` processes; a single part runs in this process and can show its progress."""

    slots: int = 1
    name: str = "local"

    def work(
        self, stage: Stage, store: Store, parts: Sequence[Part], progress: Progress
    ) -> Iterator[Receipt]:
        """Yield a receipt as each part ends. ClusterError where a process is killed from outside."""
        if stage.together:
            yield from self._work_together(stage, store, lanes_of(parts, self.slots), progress)
            return
        if len(parts) <= 1 or self.slots <= 1:
            for part in parts:
                yield perform(stage, store, part, progress)
            return
        context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has threads
        workers = min(self.slots, len(parts))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            try:
                futures = [pool.submit(perform, stage, store, part) for part in parts]
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool:
                raise ClusterError(
                    f"a process working on {stage.artifact} was killed (out of memory?); run it again: "
                    "finished parts are kept. DCGAN_SLOTS=1 uses less memory"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _work_together(
        self, stage: Stage, store: Store, groups: Sequence[list[Part]], progress: Progress
    ) -> Iterator[Receipt]:
        if len(groups) <= 1:
            for group in groups:
                yield from perform_together(stage, store, group, progress)
            return
        context = multiprocessing.get_context("spawn")
        done = context.SimpleQueue()
        with ProcessPoolExecutor(
            len(groups), mp_context=context, initializer=_report_to, initargs=(done,)
        ) as pool:
            try:
                running = {pool.submit(_perform_reporting, stage, store, group) for group in groups}
                while running:
                    ended, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                    while not done.empty():
                        yield done.get()
                    for future in ended:
                        future.result()
            except BrokenProcessPool:
                raise ClusterError(
                    f"a process working on {stage.artifact} was killed (out of memory?); run it again: what "
                    "was done is kept. DCGAN_SLOTS=1 uses less memory"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


_POLL_SECONDS = 0.2
_reports: list[Any] = []
"""In a worker process: the queue on which its receipts go home."""


def _report_to(queue: Any) -> None:
    _end_with_parent()
    _reports[:] = [queue]


def _perform_reporting(stage: Stage, store: Store, parts: Sequence[Part]) -> None:
    for receipt in perform_together(stage, store, parts):
        _reports[0].put(receipt)


def _end_with_parent() -> None:
    """Let a worker process end as soon as the process that started it is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _wait_and_end(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
