"""Doing parts on this machine, in this process or in several."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from dcgan_core.artifacts import Receipt
from dcgan_core.errors import ClusterError
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, perform
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


def _end_with_parent() -> None:
    """Let a worker process end as soon as the process that started it is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _wait_and_end(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
