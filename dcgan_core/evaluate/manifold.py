"""Precision and recall of samples by the manifolds of features (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import checked


@dataclass(frozen=True)
class PrecisionRecall:
    """How much of the samples looks real, and how much of the real images can be drawn; 0 to 1 each."""

    precision: float
    """Share of samples within the ball of some real image."""
    recall: float
    """Share of real images within the ball of some sample."""
    neighbours: int


@torch.no_grad()
def precision_recall(
    real_NF: Tensor, generated_MF: Tensor, *, neighbours: int = 3, block: int = 2048
) -> PrecisionRecall:
    """Balls reach to the k-th nearest other row of their own set; their surface belongs to them.

    Both depend on the sizes of the sets, which should be equal and stated. Distances are taken block by
    block (memory: block x block), of float32 features in float32 after the real mean is taken off, of others
    in float64. Raises FeaturesUnusable for features that are not finite, of different widths, or too few.
    """
    checked(real_NF, "real features")
    checked(generated_MF, "generated features", real_NF.shape[1])
    for what, features in (("real features", real_NF), ("generated features", generated_MF)):
        if len(features) <= neighbours:
            many = f"{len(features)} rows have no neighbour number {neighbours}"
            raise FeaturesUnusable(what, many, "give more images")
    centre_F = real_NF.double().mean(0)
    dtype = torch.float32 if real_NF.dtype == generated_MF.dtype == torch.float32 else torch.float64
    real, generated = ((each.double() - centre_F).to(dtype) for each in (real_NF, generated_MF))
    real_radii_N, generated_radii_M = (_radii(each, neighbours, block) for each in (real, generated))
    is_drawn_N = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    is_real_M = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    for i, rows in _blocks(real, block):
        for j, columns in _blocks(generated, block):
            squared = _squared(rows, columns)
            is_drawn_N[i] |= (squared <= generated_radii_M[j]).any(1)
            is_real_M[j] |= (squared <= real_radii_N[i, None]).any(0)
    return PrecisionRecall(float(is_real_M.float().mean()), float(is_drawn_N.float().mean()), neighbours)


def _radii(features_NF: Tensor, neighbours: int, block: int) -> Tensor:
    """Squared distances (N,) to the k-th nearest other row; each pair of blocks is compared once."""
    nearest_NK = features_NF.new_full((len(features_NF), neighbours), torch.inf)
    for i, rows in _blocks(features_NF, block):
        for j, columns in _blocks(features_NF, block):
            if j.start < i.start:
                continue
            squared = _squared(rows, columns)
            if i == j:
                squared.fill_diagonal_(torch.inf)  # a row is no neighbour of its own
            else:
                nearest_NK[j] = _least(nearest_NK[j], squared.T)
            nearest_NK[i] = _least(nearest_NK[i], squared)
    return nearest_NK.amax(1)


def _least(nearest_BK: Tensor, squared_BC: Tensor) -> Tensor:
    both = torch.cat([nearest_BK, squared_BC], 1)
    return both.topk(nearest_BK.shape[1], dim=1, largest=False, sorted=False).values


def _squared(one_NF: Tensor, other_MF: Tensor) -> Tensor:
    norms = one_NF.square().sum(1)[:, None] + other_MF.square().sum(1)
    return norms.addmm_(one_NF, other_MF.T, alpha=-2).clamp_(min=0)


def _blocks(features_NF: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(features_NF), block):
        rows = slice(start, min(start + block, len(features_NF)))
        yield rows, features_NF[rows]
