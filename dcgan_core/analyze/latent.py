"""Points and paths in latent space."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def walk(points_PZ: Tensor, steps: int) -> Tensor:
    """Straight lines through a series of points (P, Z): ((P-1) * steps + 1, Z), the points included.

    Paper, section 6.1.
    """
    pieces = []
    for start_Z, end_Z in pairwise(points_PZ):
        shares = torch.arange(steps, dtype=points_PZ.dtype).div(steps).unsqueeze(1)
        pieces.append(start_Z + shares * (end_Z - start_Z))
    return torch.cat([*pieces, points_PZ[-1:]])
