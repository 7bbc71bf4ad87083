"""The inception score of class logits (Salimans et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import checked


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation over splits, as it is reported."""

    mean: float
    sd: float
    splits: int


@torch.no_grad()
def inception_score(
    logits_NK: Tensor, rng: np.random.Generator | None = None, *, splits: int = 10
) -> InceptionScore:
    """exp of the mean KL divergence of p(y|x) from p(y), on each of ``splits`` parts, in float64.

    Between 1 and the number of classes. ``rng`` shuffles the images before they are split, which matters
    where they come in the order of their classes; None leaves them as they are. Raises FeaturesUnusable
    for logits that are not finite or fewer than splits.
    """
    checked(logits_NK, "class logits")
    n = len(logits_NK)
    if n < splits:
        raise FeaturesUnusable("inception score", f"{n} images in {splits} parts", "give more images")
    if rng is not None:
        logits_NK = logits_NK[torch.from_numpy(rng.permutation(n)).to(logits_NK.device)]
    log_p_NK = logits_NK.double().log_softmax(1)
    scores = []
    for number in range(splits):
        part_BK = log_p_NK[number * n // splits : (number + 1) * n // splits]
        log_q_K = part_BK.logsumexp(0) - np.log(len(part_BK))
        scores.append(float((part_BK.exp() * (part_BK - log_q_K)).sum(1).mean().exp()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits)
