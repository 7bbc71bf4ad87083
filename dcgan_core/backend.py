"""Doing parts on this machine, in this process or in several."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dcgan_core.artifacts import Receipt
from dcgan_core.errors import ClusterError
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, lanes_of, perform, perform_together
from dcgan_core.storage import Store


@dataclass(frozen=True)
class LocalBackend:
    """Parts in up to ``slots`` processes; a single part runs in this process and can show its progress.

    So do parts that take the whole machine, one after the other.
    """

    slots: int = 1
    name: str = "local"

    def work(
        self, stage: Stage, store: Store, parts: Sequence[Part], progress: Progress
    ) -> Iterator[Receipt]:
        """Yield a receipt as each part ends. ClusterError where a process is killed from outside."""
        if stage.together:
            yield from self._work_together(stage, store, lanes_of(parts, self.slots), progress)
            return
        if len(parts) <= 1 or self.slots <= 1 or stage.whole_machine:
            for part in parts:
                yield perform(stage, store, part, progress)
            return
        with _workers(min(self.slots, len(parts)), stage) as pool:
            with _no_interrupts():
                futures = [pool.submit(perform, stage, store, part) for part in parts]
            for future in as_completed(futures):
                yield future.result()

    def _work_together(
        self, stage: Stage, store: Store, groups: Sequence[list[Part]], progress: Progress
    ) -> Iterator[Receipt]:
        if len(groups) <= 1:
            for group in groups:
                yield from perform_together(stage, store, group, progress)
            return
        done = _SPAWN.SimpleQueue()
        with _workers(len(groups), stage, done) as pool:
            with _no_interrupts():
                running = {pool.submit(_perform_reporting, stage, store, group) for group in groups}
            while running:
                ended, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                while not done.empty():
                    yield done.get()
                for future in ended:
                    future.result()


_SPAWN = multiprocessing.get_context("spawn")  # fork is unsafe once torch has threads
_POLL_SECONDS = 0.2
_reports: list[Any] = []
"""In a worker process: the queue on which its receipts go home."""


@contextmanager
def _workers(count: int, stage: Stage, reports: Any = None) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, at once where it is interrupted.

    ``reports`` is where whole lanes send their receipts; these take long, so an error ends them at once too.
    """
    stop, stopping = _SPAWN.Pipe(duplex=False)
    arguments = (stop, reports)
    with ProcessPoolExecutor(count, mp_context=_SPAWN, initializer=_begin_worker, initargs=arguments) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise ClusterError(
                f"a process working on {stage.artifact} was killed (out of memory?); run it again: what was "
                "done is kept. DCGAN_SLOTS=1 uses less memory"
            ) from None
        except BaseException as error:
            if reports is not None or not isinstance(error, Exception):
                stopping.close()  # the end of the pipe tells them; single parts are let come to their end
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            stopping.close()
            stop.close()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started here begin deaf to Ctrl-C, which would end their imports with a traceback each."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker(stop: Any, reports: Any) -> None:
    """Let a worker process end as soon as the process that started it is gone or says so."""
    _reports[:] = [reports]
    parent = multiprocessing.parent_process()
    signs = [stop, *([parent.sentinel] if parent else [])]
    threading.Thread(target=_wait_and_end, args=(signs,), daemon=True).start()


def _perform_reporting(stage: Stage, store: Store, parts: Sequence[Part]) -> None:
    for receipt in perform_together(stage, store, parts):
        _reports[0].put(receipt)


def _wait_and_end(signs: list[Any]) -> None:
    multiprocessing.connection.wait(signs)
    os._exit(1)
