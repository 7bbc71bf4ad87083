"""A flow's process that is told to end (SIGTERM, Ctrl-C): what must be saved is saved first.

Prefect's own handler of SIGTERM stays in place all the time, as a worker tells a cancellation from a crash
only while it does. It raises ``TerminationSignal`` in the main thread, wherever that is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import TypeVar

from prefect.exceptions import TerminationSignal

from dcgan_core.train.stopping import StopRequest

_POLL_SECONDS = 1.0
Done = TypeVar("Done")
_told: ContextVar[threading.Event | None] = ContextVar("told", default=None)
"""Set for the threads of ``side_by_side`` when the main thread is told to end; signals do not reach them."""


def saving_first(work: Callable[[StopRequest], Done]) -> Done:
    """Do ``work`` in a thread and return what it returns; a signal here asks it to stop.

    The signal is raised when the work has ended by itself, whatever came of it; a second one at once. Else an
    error of the work is raised.
    """
    request = StopRequest()
    ended = threading.Event()
    results: list[Done] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(request))
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    # The main thread only waits: raised within a call of Ray, the signal's exception would be lost there.
    threading.Thread(target=copy_context().run, args=(run,), name="saving-first", daemon=True).start()
    signalled: BaseException | None = None
    while True:
        try:
            while not ended.wait(_POLL_SECONDS):
                pass
            break
        except (TerminationSignal, KeyboardInterrupt) as error:
            if signalled:
                raise
            signalled = error
            request.signal_number = signal.SIGTERM
    if signalled:
        raise signalled
    if failures:
        raise failures[0]
    return results[0]


def side_by_side(*calls: Callable[[], object]) -> None:
    """Make the calls in a thread each, with the context of this one, and wait for all of them.

    If this thread is told to end meanwhile, the others end at their next ``end_if_told``.
    """
    told = threading.Event()
    before = _told.set(told)
    try:
        with ThreadPoolExecutor(max_workers=len(calls)) as threads:
            running = [threads.submit(copy_context().run, call) for call in calls]
            try:
                for each in running:
                    each.result()
            except (TerminationSignal, KeyboardInterrupt):
                told.set()
                raise
    finally:
        _told.reset(before)


def end_if_told() -> None:
    """Raise TerminationSignal in a thread of ``side_by_side`` whose process is told to end."""
    told = _told.get()
    if told is not None and told.is_set():
        raise TerminationSignal(signal.SIGTERM)
