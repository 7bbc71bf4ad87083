"""What D and G minimise, as functions of D's logits; further objectives (hinge, K+1 classes, ...) go here."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Objective = Literal["non-saturating", "minmax"]


def discriminator_loss(real_logits_N: Tensor, fake_logits_N: Tensor) -> Tensor:
    """Binary cross-entropy on logits, real and fake each averaged over its own batch, then added.

    The same in both objectives (paper, section 3; Goodfellow et al. 2014, equation 1).
    """
    return F.softplus(-real_logits_N).mean() + F.softplus(fake_logits_N).mean()


def generator_loss(fake_logits_N: Tensor, objective: Objective) -> Tensor:
    """``non-saturating``: -log D(G(z)), the authors'. ``minmax``: log(1 - D(G(z))), of Goodfellow et al."""
    if objective == "minmax":
        return -F.softplus(fake_logits_N).mean()
    return F.softplus(-fake_logits_N).mean()
