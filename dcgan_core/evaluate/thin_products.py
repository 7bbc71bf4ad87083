"""Products of features with a few columns or rows, at the speed at which memory can be read.

A processor's own matrix product is made for square ones: where torch takes MKL's, a product with 10 columns
in float32 took 2 to 3 times as long as oneDNN's here, which torch has too but reaches for float32 only from
its compiler. The operator is the one that compiled linear layers call.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def decided(x_BF: Tensor, w_KF: Tensor) -> Tensor:
    """X W^T, (B, K) for few rows of W, both of one float type."""
    if _takes_onednn(x_BF):
        return torch.ops.mkldnn._linear_pointwise(x_BF, w_KF.contiguous(), None, "none", [], "")
    return x_BF @ w_KF.T


def combined(a_KB: Tensor, x_BF: Tensor) -> Tensor:
    """A X, (K, F) for few rows of A, both of one float type."""
    if _takes_onednn(x_BF):
        return torch.ops.mkldnn._linear_pointwise(a_KB.contiguous(), x_BF.T, None, "none", [], "")
    return a_KB @ x_BF


def _takes_onednn(x_BF: Tensor) -> bool:
    return (
        x_BF.device.type == "cpu" and x_BF.dtype == torch.float32 and x_BF.is_contiguous() and _has_onednn()
    )


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
