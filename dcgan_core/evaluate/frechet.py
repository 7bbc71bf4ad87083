"""The Frechet distance of two Gaussians, without a matrix square root."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import Moments

_Matrix = NDArray[np.float64]


def frechet_distance(one: Moments, other: Moments) -> float:
    """Squared Frechet distance |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of the Gaussians with these moments.

    With features of Inception it is the FID (Heusel et al. 2017). Covariances may be of any rank: equal sets
    are at 0 up to rounding also where samples are fewer than features. Never below 0. Symmetric.
    Raises FeaturesUnusable for sets of fewer than two rows or of different widths.
    """
    if len(one.mean_F) != len(other.mean_F):
        widths = f"{len(one.mean_F)} and {len(other.mean_F)} features"
        raise FeaturesUnusable("Frechet distance", widths, "take both sides from the same net")
    apart_F = one.mean_F.cpu() - other.mean_F.cpu()
    covariances = [moments.covariance_FF.cpu().numpy() for moments in (one, other)]
    spread = sum(float(np.trace(covariance)) for covariance in covariances)
    return max(0.0, float(apart_F @ apart_F) + spread - 2 * _trace_of_root(*covariances))


def _trace_of_root(one_FF: _Matrix, other_FF: _Matrix) -> float:
    """tr (S T)^(1/2): with S = K K' and T = L L' the sum of the singular values of K' L.

    Their squares are the eigenvalues of the symmetric product K' T K. Taken as singular values they are good
    to the last digits of the largest; roots of eigenvalues would be good to half as many, and a thousand
    such add up where samples are few.
    """
    one_FR, other_FS = _factor(one_FF), _factor(other_FF)
    if not one_FR.shape[1] or not other_FS.shape[1]:  # all rows are equal on one side
        return 0.0
    return float(np.linalg.svd(one_FR.T @ other_FS, compute_uv=False).sum())


def _factor(covariance_FF: _Matrix) -> _Matrix:
    """L (F, rank) with L L' = S: Cholesky's factor, completely pivoted, cut where only rounding is left."""
    (pstrf,) = get_lapack_funcs(("pstrf",), (covariance_FF,))
    packed, pivots, rank, _ = cast(
        "tuple[_Matrix, NDArray[np.int32], int, int]", pstrf(covariance_FF, lower=1)
    )
    factor = np.empty((len(covariance_FF), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return factor
