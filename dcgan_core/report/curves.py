"""Curves as SVG for the page: coloured by the page's own style sheet, so readable in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from dcgan_core.report.content import Line

POINTS_SHOWN = 400
"""Longer curves are averaged down to this many points."""
_SPARSE = 30
"""Each point of a curve of no more than so many is shown."""

# Stand-ins that matplotlib can draw with; the page's variables take their place in the text of the SVG.
_INK, _RULE = "#010203", "#040506"
_LINES = ("#070809", "#0a0b0c")
_VARIABLES = {
    _INK: "var(--muted)",
    _RULE: "var(--rule)",
    _LINES[0]: "var(--line-1)",
    _LINES[1]: "var(--line-2)",
}


def curves_svg(
    name: str,
    lines: Sequence[Line],
    limits: tuple[float | None, float | None] = (None, None),
    mark: tuple[float, float] | None = None,
) -> str:
    """An ``<svg>`` element of at most two curves over the training step; equal lines give equal text.

    ``name`` must differ between the figures of a page; ``limits`` fixes ends of the range of the values;
    ``mark`` is a point (step, value) to ring.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Salted, so that ids are the same each time; text stays text, set in the page's own font.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9.5}):
        figure = Figure(figsize=(5.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line, colour, dash in zip(lines, _LINES, ("-", (0, (4, 1.5))), strict=False):
            steps, values = _shortened(line)
            dots = "." if len(steps) <= _SPARSE else ""
            axes.plot(
                steps, values, color=colour, linestyle=dash, marker=dots, linewidth=1.6, label=line.name
            )
        if mark:
            axes.plot(*mark, color=_LINES[1], marker="o", markersize=9, fillstyle="none", linestyle="none")
        axes.set_ylim(*limits)
        axes.margins(x=0.01)
        axes.set_xlabel("step", color=_INK)
        axes.tick_params(colors=_INK, length=3)
        axes.grid(axis="y", color=_RULE, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_INK)
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            frameon=False,
            labelcolor=_INK,
            borderaxespad=0.2,
        )
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(text.getvalue(), name)


def _shortened(line: Line) -> tuple[list[float], list[float]]:
    per_point = -(-len(line.steps) // POINTS_SHOWN)
    starts = range(0, len(line.steps), per_point or 1)
    return (
        [_mean(line.steps[start : start + per_point]) for start in starts],
        [_mean(line.values[start : start + per_point]) for start in starts],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _inlined(document: str, name: str) -> str:
    """The element alone: no prologue, no metadata, no names that could occur twice on a page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' (?:width|height)="[^"]*pt"', "", svg)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg class="curves" aria-hidden="true" data-name="{name}"', 1).strip()
