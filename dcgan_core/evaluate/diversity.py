"""How different samples are from each other: mean distance of pairs, and the Vendi score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import checked


@torch.no_grad()
def mean_pairwise_distance(features_NF: Tensor, *, block: int = 2048) -> float:
    """Mean Euclidean distance over all pairs of two rows, as root mean square per value.

    On pixels in [-1, 1] it is ``diversity`` of the training log, for sets of any size. Beside the same figure
    of real images: 1 times theirs is as diverse as they are. Raises FeaturesUnusable for features that are
    not finite or fewer than two.
    """
    x_NF = _several(features_NF).double()
    x_NF = x_NF - x_NF.mean(0)
    total = 0.0
    for start in range(0, len(x_NF), block):
        rows = x_NF[start : start + block]
        total += float(torch.pdist(rows).sum())
        for other in range(start + block, len(x_NF), block):
            total += float(torch.cdist(rows, x_NF[other : other + block]).sum())
    pairs = len(x_NF) * (len(x_NF) - 1) / 2
    return total / pairs / x_NF.shape[1] ** 0.5


@torch.no_grad()
def vendi_score(features_NF: Tensor) -> float:
    """The effective number of different images: 1 where all are alike, N where none has to do with another.

    exp of the entropy of the eigenvalues of K / N, K being the cosines of pairs (Friedman and Dieng 2023).
    It depends on the net and on N: compare with real images, as many. In float64 through the smaller of the
    two Gram matrices. Raises FeaturesUnusable for features that are not finite, all 0 in a row, or fewer
    than two.
    """
    x_NF = _several(features_NF).double()
    norms_N = x_NF.norm(dim=1)
    if not norms_N.all():
        row = int((norms_N == 0).int().argmax())
        raise FeaturesUnusable("features", f"row {row} is all 0 and has no direction", "use another net")
    x_NF = x_NF / norms_N[:, None]
    gram = x_NF @ x_NF.T if len(x_NF) < x_NF.shape[1] else x_NF.T @ x_NF
    shares = torch.linalg.eigvalsh(gram / len(x_NF)).clamp(min=0)
    return math.exp(-float(torch.xlogy(shares, shares).sum()))


def _several(features_NF: Tensor) -> Tensor:
    if len(checked(features_NF, "features")) < 2:
        raise FeaturesUnusable("features", "fewer than two rows have no pairs", "give more images")
    return features_NF
