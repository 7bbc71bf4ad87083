"""A notice board in the cluster: workers write how far they are, the driver reads it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dcgan_core.errors import DcganError
from dcgan_core.progress import Progress

Report = tuple[float, float, str]
"""(done, total, note)."""

_WRITE_SECONDS = 0.2
_BEAT_SECONDS = 1.0
_LOST_SECONDS = 15.0


class Look(NamedTuple):
    """What a driver learns of the workers of a training."""

    alive: bool = False
    """Whether one has been heard of lately: not before they start, nor after they were lost."""
    can_save: bool = False
    """Whether it is in the loop, and so looks whether it is to save and end."""
    report: Report | None = None


class Board:
    """The latest progress, signs of life, and an error that makes further tries pointless."""

    def __init__(self) -> None:
        self._controller: Any = None
        self._ended = False
        self._heard, self._can_save = -math.inf, False
        self._progress: dict[int, Report] = {}
        self._error: DcganError | None = None
        self._stopping = False

    def write(self, piece: int, done: float, total: float, note: str) -> None:
        self._progress[piece] = (done, total, note)

    def read(self, pieces: Sequence[int] = (0,)) -> Report | None:
        """Of the first of these pieces of work that has said anything."""
        return next((self._progress[piece] for piece in pieces if piece in self._progress), None)

    def beat(self, can_save: bool) -> None:
        """A worker is alive."""
        self._heard, self._can_save = time.monotonic(), can_save

    def look(self) -> Look:
        alive = time.monotonic() - self._heard < _LOST_SECONDS
        return Look(alive, alive and self._can_save, self.read())

    def controlled_by(self, controller: Any) -> bool:
        """Note the actor that controls the training; whether it may go on, as it has not been ended yet."""
        self._controller = None if self._ended else controller
        return not self._ended

    def end(self) -> Any:
        """End the training, or note that it has ended; the actor that controls it, which is forgotten."""
        controller, self._controller, self._ended = self._controller, None, True
        return controller

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


@contextmanager
def beating(board: Any, can_save: Callable[[], bool]) -> Iterator[None]:
    """Tell the board once a second, from a thread, that this worker is alive and whether it would save."""
    ended = threading.Event()

    def beat() -> None:
        board.beat.remote(can_save())
        while not ended.wait(_BEAT_SECONDS):
            board.beat.remote(can_save())

    threading.Thread(target=beat, name="beat", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


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
