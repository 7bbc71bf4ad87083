"""Which nets a minibatch updates, and how large the steps are: functions of the step's number alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

Schedule = Literal["alternate", "both"]


class Update(NamedTuple):
    """The nets that one minibatch updates."""

    d: bool
    g: bool


def update_of(schedule: Schedule, d_steps: int, step: int) -> Update:
    """``alternate``: G on every (d_steps + 1)-th minibatch, beginning with the first, D on all others, as in
    the authors' code. ``both``: D on every minibatch, and after every ``d_steps`` of them G as well
    (Goodfellow et al. 2014, algorithm 1, with fresh data for each step of D)."""
    if schedule == "alternate":
        g = step % (d_steps + 1) == 0
        return Update(d=not g, g=g)
    return Update(d=True, g=step % d_steps == d_steps - 1)


def rate_share(step: int, steps: int, decay: float) -> float:
    """Share of the learning rate at a step (from 0): 1, then falling linearly towards 0 over the last
    ``decay`` of all steps (the authors' MNIST run: 0.5; they lower it once an epoch)."""
    falling = decay * steps
    return 1.0 if not falling else min(1.0, (steps - step) / falling)
