"""Where an SVM's weights are sought: among all weights of the features, or in the span of the samples.

A vector of weights, intercept included, is a row of a (K, D) float64 tensor, one row a class. What a row
means is the space's own business; the solver adds them, scales them and asks for inner products.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.evaluate.thin_products import combined, decided

_CPU_BLOCK = 2**26  # bytes; each block also costs sums as wide as the features
_GPU_BLOCK = 2**28
_GRAM_TILE = 1024
_EXACT_GRAM = 2e11  # multiplications up to which inner products are formed in float64 throughout
_SAMPLE_MOST = 512
_SAMPLE_SHARE = 16  # at most one row in so many is in the sample


class Space(Protocol):
    """What the solver needs to know of the samples x_i, each with a last feature 1 for the intercept."""

    samples: int

    def zeros(self, classes: int) -> Tensor:
        """(K, D), all weights zero."""
        ...

    def inner(self, u_KD: Tensor, v_KD: Tensor) -> Tensor:
        """Inner products of weights, class by class, (K,)."""
        ...

    def curvature(self, v_KD: Tensor, active_NK: Tensor) -> tuple[Tensor, Tensor]:
        """(z, sum of x_i z_i over active samples), z_NK = x_i . v_k; in the space's quick precision."""
        ...

    def pressed(self, w_KD: Tensor, signs_NK: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
        """(z, sum of x_i y_i max(0, 1 - y_i z_i)), z_NK = x_i . w_k; ``exact``: in float64 throughout."""
        ...

    def sharpen(self) -> bool:
        """Let all be in float64 from now on; False if it was already."""
        ...

    def solved(self, active_NK: Tensor, signs_NK: Tensor, c: float) -> tuple[Tensor, Tensor] | None:
        """The minimisers (K, D) if the active samples stayed so, and their z_NK; None if too dear."""
        ...

    def sample(self) -> Sample | None:
        """A few of the samples, to precondition with, or None where that does not pay."""
        ...


class Sample:
    """Some samples x_m: their rows' numbers, inner products (M, M), and what the solver does with them."""

    def __init__(
        self,
        rows_M: Tensor,
        gram_MM: Tensor,
        decide: Callable[[Tensor], Tensor],
        combine: Callable[[Tensor], Tensor],
    ) -> None:
        self.rows_M, self.gram_MM = rows_M, gram_MM
        self.decide = decide
        """(K, D) weights to their (M, K) values at the sample."""
        self.combine = combine
        """(M, K) coefficients to the weights (K, D) that are those sums of the sample."""


class Blocks:
    """Features in blocks of rows that a processor can hold: (N, F) of any float type, never copied whole.

    On a GPU the features are moved there whole, in their own type, where they take up to half of its free
    memory; else each pass moves them block by block.
    """

    def __init__(
        self, x_NF: NDArray[np.floating], *, device: torch.device | str, block_bytes: int | None
    ) -> None:
        self.device = torch.device(device)
        self.samples, self.features = x_NF.shape
        self._bytes = block_bytes or (_CPU_BLOCK if self.device.type == "cpu" else _GPU_BLOCK)
        self._buffers: dict[torch.dtype, Tensor] = {}
        if any(stride < 0 for stride in x_NF.strides):
            x_NF = np.ascontiguousarray(x_NF)
        with warnings.catch_warnings():  # torch warns of arrays it may not write to; nothing here writes
            warnings.simplefilter("ignore", UserWarning)
            self._x_NF = torch.from_numpy(x_NF)
        if self.device.type == "cuda" and x_NF.nbytes <= torch.cuda.mem_get_info(self.device)[0] / 2:
            self._x_NF = self._x_NF.to(self.device)

    def of(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """(rows, block (B, F)) in order. A block is valid until the next one is taken."""
        step = max(1, self._bytes // (self.features * dtype.itemsize))
        for start in range(0, self.samples, step):
            rows = slice(start, min(start + step, self.samples))
            yield rows, self._converted(self._x_NF[rows], dtype, step)

    def columns(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """(columns, block (N, B)) in order, of four times a block's bytes: each adds to all of a product."""
        step = max(16, 4 * self._bytes // (self.samples * dtype.itemsize))
        for start in range(0, self.features, step):
            columns = slice(start, min(start + step, self.features))
            yield columns, self._x_NF[:, columns].to(self.device, dtype)

    def take(self, rows_M: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows (M, F)."""
        return self._x_NF[rows_M.to(self._x_NF.device)].to(self.device, dtype)

    def _converted(self, block_BF: Tensor, dtype: torch.dtype, step: int) -> Tensor:
        if block_BF.dtype == dtype and block_BF.device == self.device:
            return block_BF
        if self.device.type != "cpu":
            return block_BF.to(self.device).to(dtype)
        if dtype not in self._buffers:
            self._buffers[dtype] = torch.empty((min(step, self.samples), self.features), dtype=dtype)
        return self._buffers[dtype][: len(block_BF)].copy_(block_BF)


class FeatureSpace:
    """All weights: D = F, and one more with an intercept, the last."""

    def __init__(self, blocks: Blocks, *, intercept: bool, quick: torch.dtype) -> None:
        self.samples, self._blocks, self._intercept, self._quick = blocks.samples, blocks, intercept, quick
        self._sample: Sample | None = None

    def zeros(self, classes: int) -> Tensor:
        width = self._blocks.features + self._intercept
        return torch.zeros((classes, width), dtype=torch.float64, device=self._blocks.device)

    def inner(self, u_KD: Tensor, v_KD: Tensor) -> Tensor:
        return (u_KD * v_KD).sum(1)

    def curvature(self, v_KD: Tensor, active_NK: Tensor) -> tuple[Tensor, Tensor]:
        return self._pass(v_KD, self._quick, lambda z_BK, rows: z_BK * active_NK[rows])

    def pressed(self, w_KD: Tensor, signs_NK: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
        def react(z_BK: Tensor, rows: slice) -> Tensor:
            y_BK = signs_NK[rows]
            return y_BK * (1 - y_BK * z_BK).clamp_min(0)

        return self._pass(w_KD, torch.float64 if exact else self._quick, react)

    def sharpen(self) -> bool:
        was, self._quick = self._quick, torch.float64
        return was != torch.float64

    def solved(self, active_NK: Tensor, signs_NK: Tensor, c: float) -> tuple[Tensor, Tensor] | None:
        return None

    def sample(self) -> Sample | None:
        rows_M = _sample_of(self.samples).to(self._blocks.device)
        if self._sample is None and len(rows_M):
            x_MF = self._blocks.take(rows_M, self._quick)
            self._sample = Sample(
                rows_M,
                (x_MF @ x_MF.T).double() + float(self._intercept),
                lambda v_KD: self._decide(v_KD, x_MF),
                lambda coefficients_MK: self._combine(coefficients_MK, x_MF),
            )
        return self._sample

    def combined(self, coefficients_NK: Tensor) -> Tensor:
        """Sums of all samples, (K, D), in float64."""
        total_KD = self.zeros(coefficients_NK.shape[1])
        for rows, block_BF in self._blocks.of(torch.float64):
            total_KD += self._combine(coefficients_NK[rows], block_BF)
        return total_KD

    def decided(self, w_KD: Tensor) -> Tensor:
        """Decision values (N, K), in float64."""
        z_NK = torch.empty((self.samples, len(w_KD)), dtype=torch.float64, device=self._blocks.device)
        for rows, block_BF in self._blocks.of(torch.float64):
            z_NK[rows] = self._decide(w_KD, block_BF)
        return z_NK

    def _pass(
        self, v_KD: Tensor, dtype: torch.dtype, react: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(z, sum of x_i react(z)_i): each block is read once and multiplied twice; sums are float64."""
        z_NK = torch.empty((self.samples, len(v_KD)), dtype=torch.float64, device=v_KD.device)
        pulled_KD = torch.zeros_like(v_KD)
        for rows, block_BF in self._blocks.of(dtype):
            z_NK[rows] = self._decide(v_KD, block_BF)
            pulled_KD += self._combine(react(z_NK[rows], rows), block_BF)
        return z_NK, pulled_KD

    def _decide(self, v_KD: Tensor, block_BF: Tensor) -> Tensor:
        width = block_BF.shape[1]
        z_BK = decided(block_BF, v_KD[:, :width].to(block_BF.dtype)).double()
        return z_BK + v_KD[:, width] if self._intercept else z_BK

    def _combine(self, coefficients_BK: Tensor, block_BF: Tensor) -> Tensor:
        pulled_KF = combined(coefficients_BK.to(block_BF.dtype).T, block_BF).double()
        if not self._intercept:
            return pulled_KF
        return torch.cat([pulled_KF, coefficients_BK.double().sum(0)[:, None]], 1)


class GramSpace:
    """Weights that are sums of samples: a row is the N coefficients and then their N decision values.

    The optimum is among these, and here a step costs N x N, not N x F. ``gram_NN`` float64 is X X^T, plus 1
    with an intercept. Decision values follow their coefficients through every sum, so that inner products
    cost nothing and one product with the matrix is all that a step takes. ``quick``: of products within a
    Newton step. What it rounds stays in the decision values; whoever needs more looks at the features.
    """

    DIRECT = 512
    """Active samples up to which the equations are solved by Cholesky's decomposition."""

    def __init__(self, gram_NN: Tensor, *, quick: torch.dtype = torch.float64) -> None:
        self.samples, self._gram_NN = len(gram_NN), gram_NN
        self._quick_NN = gram_NN.to(quick) if len(gram_NN) > self.DIRECT else gram_NN
        self._sample: Sample | None = None

    def zeros(self, classes: int) -> Tensor:
        return self._gram_NN.new_zeros((classes, 2 * self.samples))

    def inner(self, u_KD: Tensor, v_KD: Tensor) -> Tensor:
        return (u_KD[:, : self.samples] * v_KD[:, self.samples :]).sum(1)

    def curvature(self, v_KD: Tensor, active_NK: Tensor) -> tuple[Tensor, Tensor]:
        z_NK = v_KD[:, self.samples :].T
        return z_NK, self._with_values((z_NK * active_NK).T, self._quick_NN)

    def pressed(self, w_KD: Tensor, signs_NK: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
        z_NK = w_KD[:, self.samples :].T
        return z_NK, self._with_values((signs_NK * (1 - signs_NK * z_NK).clamp_min(0)).T, self._gram_NN)

    def sharpen(self) -> bool:
        was, self._quick_NN = self._quick_NN.dtype, self._gram_NN
        return was != torch.float64

    def solved(self, active_NK: Tensor, signs_NK: Tensor, c: float) -> tuple[Tensor, Tensor] | None:
        """Coefficients a with (K_AA + I / 2C) a_A = y_A, 0 elsewhere (Chapelle 2007, section 3.1)."""
        if int(active_NK.sum(0).max()) > self.DIRECT:
            return None
        coefficients_KN = self._gram_NN.new_zeros((active_NK.shape[1], self.samples))
        for k in range(active_NK.shape[1]):
            rows_A = active_NK[:, k].nonzero()[:, 0]
            gram_AA = self._gram_NN[rows_A][:, rows_A]
            gram_AA.diagonal().add_(0.5 / c)
            factor_AA, failed = torch.linalg.cholesky_ex(gram_AA)
            if failed:  # rounding has made it indefinite, as C is huge
                return None
            y_A1 = signs_NK[rows_A, k, None]
            coefficients_KN[k, rows_A] = torch.cholesky_solve(y_A1, factor_AA)[:, 0]
        minima_KD = self._with_values(coefficients_KN, self._gram_NN)
        return minima_KD, minima_KD[:, self.samples :].T

    def sample(self) -> Sample | None:
        rows_M = _sample_of(self.samples).to(self._gram_NN.device)
        if self._sample is None and len(rows_M):
            gram_MN = self._gram_NN[rows_M]

            def combine(coefficients_MK: Tensor) -> Tensor:
                spread_KN = gram_MN.new_zeros((coefficients_MK.shape[1], self.samples))
                spread_KN[:, rows_M] = coefficients_MK.T
                return torch.cat([spread_KN, coefficients_MK.T @ gram_MN], 1)

            self._sample = Sample(
                rows_M, gram_MN[:, rows_M], lambda v_KD: v_KD[:, self.samples + rows_M].T, combine
            )
        return self._sample

    def coefficients(self, w_KD: Tensor) -> Tensor:
        """(N, K)."""
        return w_KD[:, : self.samples].T

    def _with_values(self, coefficients_KN: Tensor, gram_NN: Tensor) -> Tensor:
        values_KN = combined(coefficients_KN.to(gram_NN.dtype), gram_NN).double()
        return torch.cat([coefficients_KN, values_KN], 1)


def gram_of(blocks: Blocks) -> Tensor:
    """X X^T, float64 (N, N), without an intercept; half of it is computed, the other half is its mirror.

    Products are float64 where that is cheap, else float32 within blocks of columns and float64 across them.
    """
    count = blocks.samples
    dtype = torch.float64 if count * count * blocks.features <= _EXACT_GRAM else torch.float32
    gram_NN = torch.zeros((count, count), dtype=torch.float64, device=blocks.device)
    for _, part_NB in blocks.columns(dtype):
        for start in range(0, count, _GRAM_TILE):
            stop = min(start + _GRAM_TILE, count)
            gram_NN[start:stop, :stop] += part_NB[start:stop] @ part_NB[:stop].T
    for start in range(0, count, _GRAM_TILE):
        stop = min(start + _GRAM_TILE, count)
        gram_NN[:start, start:stop] = gram_NN[start:stop, :start].T
        own = gram_NN[start:stop, start:stop]
        own.copy_(own.tril() + own.tril(-1).T)
    return gram_NN


def _sample_of(samples: int) -> Tensor:
    """Numbers of rows at equal distances; none where there are so few that a sample says too little."""
    count = min(samples // _SAMPLE_SHARE, _SAMPLE_MOST)
    count = count if count >= _SAMPLE_SHARE else 0
    return torch.linspace(0, samples - 1, count, dtype=torch.float64).long()
