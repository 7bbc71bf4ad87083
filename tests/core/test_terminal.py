"""What is shown of long work: times right after a resume too, one line that always fits, lines of logs."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from dcgan_core.progress import Pace, in_words, share_of
from dcgan_core.terminal import LINE_SECONDS, Bar, LogLines, progress_on

NOTE = "D 0.61  G 1.82  D(x) 0.71  D(G(z)) 0.28  812 images/s"


@dataclass
class Clock:
    """A clock that a test sets."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left_goes_by_what_this_run_has_done() -> None:
    pace = Pace()
    pace.see(0, 1, 0.0)
    pace.see(4_000, 6_000, 50.0)  # resumed: the first 4,000 steps were done before
    assert pace.seconds_left(50.0) is None
    pace.see(4_050, 6_000, 60.0)
    assert pace.per_second == pytest.approx(5.0)
    assert pace.seconds_left(60.0) == pytest.approx(390.0)
    assert pace.seconds_left(70.0) == pytest.approx(380.0)  # runs down while nothing is reported
    assert pace.seconds_left(9_999.0) == 0.0


def test_time_left_is_known_where_reports_are_rarer_than_the_window() -> None:
    pace = Pace()
    for report in range(4):
        pace.see(50.0 * report, 500, 400.0 * report)
    assert pace.seconds_left(1200.0) == pytest.approx(350 / 50 * 400)


def test_pieces_take_their_shares_of_the_whole() -> None:
    seen: list[tuple[float, float, str]] = []

    def progress(done: float, total: float, note: str) -> None:
        seen.append((done, total, note))

    share_of(progress, 0.5, 0.75)(3, 4, "three of four")
    share_of(share_of(progress, 0.5, 1), 0.5, 1)(0, 7, "none")
    share_of(progress, 0, 0.25)(0, 0, "nothing to do")
    assert seen == [(0.6875, 1.0, "three of four"), (0.75, 1.0, "none"), (0.25, 1.0, "nothing to do")]


def test_pace_follows_a_change_of_speed_and_begins_anew_after_a_rollback_or_with_other_work() -> None:
    pace = Pace()
    for second in range(300):
        pace.see(10.0 * second, 100_000, float(second))
    for second in range(300):
        pace.see(2990.0 + second, 100_000, 300.0 + second)
    assert pace.per_second == pytest.approx(1.0)
    pace.see(1000, 100_000, 601.0)
    assert pace.per_second is None
    pace.see(1010, 100_000, 603.0)
    assert pace.per_second == pytest.approx(5.0)
    pace.see(1020, 2_000, 605.0)
    assert pace.per_second is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (720, "12 min"), (9_000, "2.5 h"), (400_000, "4.6 days")]
)
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_log_gets_a_line_every_half_minute_and_none_before() -> None:
    lines: list[str] = []
    clock = Clock()
    report = LogLines("train", "steps", lines.append, clock)
    for second in range(int(3.5 * LINE_SECONDS)):
        clock.seconds = 1000.0 + second
        report(1000 + second, 6000, NOTE)
    assert lines == [
        f"train  1,030/6,000 steps  17%  about 83 min left  {NOTE}",
        f"train  1,060/6,000 steps  17%  about 82 min left  {NOTE}",
        f"train  1,090/6,000 steps  18%  about 82 min left  {NOTE}",
    ]


def test_a_log_line_says_what_is_counted_and_leaves_out_what_is_not_known() -> None:
    lines: list[str] = []
    clock = Clock()
    for total, note in ((40, ""), (40, "reading images"), (1, "")):
        report = LogLines("crops", "parts", lines.append, clock)
        clock.seconds += LINE_SECONDS
        report(0, total, note)
    assert lines == ["crops  0/40 parts  0%", "crops  0/40 reading images  0%", "crops"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_the_bar_is_one_line_that_fits_whatever_it_is_told(width: int) -> None:
    clock = Clock()
    bar = Bar("train", "steps", clock)
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    reports = [(0, 1, ""), (20, 20, "reading images"), (950, 6000, NOTE)]
    reports += [(1000, 6000, f"{NOTE}  waiting for data 12%  rolled back 2x"), (6000, 6000, NOTE)]
    for done, total, note in reports:
        bar(done, total, note)
        (line,) = console.render_lines(bar, pad=False)
        assert 0 < sum(segment.cell_length for segment in line) < width
        clock.seconds += 40


def test_a_piece_that_is_half_done_is_not_counted() -> None:
    bar = Bar("scores", "classifiers")
    bar(4.625, 5, "K-means: C = 0.001, pass 3")
    assert "4/5 classifiers" in bar.line(100).plain
    assert " 92%" in bar.line(100).plain


def test_the_line_stays_where_it_is_while_numbers_change() -> None:
    clock = Clock()
    bar = Bar("train", "steps", clock)
    notes = [NOTE, NOTE.replace("812", "1,812"), NOTE.replace("0.61", "12.61"), NOTE]
    lines = []
    for step, note in enumerate(notes):
        bar(950 + 50 * step, 6000, note)
        clock.seconds += 40
        lines.append(bar.line(159).plain)
    assert len({line.index("/6,000") for line in lines}) == 1
    assert len({line.index("D ") for line in lines}) == 1
    assert all(NOTE[-8:] in line for line in lines)


def test_at_100_columns_there_is_a_bar_and_the_whole_note() -> None:
    bar = Bar("train", "steps", Clock())
    bar(1250, 6000, NOTE)
    assert bar.line(99).plain == f"train  ━────────  1,250/6,000 steps  -:--:--  {NOTE}"
    assert bar.line(99, plain=True).plain == f"train  #--------  1,250/6,000 steps  -:--:--  {NOTE}"


def test_a_terminal_is_left_as_it_was_and_a_log_is_not_moved_in() -> None:
    for is_terminal in (True, False):
        text = io.StringIO()
        console = Console(width=100, file=text, force_terminal=is_terminal)
        with progress_on(console, "train", "steps") as report:
            report(1250, 6000, NOTE)
        assert ("1,250/6,000" in text.getvalue()) == is_terminal
        assert text.getvalue().endswith("\x1b[2K") == is_terminal
