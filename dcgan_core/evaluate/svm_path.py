"""L2-SVMs for one or many values of C on one training set, by the route that costs least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.evaluate.svm_solver import Goal, Optimum, forces, minimise
from dcgan_core.evaluate.svm_spaces import Blocks, FeatureSpace, GramSpace, gram_of
from dcgan_core.progress import Progress, share_of, silent

Route = Literal["auto", "primal", "gram"]
Precision = Literal["auto", "float32", "float64"]

_GRAM_MOST = 16_384
"""Samples whose inner products still take 2 GiB or less."""
_GRAM_PER_C = 5000
"""Samples for each value of C up to which inner products cost less than the some 70 passes that they save."""
_BY_GRAM = 0.9
"""Share of a fit on the Gram route, as it is reported, that goes by before it is checked in the features."""
_SMALL = 2**22
"""Features in all up to which every product is float64: time is no matter there."""


@dataclass(frozen=True)
class Effort:
    """How optima are sought; none of it says what they are, to within ``goal``."""

    goal: Goal
    most: int
    """Newton steps a value of C."""
    route: Route
    precision: Precision
    device: str
    block_bytes: int | None


def solve_path(
    x_NF: NDArray[np.floating],
    signs_NK: NDArray[np.float64],
    cs: Sequence[float],
    *,
    intercept: bool,
    effort: Effort,
    start_KD: NDArray[np.float64] | None = None,
    gram_NN: NDArray[np.floating] | None = None,
    progress: Progress = silent,
) -> Iterator[Optimum]:
    """Optima for every C from the smallest on, each sought when it is asked for, from where the last ended.

    Weights are (K, F), and the intercept in a last column where there is one. ``start_KD`` is where the first
    starts on the primal route. ``gram_NN`` is X X^T where that is known. On the Gram route each optimum is
    checked in the features themselves, and polished there should it fall short. ``progress`` is told of every
    pass over the samples, and of each C as an equal share of the whole.
    """
    blocks = Blocks(x_NF, device=effort.device, block_bytes=effort.block_bytes)
    small = effort.precision == "auto" and x_NF.size <= _SMALL
    quick = torch.float64 if small or effort.precision == "float64" else torch.float32
    space = FeatureSpace(blocks, intercept=intercept, quick=quick)
    signs = torch.from_numpy(signs_NK).to(blocks.device)
    zero_KD = space.zeros(signs_NK.shape[1])
    w_KD = zero_KD if start_KD is None else torch.from_numpy(start_KD).to(zero_KD)
    by_gram: Iterator[tuple[Tensor, int]] | None = None
    if takes_gram(effort.route, *x_NF.shape, values=len(set(cs)), known=gram_NN is not None):
        gram = gram_of(blocks) if gram_NN is None else torch.tensor(gram_NN, dtype=torch.float64)
        by_gram = _by_gram(gram.to(blocks.device), space, signs, cs, intercept, effort, quick, progress)
    forces_K = forces(space, signs)
    for place, c in enumerate(values := sorted(set(cs))):
        w_KD, steps = next(by_gram) if by_gram else (w_KD, 0)
        begin = place + (_BY_GRAM if by_gram else 0)
        optimum = minimise(
            space,
            signs,
            c,
            w_KD,
            forces_K,
            goal=effort.goal,
            most=effort.most,
            exact=by_gram is not None,
            progress=share_of(progress, begin / len(values), (place + 1) / len(values)),
        )
        w_KD = optimum.weights_KD
        yield replace(optimum, iterations=steps + optimum.iterations)


def takes_gram(route: Route, samples: int, features: int, *, values: int, known: bool) -> bool:
    """Whether the Gram route is taken; ``values``: how many of C."""
    if route != "auto":
        return route == "gram"
    return known or (samples <= features and samples <= min(_GRAM_MOST, _GRAM_PER_C * values))


def _by_gram(
    gram_NN: Tensor,
    space: FeatureSpace,
    signs_NK: Tensor,
    cs: Sequence[float],
    intercept: bool,
    effort: Effort,
    quick: torch.dtype,
    progress: Progress,
) -> Iterator[tuple[Tensor, int]]:
    """From the smallest C on: the weights that the Gram matrix leads to, and the Newton steps it took."""
    if intercept:
        gram_NN += 1
    spanned = GramSpace(gram_NN, quick=quick)
    tighter = Goal(effort.goal.gradient / 2, effort.goal.gap / 4)
    forces_K, v_KD = forces(spanned, signs_NK), spanned.zeros(signs_NK.shape[1])
    for place, c in enumerate(values := sorted(set(cs))):
        optimum = minimise(
            spanned,
            signs_NK,
            c,
            v_KD,
            forces_K,
            goal=tighter,
            most=effort.most,
            exact=True,
            progress=share_of(progress, place / len(values), (place + _BY_GRAM) / len(values)),
        )
        v_KD = optimum.weights_KD
        yield space.combined(spanned.coefficients(v_KD)), optimum.iterations
