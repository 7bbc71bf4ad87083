"""Features and images that tests of distances share."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def features(n: int, f: int, seed: int = 0, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Correlated normal features, float64 (n, f)."""
    mixing = np.random.default_rng(99).normal(size=(f, f)) / f**0.5
    drawn = np.random.default_rng(seed).normal(size=(n, f))
    return torch.from_numpy(shift + scale * (drawn @ mixing))


def images(n: int, size: int = 8, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
