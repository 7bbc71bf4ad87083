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

from prefect.exceptions import TerminationSignal

_POLL_SECONDS = 1.0
_told: ContextVar[threading.Event | None] = ContextVar("told", default=None)
"""Set for the threads of ``side_by_side`` when the main thread is told to end; signals do not reach them."""


def saving_first(
    work: Callable[[], object], stop: Callable[[], object], watch: Callable[[], object] | None = None
) -> None:
    """Do ``work`` in a thread; a signal calls ``stop`` and is raised when the work has ended by itself.

    ``watch`` is called once a second meanwhile. An error of the work is raised, unless there was a signal. A
    second signal is raised at once.
    """
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    def look() -> None:
        while watch and not done.wait(_POLL_SECONDS):
            watch()

    # The main thread only waits: raised within a call of Ray, the signal's exception would be lost there.
    for target in (run, look):
        threading.Thread(target=copy_context().run, args=(target,), daemon=True).start()
    signalled: BaseException | None = None
    while True:
        try:
            while not done.wait(_POLL_SECONDS):
                pass
            break
        except (TerminationSignal, KeyboardInterrupt) as error:
            if signalled:
                raise
            signalled = error
            stop()
    if signalled:
        raise signalled
    if failures:
        raise failures[0]


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
