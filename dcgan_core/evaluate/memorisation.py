"""Whether samples lie nearer to training images than unseen images of the same kind do: data copying."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.nearest import NearestNeighbours
from dcgan_core.progress import Progress, silent

_BLOCK = 4096
_FEWEST_IN_CELL = 20  # of samples, as in the paper

_Distances = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What the distances of samples and of held-out images to the training images say.

    A look at neighbours alone is weak evidence: nearness in one space is not likeness. Give both spaces.
    """

    copying_z: float
    """C_T of Meehan et al. 2020: about N(0, 1) where samples are as far from the training images as held-out
    ones are, far below 0 (say -3) where they are nearer (copies), far above where they are farther."""
    copied_share: float
    """Share of samples nearer to a training image than all but 1 in 100 held-out images are: 0.01 is
    expected of a generator that does not copy, and 0 of one that draws badly."""
    nearer_share: float
    """Share of pairs (sample, held-out image) of which the sample is nearer to its training image: 0.5 is
    expected."""
    cells: int
    """Cells of space that count in ``copying_z``."""
    nearest_M: NDArray[np.int64]
    """The nearest training image of each sample."""
    distance_M: _Distances
    held_out_distance_N: _Distances


def memorisation(
    generated: Tensor,
    training: Tensor,
    held_out: Tensor,
    *,
    centres: Tensor | None = None,
    device: torch.device | str = "cpu",
    quick: bool = False,
    progress: Progress = silent,
) -> Memorisation:
    """Compare distances to the nearest training image, in the space of what is given.

    Pixels uint8 (compared exactly) or features, (M, ...), (T, ...) and (N, ...); ``quick`` as in
    ``NearestNeighbours``. ``held_out`` must have been seen neither by the generator nor by the net of the
    features. ``centres`` (K, ...), of k-means on the training images say, divide the space into cells, so
    that copying in one region is not made up for in another; without, all is one cell. Raises
    FeaturesUnusable for empty sets, for what is not finite, and where no cell has 20 samples and a held-out
    image.
    """
    for what, images in (("generated", generated), ("training", training), ("held-out", held_out)):
        if not len(images):
            raise FeaturesUnusable(f"{what} images", "there are none", "give some")
    to_training = _nearest(generated, training, device, quick, progress)
    distance_M = to_training.distance_Q.cpu().numpy()
    held_out_N = _nearest(held_out, training, device, quick, progress).distance_Q.cpu().numpy()
    cells_M, cells_N = np.zeros(len(generated), np.int64), np.zeros(len(held_out), np.int64)
    if centres is not None:
        cells_M, cells_N = (
            _nearest(each, centres, device, quick).index_Q.cpu().numpy() for each in (generated, held_out)
        )
    copying_z, cells = _copying_z(distance_M, held_out_N, cells_M, cells_N)
    u = _rank_sum(distance_M, held_out_N)
    return Memorisation(
        copying_z=copying_z,
        copied_share=float((distance_M < np.quantile(held_out_N, 0.01)).mean()),
        nearer_share=1 - u / (len(distance_M) * len(held_out_N)),
        cells=cells,
        nearest_M=to_training.index_Q.cpu().numpy(),
        distance_M=distance_M,
        held_out_distance_N=held_out_N,
    )


def _nearest(
    queries: Tensor, points: Tensor, device: torch.device | str, quick: bool, progress: Progress = silent
) -> NearestNeighbours:
    search = NearestNeighbours(queries, device=device, quick=quick)
    for block in points.split(_BLOCK):
        search.update(block)
        progress(search.seen, len(points), f"{len(queries):,} images beside {search.seen:,} training images")
    return search


def _copying_z(
    generated_M: _Distances, held_out_N: _Distances, cells_M: NDArray[np.int64], cells_N: NDArray[np.int64]
) -> tuple[float, int]:
    """C_T: the z scores of cells with enough samples, by their shares of held-out images; and how many."""
    scores, weights = [], []
    for cell in np.unique(cells_N):
        generated, held_out = generated_M[cells_M == cell], held_out_N[cells_N == cell]
        if len(generated) >= _FEWEST_IN_CELL:
            scores.append(_z(generated, held_out))
            weights.append(len(held_out))
    if not scores:
        raise FeaturesUnusable(
            "memorisation",
            f"no cell has {_FEWEST_IN_CELL} samples and a held-out image",
            "give more samples or fewer centres",
        )
    return float(np.average(scores, weights=weights)), len(scores)


def _z(generated_M: _Distances, held_out_N: _Distances) -> float:
    """Mann and Whitney's U as a z score: below 0 where the generated distances are the smaller ones."""
    m, n = len(generated_M), len(held_out_N)
    return (_rank_sum(generated_M, held_out_N) - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)


def _rank_sum(generated_M: _Distances, held_out_N: _Distances) -> float:
    """U: how many pairs have the generated distance above the held-out one; ties count half."""
    m = len(generated_M)
    ranks = rankdata(np.concatenate([generated_M, held_out_N]))
    return float(ranks[:m].sum() - m * (m + 1) / 2)
