"""What samples are like beside real images: diversity, saturation, and two distances that need no weights.

They watch a run and choose its best checkpoint; published scores belong to `evaluate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SATURATED = 0.99


def diversity(images_NCHW: Tensor) -> float:
    """Mean distance of two images, as root mean square per value: 0 where all are equal."""
    flat = images_NCHW.flatten(1).float()
    if len(flat) < 2:
        return 0.0
    return float(torch.pdist(flat).mean()) / flat.shape[1] ** 0.5


def saturation(images_NCHW: Tensor) -> float:
    """Share of values beyond 0.99 of the range [-1, 1] on either side."""
    return float((images_NCHW.abs() > _SATURATED).float().mean())


def nearest_distance(real_NCHW: Tensor, fake_MCHW: Tensor) -> float:
    """Mean Euclidean distance of real images to the nearest sample, pixels in [-1, 1].

    The authors' in-training metric (`nnd_score` of their code).
    """
    return float(torch.cdist(real_NCHW.flatten(1).float(), fake_MCHW.flatten(1).float()).amin(1).mean())


def kernel_distance(real_NF: Tensor, fake_MF: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (x.y / F + 1)^3.

    The kernel of KID (Binkowski et al. 2018), here on features of another net; can be slightly negative.
    """
    real, fake = real_NF.double(), fake_MF.double()
    n, m = len(real), len(fake)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    rr, ff = kernel(real, real), kernel(fake, fake)
    within_real = (rr.sum() - rr.diagonal().sum()) / (n * (n - 1))
    within_fake = (ff.sum() - ff.diagonal().sum()) / (m * (m - 1))
    return float(within_real + within_fake - 2 * kernel(real, fake).mean())
