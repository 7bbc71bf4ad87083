"""How far a long piece of work is: a callback that any front end (terminal, Prefect) can give."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, float, str], None]
"""Called with (done, total, note); done and total in the stage's own unit (photos, steps)."""


def silent(done: float, total: float, note: str) -> None:
    """Shows nothing."""
