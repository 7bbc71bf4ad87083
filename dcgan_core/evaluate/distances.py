"""All distances of two sets in one net's features, under names that say which net it was."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcgan_core.evaluate.diversity import vendi_score
from dcgan_core.evaluate.frechet import frechet_distance
from dcgan_core.evaluate.inception_score import inception_score
from dcgan_core.evaluate.kernel import kernel_distance
from dcgan_core.evaluate.manifold import precision_recall
from dcgan_core.evaluate.summary import Summary


def classifier_distances(
    real: Summary, generated: Summary, rng: np.random.Generator, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """In features of a classifier trained here, whose values are comparable for that classifier alone.

    ``classifier_frechet_distance``, ``classifier_kernel_distance`` and ``..._sd``, ``classifier_precision``,
    ``classifier_recall``, ``classifier_vendi_score``: never FID or KID, though the formulas are theirs.
    """
    found = _distances(real, generated, rng, device)
    return {f"classifier_{name}": value for name, value in found.items()}


def inception_distances(
    real: Summary,
    generated: Summary,
    logits_MK: Tensor,
    rng: np.random.Generator,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """In features of Inception: ``fid``, ``kid``, ``precision``, ``recall``, ``inception_score`` and so on.

    ``logits_MK``: Inception's ``logits_unbiased`` of the samples. Figures depend on how many images were on
    each side: state ``fid_real_images`` and ``fid_generated_images``.
    """
    found = _distances(real, generated, rng, device)
    score = inception_score(logits_MK, rng)
    return {
        "fid": found["frechet_distance"],
        "fid_real_images": real.seen.count,
        "fid_generated_images": generated.seen.count,
        "kid": found["kernel_distance"],
        "kid_sd": found["kernel_distance_sd"],
        "precision": found["precision"],
        "recall": found["recall"],
        "vendi_score": found["vendi_score"],
        "inception_score": score.mean,
        "inception_score_sd": score.sd,
    }


def _distances(
    real: Summary, generated: Summary, rng: np.random.Generator, device: torch.device | str
) -> dict[str, float]:
    """The Frechet distance of all images, the others of those kept; precision and recall of equally many."""
    real_NF, generated_MF = (each.kept_NF.to(device) for each in (real, generated))
    kernel = kernel_distance(real_NF, generated_MF, rng)
    many = min(len(real_NF), len(generated_MF))
    manifold = precision_recall(real_NF[:many], generated_MF[:many])
    return {
        "frechet_distance": frechet_distance(real.seen, generated.seen),
        "kernel_distance": kernel.mean,
        "kernel_distance_sd": kernel.sd,
        "precision": manifold.precision,
        "recall": manifold.recall,
        "vendi_score": vendi_score(generated_MF),
    }
