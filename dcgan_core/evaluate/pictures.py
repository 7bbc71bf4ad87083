"""Confusion matrices as pictures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_MOST_NUMBERS = 20
"""Classes up to which counts are written into the cells."""
_LETTERS = 8
"""Letters of a title to an inch of the picture, colour bar and labels left out."""


def confusion_png(confusion_CC: NDArray[np.int64], classes: Sequence[str], title: str) -> bytes:
    """True classes as rows, shares of each row as shades; PNG. Counts stand in the cells of few classes."""
    count = len(classes)
    side = float(np.clip(1.5 + 0.45 * count, 4, 14))
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    totals_C1 = confusion_CC.sum(1, keepdims=True)
    shares_CC = confusion_CC / np.maximum(totals_C1, 1)
    drawn = axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(textwrap.fill(title, int(_LETTERS * side)), fontsize="medium")
    if count <= 2 * _MOST_NUMBERS:
        axes.set_xticks(range(count), classes, rotation=90)
        axes.set_yticks(range(count), classes)
    if count <= _MOST_NUMBERS:
        for row, column in np.ndindex(count, count):
            if confusion_CC[row, column]:
                colour = "white" if shares_CC[row, column] > 0.5 else "black"
                text = f"{confusion_CC[row, column]:,}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
