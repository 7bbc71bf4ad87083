"""Writing what a run leaves while the run goes on; a store that is away for a while does not end it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from dcgan_core.errors import TransientError

MOST_POSTPONED = 3
"""Times in a row that writing may fail for reasons that may pass, each after the store's own retries."""


@dataclass
class Writer:
    """One thing is written at a time, in the order given; the next waits until it is done."""

    postponed: int = 0
    """Times in a row that writing has failed."""
    why: str = ""
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "dcgan-writer"))
    _pending: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Have it done. Raises what earlier work failed with."""
        self.settle()
        self._pending = self._pool.submit(work)

    def look(self) -> None:
        """Raise what has failed by now, without waiting."""
        if self._pending is not None and self._pending.done():
            self.settle()

    def settle(self, *, final: bool = False) -> None:
        """Wait for what is being written. A TransientError is noted and raised only when it is the third in a
        row, or ``final``; any other error is raised at once."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except TransientError as error:
            self.postponed, self.why = self.postponed + 1, str(error)
            if final or self.postponed >= MOST_POSTPONED:
                raise
            return
        self.postponed, self.why = 0, ""

    def close(self) -> None:
        """End after what is being written."""
        self._pool.shutdown(wait=True)
