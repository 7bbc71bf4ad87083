"""What one sees of work that takes long: a line that moves in a terminal, now and then one in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from dcgan_core.progress import Pace, Progress, in_words

LINE_SECONDS = 30.0
"""Time between two lines of a log, and before the first."""

_GAP = "  "
_BAR_MOST, _BAR_LEAST = 30, 6
_NARROW = 72
"""In fewer columns there is no bar."""
_NOTE_ROOM = 16
"""Room for the note; it grows to that of the longest so far, so that the bar does not come and go."""
_REFRESHES_PER_SECOND = 4.0


@contextmanager
def progress_on(console: Console, label: str, unit: str) -> Iterator[Progress]:
    """Show how far work is while the block runs; where the console is no terminal, as lines of a log."""
    if not console.is_terminal:
        yield LogLines(label, unit, lambda line: _say(console, line))
        return
    bar = Bar(label, unit)
    with Live(bar, console=console, transient=True, refresh_per_second=_REFRESHES_PER_SECOND):
        yield bar


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class LogLines:
    """A plain line at most every half minute, so that a log shows that work goes on."""

    def __init__(
        self,
        label: str,
        unit: str,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._unit, self._say, self._now = label, unit, say, now
        self._pace, self._said = Pace(), now()

    def __call__(self, done: float, total: float, note: str) -> None:
        now = self._now()
        self._pace.see(done, total, now)
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        left = self._pace.seconds_left(now)
        parts = [
            self._label,
            _count(self._pace, self._unit, note),
            _percent(self._pace),
            f"about {in_words(left)} left" if left else "",
            _remark(self._pace, self._unit, note),
        ]
        self._say(_GAP.join(part for part in parts if part))


class Bar:
    """One line that always fits: label, bar, percent, count, time left, note.

    Where there is too little room, first the bar gets shorter, then the percentage goes, then the note's end.
    """

    def __init__(self, label: str, unit: str, now: Callable[[], float] = time.monotonic) -> None:
        self._label, self._unit, self._now = label, unit, now
        self._pace, self._note, self._room = Pace(), "", _NOTE_ROOM

    def __call__(self, done: float, total: float, note: str) -> None:
        self._pace.see(done, total, self._now())
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One column stays free: some terminals go on in the next line when the last one is written.
        yield self.line(options.max_width - 1, plain=options.ascii_only)

    def line(self, width: int, *, plain: bool = False) -> Text:
        """The line in at most ``width`` columns; ``plain``: of ASCII characters only."""
        pace = self._pace
        note = _remark(pace, self._unit, self._note)
        self._room = max(self._room, len(note))
        count, percent = _count(pace, self._unit, self._note, aligned=True), _percent(pace)
        percent = percent and f"{percent:>4}"
        left = _clock(pace.seconds_left(self._now()))
        spare = width - self._room - sum(len(part) + len(_GAP) for part in (self._label, count, left, ""))
        if spare < _BAR_LEAST + len(_GAP) + len(percent):
            percent = ""
        length = max(_BAR_LEAST, min(_BAR_MOST, spare - len(percent) - len(_GAP) * bool(percent)))
        share = pace.done / pace.total if pace.total else 0.0
        bar = _bar(share, length, plain=plain) if width >= _NARROW else Text()
        pieces = [
            Text(self._label, "bold"),
            bar,
            Text(percent, "progress.percentage"),
            Text(count, "progress.download"),
            Text(left, "progress.remaining"),
            Text(note, "dim"),
        ]
        line = Text(_GAP, no_wrap=True, end="").join(piece for piece in pieces if piece)
        line.truncate(width, overflow="crop" if plain else "ellipsis")
        return line


def _count(pace: Pace, unit: str, note: str, *, aligned: bool = False) -> str:
    """What is done of what; empty for one piece. A note without numbers says what is counted."""
    if pace.total <= 1:
        return ""
    total = f"{pace.total:,.0f}"
    done = f"{math.floor(pace.done):,}"  # half a piece is no piece
    return f"{done.rjust(len(total)) if aligned else done}/{total} {unit if _is_remark(note) else note}"


def _percent(pace: Pace) -> str:
    within_one = 0 < pace.done < pace.total
    return f"{int(100 * pace.done / pace.total)}%" if pace.total > 1 or within_one else ""


def _remark(pace: Pace, unit: str, note: str) -> str:
    """The note, unless the count says it, or how fast it goes."""
    if note:
        return note if _is_remark(note) or pace.total <= 1 else ""
    speed = pace.per_second
    return f"{speed:,.1f} {unit}/s" if speed else ""


def _is_remark(note: str) -> bool:
    return not note or any(character.isdigit() for character in note)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _bar(share: float, width: int, *, plain: bool) -> Text:
    done, rest = ("#", "-") if plain else ("━", "─")
    filled = int(width * min(max(share, 0.0), 1.0))
    return Text.assemble((done * filled, "bar.complete"), (rest * (width - filled), "bar.back"))
