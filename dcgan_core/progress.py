"""How far a long piece of work is: a callback that any front end (terminal, Prefect) can give."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[float, float, str], None]
"""Called with (done, total, note); done and total in the stage's own unit (photos, steps)."""

_WINDOW_SECONDS = 120.0
_SAMPLE_SECONDS = 1.0


def silent(done: float, total: float, note: str) -> None:
    """Shows nothing."""


def share_of(progress: Progress, begin: float, end: float) -> Progress:
    """What a piece of work reports to, in a unit of its own, that takes the whole from ``begin`` to ``end``.

    Both are shares of the whole, 0 to 1: pieces one after the other never take it back.
    """

    def told(done: float, total: float, note: str) -> None:
        progress(begin + (end - begin) * (done / total if total else 1.0), 1.0, note)

    return told


@dataclass
class Pace:
    """How fast work goes, from the reports of the last two minutes, or from the last two if they are rarer.

    It begins anew where the total changes (other work) or where less is done than before (a rollback). What
    was done before the first report counts for nothing: a resumed run has not done it.
    """

    done: float = 0.0
    total: float = 0.0
    _at: float = 0.0
    _samples: deque[tuple[float, float]] = field(default_factory=deque)
    """(seconds, done), oldest first: where the speed is measured from."""

    def see(self, done: float, total: float, now: float) -> None:
        """Take a report; ``now`` in seconds of any clock that never goes back."""
        if total != self.total or done < self.done:
            self._samples.clear()
        self.done, self.total, self._at = done, total, now
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def per_second(self) -> float | None:
        """None where it is too early to say."""
        if not self._samples:
            return None
        began, first = self._samples[0]
        if self._at - began < _SAMPLE_SECONDS or self.done <= first:
            return None
        return (self.done - first) / (self._at - began)

    def seconds_left(self, now: float) -> float | None:
        """It runs down between reports; None where it is too early to say."""
        if self.total and self.done >= self.total:
            return 0.0
        speed = self.per_second
        return None if speed is None else max(0.0, (self.total - self.done) / speed - (now - self._at))


def in_words(seconds: float) -> str:
    """A length of time as one would say it: ``40 s``, ``12 min``, ``2.5 h``, ``3.1 days``."""
    for length, unit, digits in ((1, "s", 0), (60, "min", 0), (3600, "h", 1)):
        if seconds < 90 * length:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
