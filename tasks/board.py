"""A notice board in the cluster: workers write how far they are, the driver reads it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dcgan_core.errors import DcganError
from dcgan_core.progress import Progress

_WRITE_SECONDS = 0.2


class Board:
    """The latest progress, and an error that makes further tries pointless."""

    def __init__(self) -> None:
        self._progress: tuple[float, float, str] | None = None
        self._error: DcganError | None = None
        self._stopping = False

    def write(self, done: float, total: float, note: str) -> None:
        self._progress = (done, total, note)

    def read(self) -> tuple[float, float, str] | None:
        return self._progress

    def stop(self) -> None:
        """Ask all workers to save and end."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping

    def fail(self, error: DcganError) -> None:
        self._error = error

    def error(self) -> DcganError | None:
        return self._error


@dataclass
class BoardProgress:
    """Progress that goes to a board, a few times a second; does not wait for it."""

    board: Any
    _next: float = 0.0

    def __call__(self, done: float, total: float, note: str) -> None:
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + _WRITE_SECONDS
            self.board.write.remote(done, total, note)


def board_actor(ray: Any) -> Any:
    """A new board; it takes no processor, ends with its last handle, and is lost with no node but this."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # heavy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


def show(ray: Any, board: Any, progress: Progress) -> None:
    """Hand the board's latest progress on."""
    latest = ray.get(board.read.remote())
    if latest is not None:
        progress(*latest)
