"""Newton's method for L2-SVMs of many classes at once: conjugate gradients, then a search along the line.

Each class k minimises f(w) = |w|^2 / 2 + C sum_i max(0, 1 - y_i x_i . w)^2, which is convex and piecewise
quadratic. The method is the modified finite Newton method of Keerthi and DeCoste (2005) with the equations
solved inexactly. Steps go down, and a line search ends where the slope has all but gone, so that w converges
from any start. As f's curvature is at least 1 everywhere, f(w) - min f <= |f'(w)|^2 / 2: what the end is
short of the optimum is known without knowing the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_core.evaluate.svm_spaces import Sample, Space
from dcgan_core.progress import Progress, silent

_CG_STEPS = 300
_SEARCH_STEPS = 100
_SLOPE_LEFT = 1e-3
"""Share of the slope along a step at which its search ends."""
_COARSE = 0.1
"""The equations' residual, as a share of the gradient, that the first steps are content with."""
_SLOW = 0.5
"""A step that leaves more than this of all gradients is slow; two in a row ask for precise products, once"""
_LATE = 1e-2
"""all gradients are below this share of those at zero: before that, rounding is not what makes it slow, and
gradients are themselves formed in the quick precision, until two steps in a row hardly shrink them."""
_DAMPING = 0.1
"""How much of a sample's mean curvature is added in all directions when it preconditions."""
_EXACT = 1e-14
"""A certified gap that is as good as none, whatever the gradient at zero was."""

Precondition = Callable[[Tensor, Tensor], Tensor]
"""(residuals (L, D), the L classes' numbers) to the directions taken from them, (L, D)."""


@dataclass(frozen=True)
class Goal:
    """When a class is done: both must hold."""

    gradient: float
    """Largest norm of its gradient as a share of that at w = 0."""
    gap: float
    """Largest (f - min f) / f that its gradient still allows."""


@dataclass
class _Watch:
    """Says how far a fit is: the way of the gradient that is furthest from its aim, in logarithms."""

    progress: Progress
    c: float
    share: float = 0.0
    passes: int = 0

    def stepped(self, norms_K: Tensor, aims_K: Tensor, starts_K: Tensor) -> None:
        """Another Newton step is behind. Gradients may grow on the way; what is said never goes back."""
        left = float((norms_K / aims_K).max().nan_to_num(1.0).clamp_min(1.0))
        whole = float((starts_K / aims_K).max().nan_to_num(1.0).clamp_min(1.0))
        if left < whole < math.inf:
            self.share = max(self.share, 1 - math.log(left) / math.log(whole))
        self.passed()

    def passed(self) -> None:
        """Another pass over the samples is behind."""
        self.passes += 1
        self.progress(self.share, 1.0, f"C = {self.c:g}, pass {self.passes}")


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where the solver ended, class by class."""

    weights_KD: Tensor
    objectives_K: Tensor
    gradients_K: Tensor
    """Norms of the gradients, as shares of those at w = 0."""
    gaps_K: Tensor
    """Upper bounds of (f - min f) / f."""
    converged_K: Tensor
    iterations: int
    """Newton steps of the class that took most."""


def minimise(
    space: Space,
    signs_NK: Tensor,
    c: float,
    start_KD: Tensor,
    forces_K: Tensor,
    *,
    goal: Goal,
    most: int,
    exact: bool = False,
    progress: Progress = silent,
) -> Optimum:
    """The optimum for one C, from ``start_KD``, by at most ``most`` Newton steps.

    ``exact``: no gradient in the quick precision, as the start is near the optimum. ``progress`` is told of
    every pass over the samples.
    ``signs_NK`` float64: 1 for samples of the class, -1 for others. ``forces_K``: norms of sum_i y_i x_i,
    which give the gradients at zero (``forces``).
    """
    w_KD, starts_K = start_KD.clone(), 2 * c * forces_K
    objectives_K, norms_K = torch.zeros_like(forces_K), torch.zeros_like(forces_K)
    open_L = torch.arange(len(w_KD), device=w_KD.device)
    slow, stuck, exact, iteration = 0, 0, exact or most == 0, 0
    watch = _Watch(progress, c)
    for iteration in range(most + 1):
        y_NL, w_LD, before_L = signs_NK[:, open_L], w_KD[open_L], norms_K[open_L]
        while True:
            z_NL, gradient_LD, objectives_K[open_L] = _looked(space, w_LD, y_NL, c, exact)
            norms_K[open_L] = norms_L = _norms(space, gradient_LD)
            aims_L = _aims(goal, starts_K, objectives_K)[open_L]
            watch.stepped(norms_L, aims_L, starts_K[open_L])
            left = (norms_L > aims_L).nonzero()[:, 0]
            slowed = iteration > 0 and bool((norms_L > _SLOW * before_L).all())
            stuck = stuck + 1 if slowed else 0
            if exact or (stuck < 2 and len(left) == len(open_L)):
                break
            exact = True  # rounding must not say that a class is done, nor hide the way
        exact = exact or iteration + 1 == most or bool((norms_L < _LATE * starts_K[open_L]).any())
        if not len(left) or iteration == most:
            break
        slow = slow + 1 if slowed and bool((norms_L < _LATE * starts_K[open_L]).all()) else 0
        if slow > 1 and space.sharpen():
            slow = 0
        open_L, y_NL, w_LD, z_NL = open_L[left], y_NL[:, left], w_LD[left], z_NL[:, left]
        step_LD, moved_NL = _newton_step(
            space, w_LD, gradient_LD[left], z_NL, y_NL, c, aims_L[left], starts_K[open_L], watch.passed
        )
        lengths_L = step_lengths(
            z_NL, moved_NL, y_NL, c, space.inner(step_LD, step_LD), space.inner(w_LD, step_LD)
        )
        if not lengths_L.any() and not space.sharpen():
            break  # nothing leads down that rounding does not hide
        moves_L1 = lengths_L[:, None] > 0  # what overflowed does not, and 0 x inf is no number
        w_KD[open_L] += torch.where(moves_L1, lengths_L[:, None] * step_LD, 0.0)
    return _optimum(w_KD, objectives_K, norms_K, starts_K, goal, iteration)


def forces(space: Space, signs_NK: Tensor) -> Tensor:
    """Norms (K,) of sum_i y_i x_i; those of the gradients at w = 0 are 2 C times these."""
    return _norms(space, space.pressed(space.zeros(signs_NK.shape[1]), signs_NK, exact=False)[1])


def step_lengths(
    z_NL: Tensor, moved_NL: Tensor, signs_NL: Tensor, c: float, squares_L: Tensor, products_L: Tensor
) -> Tensor:
    """Where along its step each class's objective is least, (L,), to a thousandth of the slope at the start.

    Decision values are z + t moved, the weights' part t^2 squares / 2 + t products. The slope grows with t
    and is linear in pieces: Newton's method, kept within a bracket. 0 where the step does not lead down.
    """
    room_NL, loss_NL = 1 - signs_NL * z_NL, signs_NL * moved_NL

    def slopes(t_L: Tensor) -> tuple[Tensor, Tensor]:
        left_NL = (room_NL - t_L * loss_NL).clamp_min(0)
        first_L = t_L * squares_L + products_L - 2 * c * (left_NL * loss_NL).sum(0)
        return first_L, squares_L + 2 * c * ((left_NL > 0) * loss_NL**2).sum(0)

    low_L = torch.zeros_like(squares_L)
    high_L = torch.full_like(squares_L, torch.inf)
    start_L, _ = slopes(low_L)
    t_L = torch.where(start_L < 0, 1.0, 0.0).to(squares_L)
    for _ in range(_SEARCH_STEPS):
        first_L, second_L = slopes(t_L)
        if bool(((first_L.abs() <= -_SLOPE_LEFT * start_L) | (start_L >= 0)).all()):
            break
        low_L = torch.where(first_L < 0, t_L, low_L)
        high_L = torch.where(first_L > 0, t_L, high_L)
        next_L = t_L - first_L / second_L
        middle_L = torch.where(high_L.isinf(), 2 * t_L, (low_L + high_L) / 2)
        t_L = torch.where((next_L > low_L) & (next_L < high_L), next_L, middle_L)
    return torch.where(start_L < 0, t_L, 0.0)


def _looked(
    space: Space, w_LD: Tensor, signs_NL: Tensor, c: float, exact: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(decision values (N, L), gradients (L, D), objectives (L,))."""
    z_NL, pressed_LD = space.pressed(w_LD, signs_NL, exact=exact)
    losses_L = ((1 - signs_NL * z_NL).clamp_min(0) ** 2).sum(0)
    return z_NL, w_LD - 2 * c * pressed_LD, 0.5 * space.inner(w_LD, w_LD) + c * losses_L


def _newton_step(
    space: Space,
    w_LD: Tensor,
    gradient_LD: Tensor,
    z_NL: Tensor,
    signs_NL: Tensor,
    c: float,
    aims_L: Tensor,
    starts_L: Tensor,
    passed: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """(step, what it adds to the decision values): (I + 2 C sum_A x x^T) step = -gradient."""
    active_NL = signs_NL * z_NL < 1
    solved = space.solved(active_NL, signs_NL, c)
    if solved is not None:
        return solved[0] - w_LD, solved[1] - z_NL
    norms_L = _norms(space, gradient_LD)
    residuals_L = norms_L * (norms_L / starts_L).sqrt().clamp_max(_COARSE)
    sample = space.sample()
    precondition = _by_sample(sample, active_NL, c) if sample is not None else _as_it_is
    return _conjugate_gradients(
        space, gradient_LD, active_NL, c, torch.maximum(residuals_L, aims_L / 2), precondition, passed
    )


def _conjugate_gradients(
    space: Space,
    gradient_LD: Tensor,
    active_NL: Tensor,
    c: float,
    aims_L: Tensor,
    precondition: Precondition,
    passed: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """As ``_newton_step``, until the residuals' norms are ``aims_L``; classes that are done drop out."""
    residual_LD, step_LD = -gradient_LD, torch.zeros_like(gradient_LD)
    moved_NL = torch.zeros_like(active_NL, dtype=gradient_LD.dtype)
    live = torch.arange(len(gradient_LD), device=gradient_LD.device)
    turned_LD = precondition(residual_LD, live)
    towards_LD, products_L = turned_LD, space.inner(residual_LD, turned_LD)
    for _ in range(_CG_STEPS):
        z_NL, pulled_LD = space.curvature(towards_LD, active_NL[:, live])
        passed()
        bent_L = space.inner(towards_LD, towards_LD) + 2 * c * (active_NL[:, live] * z_NL**2).sum(0)
        lengths_L = products_L / bent_L
        step_LD[live] += lengths_L[:, None] * towards_LD
        moved_NL[:, live] += lengths_L * z_NL
        residual_LD = residual_LD - lengths_L[:, None] * (towards_LD + 2 * c * pulled_LD)
        on = (_norms(space, residual_LD) > aims_L[live]).nonzero()[:, 0]
        if not len(on):
            break
        live, residual_LD, towards_LD = live[on], residual_LD[on], towards_LD[on]
        turned_LD, before_L = precondition(residual_LD, live), products_L[on]
        products_L = space.inner(residual_LD, turned_LD)
        towards_LD = turned_LD + (products_L / before_L)[:, None] * towards_LD
    return step_LD, moved_NL


def _by_sample(sample: Sample, active_NL: Tensor, c: float) -> Precondition:
    """Divide by the curvature as the active ones of some samples show it, scaled to all, and damped.

    (m I + s X_A^T X_A)^-1 by the matrix inversion lemma, in the sample's inner products; s = 2 C times the
    samples that one of the sample stands for. Without damping directions that only the sample's own
    peculiarities have would be taken for steep ones.
    """
    solved: list[tuple[Tensor, Tensor, float]] = []
    for k in range(active_NL.shape[1]):
        rows_A = active_NL[sample.rows_M, k].nonzero()[:, 0]
        scale = 2 * c * float(active_NL[:, k].sum()) / max(1, len(rows_A))
        gram_AA = sample.gram_MM[rows_A][:, rows_A]
        damped = 1 + _DAMPING * scale * float(gram_AA.diagonal().mean()) if len(rows_A) else 1.0
        gram_AA.diagonal().add_(damped / scale if scale else 1.0)
        solved.append((rows_A, torch.linalg.cholesky(gram_AA), damped))  # damping keeps it definite

    def precondition(residual_LD: Tensor, live: Tensor) -> Tensor:
        values_ML = sample.decide(residual_LD)
        coefficients_ML = torch.zeros_like(values_ML)
        for place, k in enumerate(live.tolist()):
            rows_A, factor_AA, _ = solved[k]
            if len(rows_A):
                values_A1 = values_ML[rows_A, place, None]
                coefficients_ML[rows_A, place] = torch.cholesky_solve(values_A1, factor_AA)[:, 0]
        damped_L = residual_LD.new_tensor([solved[k][2] for k in live.tolist()])
        return (residual_LD - sample.combine(coefficients_ML)) / damped_L[:, None]

    return precondition


def _as_it_is(residual_LD: Tensor, live: Tensor) -> Tensor:
    return residual_LD


def _norms(space: Space, v_KD: Tensor) -> Tensor:
    return space.inner(v_KD, v_KD).clamp_min(0).sqrt()  # rounding can take a Gram norm of 0 below it


def _aims(goal: Goal, starts_K: Tensor, objectives_K: Tensor) -> Tensor:
    """Norms of the gradients at which classes are done."""
    aims_K = torch.minimum(goal.gradient * starts_K, (2 * goal.gap * objectives_K).sqrt())
    return torch.maximum(aims_K, (2 * _EXACT * objectives_K).sqrt())


def _optimum(
    w_KD: Tensor, objectives_K: Tensor, norms_K: Tensor, starts_K: Tensor, goal: Goal, iterations: int
) -> Optimum:
    return Optimum(
        weights_KD=w_KD,
        objectives_K=objectives_K,
        gradients_K=torch.where(starts_K > 0, norms_K / starts_K, norms_K),
        gaps_K=torch.where(norms_K > 0, norms_K**2 / (2 * objectives_K), 0.0),
        converged_K=norms_K <= _aims(goal, starts_K, objectives_K),
        iterations=iterations,
    )
