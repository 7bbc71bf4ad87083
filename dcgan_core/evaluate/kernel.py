"""Kernel distance (KID): maximum mean discrepancy under a cubic kernel, by random subsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import checked


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets, as KID is reported.

    The deviation is that of one subset's estimate. Subsets overlap, so it does not shrink with the root of
    their number.
    """

    mean: float
    sd: float
    subsets: int
    subset_size: int
    """Rows of each side in a subset."""


def kernel_distance(
    real_NF: Tensor,
    generated_MF: Tensor,
    rng: np.random.Generator,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """The unbiased squared MMD of random subsets, drawn without replacement within a subset.

    Binkowski et al. 2018, with torch-fidelity's defaults; the mean can be slightly negative. A subset holds
    at most half of the smaller set: of subsets that are all the same the deviation would say nothing.
    Matrix products in the features' float type, sums in float64, on the features' device. Raises
    FeaturesUnusable for features that are not finite, of different widths, or fewer than four.
    """
    checked(real_NF, "real features")
    checked(generated_MF, "generated features", real_NF.shape[1])
    fewest = min(len(real_NF), len(generated_MF))
    size = min(subset_size, fewest // 2)
    if size < 2:
        raise FeaturesUnusable("kernel distance", f"only {fewest} images on a side", "give four or more")
    found = np.empty(subsets)
    for number in range(subsets):
        drawn = [_drawn(each, size, rng) for each in (real_NF, generated_MF)]
        found[number] = squared_mmd(*drawn)
    return KernelDistance(float(found.mean()), float(found.std()), subsets, size)


@torch.no_grad()
def squared_mmd(real_NF: Tensor, generated_MF: Tensor) -> float:
    """Unbiased estimate of the squared MMD under the kernel (x.y / F + 1)^3, of all rows."""
    n, m = len(real_NF), len(generated_MF)
    within_real = _summed(real_NF, real_NF, without_diagonal=True) / (n * (n - 1))
    within_generated = _summed(generated_MF, generated_MF, without_diagonal=True) / (m * (m - 1))
    return within_real + within_generated - 2 * _summed(real_NF, generated_MF) / (n * m)


def _drawn(features_NF: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    rows = rng.choice(len(features_NF), size, replace=False)
    return features_NF[torch.from_numpy(rows).to(features_NF.device)]


def _summed(one_NF: Tensor, other_MF: Tensor, *, without_diagonal: bool = False) -> float:
    kernel_NM = ((one_NF @ other_MF.T).double() / one_NF.shape[1] + 1) ** 3
    if without_diagonal:
        kernel_NM.fill_diagonal_(0)
    return float(kernel_NM.sum())
