"""Whether a run is alive: signs of collapse in its numbers, counted until they are certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LOOKS = 3
"""Checks in a row that a sign must be seen in. What is not finite needs one."""

_NO_SPREAD = 1e-4
_CERTAIN = 1e-6
_ALIKE = 0.05
_SATURATED = 0.8


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a run."""

    sign: str
    step: int
    """Where it became certain."""
    metric: str
    value: float
    words: str


@dataclass
class Health:
    """What has been seen so far; part of a checkpoint, so that a resumed run judges as a straight one."""

    grace: int
    """Steps from the beginning in which only what is not finite counts: nets are still unlike themselves."""
    seen: dict[str, int] = field(default_factory=dict)
    """Checks in a row in which each sign was there."""
    healthy_step: int = 0
    """The last step at which nothing was suspicious."""

    def check(self, step: int, vitals: Mapping[str, float]) -> Trouble | None:
        """Judge the numbers of a step; ``vitals`` as ``SIGNS`` name them, absent ones are not judged."""
        found = self.finite(step, vitals)
        if found is not None:
            return found
        for sign, (metric, words, is_there) in SIGNS.items():
            known = metric in vitals and step > self.grace
            self.seen[sign] = self.seen.get(sign, 0) + 1 if known and is_there(vitals) else 0
            if self.seen[sign] >= LOOKS and found is None:
                found = Trouble(sign, step, metric, vitals[metric], words)
        if not any(self.seen.values()):
            self.healthy_step = step
        return found

    def finite(self, step: int, vitals: Mapping[str, float]) -> Trouble | None:
        """Judge only whether all numbers are finite, and count nothing."""
        for name, value in vitals.items():
            if not math.isfinite(value):
                return Trouble("not finite", step, name, value, f"{name} is {value}")
        return None

    def to_json(self) -> dict[str, Any]:
        return {"seen": dict(self.seen), "healthy_step": self.healthy_step}

    def load(self, values: Mapping[str, Any]) -> None:
        """The inverse of ``to_json``."""
        self.seen, self.healthy_step = dict(values["seen"]), int(values["healthy_step"])


def _dead_discriminator(vitals: Mapping[str, float]) -> bool:
    return vitals["logit_spread"] < _NO_SPREAD


def _dead_generator(vitals: Mapping[str, float]) -> bool:
    return vitals["d_fake"] < _CERTAIN and vitals["loss_d"] < _CERTAIN


def _alike(vitals: Mapping[str, float]) -> bool:
    return vitals["diversity"] < _ALIKE


def _saturated(vitals: Mapping[str, float]) -> bool:
    return vitals["saturation"] > _SATURATED


SIGNS: dict[str, tuple[str, str, Callable[[Mapping[str, float]], bool]]] = {
    "dead discriminator": (
        "logit_spread",
        "D gives real images and samples the same logit (standard deviation below 0.0001)",
        _dead_discriminator,
    ),
    "dead generator": (
        "d_fake",
        "D tells samples from real images without any doubt (loss below 0.000001): G has nothing to follow",
        _dead_generator,
    ),
    "samples alike": (
        "diversity",
        "samples differ from one another by less than 5 % of what real images do",
        _alike,
    ),
    "saturated samples": (
        "saturation",
        "more than 80 % of the values that real images leave between the ends of the range are at an end",
        _saturated,
    ),
}
"""Sign: the number it is read from, the words for it, whether it is there. ``diversity`` is relative to that
of real images; ``saturation`` is 0 where it is that of real images and 1 where everything is saturated."""
