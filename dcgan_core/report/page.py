"""The report as one HTML page that asks for nothing: pictures, curves and style are inside it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from dcgan_core.report.content import Confusion, Content, Training
from dcgan_core.report.curves import curves_svg

MAX_CLASSES = 20
"""Confusion matrices of more classes are shown as the list of their commonest mistakes."""
MISTAKES_SHOWN = 12


def render(content: Content, artifacts: str) -> str:
    """The page, the same for the same content; ``artifacts`` is the relative url of the artifacts' folder.

    All text is escaped: captions, reasons and class names come from outside.
    """
    curves = _curves(content.training) if content.training else {}
    template = environment().get_template("page.html.j2")
    return template.render(content=content, artifacts=artifacts, curves=curves, max_classes=MAX_CLASSES)


def _curves(training: Training) -> dict[str, Markup]:
    """The figures that have points."""
    best = training.best
    drawn = {
        "losses": (training.losses, (None, None), None),
        "verdicts": (training.verdicts, (-0.02, 1.02), None),
        "score": ((training.score,), (None, None), (best.step, best.value) if best else None),
        "diversity": ((training.diversity,), (0.0, None), None),
    }
    return {
        name: Markup(curves_svg(name, lines, limits, mark))  # noqa: S704
        for name, (lines, limits, mark) in drawn.items()
        if any(line.steps for line in lines)
    }


def environment() -> Environment:
    """Templates of this folder, all that they insert escaped."""
    made = Environment(
        loader=PackageLoader("dcgan_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": _bytes,
        "code": _code,
        "day": _day,
        "duration": _duration,
        "mistakes": mistakes,
        "minute": _minute,
        "percent": _percent,
        "thousands": "{:,}".format,
        "words": lambda status: status.replace("_", " "),
    }
    return made


def mistakes(confusion: Confusion) -> list[tuple[str, str, int]]:
    """True class, answer and count of the commonest mistakes, commonest first."""
    found = [
        (true, answer, count)
        for true, row in zip(confusion.classes, confusion.counts, strict=True)
        for answer, count in zip(confusion.classes, row, strict=True)
        if true != answer and count
    ]
    return sorted(found, key=lambda mistake: (-mistake[2], mistake[0], mistake[1]))[:MISTAKES_SHOWN]


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _code(text: str) -> Markup:
    """Text whose `quoted` parts are set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment.astimezone(UTC):%B %Y}"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
