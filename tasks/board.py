"""A notice board in the cluster: workers write how far they are, the driver reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcgan_core.errors import DcganError
from dcgan_core.progress import Progress

Report = tuple[float, float, str]
"""(done, total, note)."""

_WRITE_SECONDS = 0.2


class Board:
    """The latest progress, and an error that makes further tries pointless."""

    def __init__(self) -> None:
        self._progress: dict[int, Report] = {}
        self._error: DcganError | None = None
        self._stopping = False

    def write(self, piece: int, done: float, total: float, note: str) -> None:
        self._progress[piece] = (done, total, note)

    def read(self, pieces: Sequence[int] = (0,)) -> Report | None:
        """Of the first of these pieces of work that has said anything."""
        return next((self._progress[piece] for piece in pieces if piece in self._progress), None)

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
    """Progress of a piece of work that goes to a board, a few times a second; does not wait for it."""

    board: Any
    piece: int = 0
    clock: Callable[[], float] = time.monotonic
    _next: float = field(default=0.0, init=False)

    def __call__(self, done: float, total: float, note: str) -> None:
        now = self.clock()
        if now >= self._next or done >= total:
            self._next = now + _WRITE_SECONDS
            self.board.write.remote(self.piece, done, total, note)


def board_actor(ray: Any) -> Any:
    """A new board; it takes no processor, ends with its last handle, and is lost with no node but this."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # heavy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


def show(ray: Any, board: Any, progress: Progress, pieces: Sequence[int] = (0,)) -> None:
    """Hand on the latest progress of the first of these pieces of work that has said anything."""
    latest = ray.get(board.read.remote(pieces))
    if latest is not None:
        progress(*latest)
