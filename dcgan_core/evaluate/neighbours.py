"""The nearest-neighbour baseline: exact distances, k chosen on validation images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import stratified_split
from dcgan_core.progress import Progress, silent


@dataclass(frozen=True)
class NeighbourTrial:
    """One k, and the share of validation images that it classifies rightly."""

    k: int
    accuracy: float


@dataclass(frozen=True, eq=False)
class NeighbourVerdict:
    """The chosen k with its evidence, and what it says of the test images."""

    k: int
    trials: tuple[NeighbourTrial, ...]
    """All k in the order given; the smallest among the best was chosen."""
    predictions_M: NDArray[np.int64]


def classify(
    train_NF: NDArray[np.generic],
    train_labels_N: NDArray[np.int64],
    test_MF: NDArray[np.generic],
    *,
    ks: Sequence[int],
    seed: int,
    validation_share: float = 0.2,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> NeighbourVerdict:
    """k-nearest neighbours among all training rows, k the best of ``ks`` on a stratified part of them.

    Features (or uint8 pixels) in rows, labels 0, 1, ... . Test rows decide nothing. Raises ConfigError where
    a class has a single training row, or where there is no k, or one larger than the rows it chooses among.
    """
    fitted, held = stratified_split(train_labels_N, validation_share, np.random.default_rng(seed))
    trials = try_ks(
        train_NF[fitted],
        train_labels_N[fitted],
        train_NF[held],
        train_labels_N[held],
        ks=ks,
        device=device,
        progress=progress,
    )
    k = chosen(trials)
    nearest_MK, _ = nearest(train_NF, test_MF, k, device=device, progress=progress)
    return NeighbourVerdict(k, trials, vote(train_labels_N[nearest_MK]))


def try_ks(
    train_NF: NDArray[np.generic],
    train_labels_N: NDArray[np.int64],
    held_MF: NDArray[np.generic],
    held_labels_M: NDArray[np.int64],
    *,
    ks: Sequence[int],
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> tuple[NeighbourTrial, ...]:
    """Every k on validation rows of one's own; the distances are computed once.

    Raises ConfigError where there is no k, or one larger than the training rows.
    """
    if not ks or min(ks) < 1 or max(ks) > len(train_NF):
        raise ConfigError(
            f"k must be 1 to {len(train_NF)}, the images there are to choose among, not {list(ks)}"
        )
    nearest_MK, _ = nearest(train_NF, held_MF, max(ks), device=device, progress=progress)
    labels_MK = train_labels_N[nearest_MK]
    return tuple(NeighbourTrial(k, float(np.mean(vote(labels_MK[:, :k]) == held_labels_M))) for k in ks)


def chosen(trials: Sequence[NeighbourTrial]) -> int:
    """The smallest k among the best."""
    return min(trials, key=lambda trial: (-trial.accuracy, trial.k)).k


def vote(labels_MK: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label that most neighbours have, the smallest of equals; int64 (M,)."""
    counts_MC = np.zeros((len(labels_MK), int(labels_MK.max(initial=0)) + 1), np.int64)
    np.add.at(counts_MC, (np.arange(len(labels_MK))[:, None], labels_MK), 1)
    return counts_MC.argmax(1)


def nearest(
    train_NF: NDArray[np.generic],
    queries_QF: NDArray[np.generic],
    count: int,
    *,
    device: torch.device | str = "cpu",
    block: int = 4096,
    progress: Progress = silent,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and squared Euclidean distances (Q, count) of the nearest training rows, nearest first.

    In float64, in blocks of ``block`` queries by ``block`` training rows: neither set is copied whole.
    Equal distances go to the lower index. Integers (uint8 pixels) give exact distances, hence exact ties;
    elsewhere ties are as equal as rounding leaves them. ``progress`` counts queries. Raises ValueError for
    features that are not finite, or where ``count`` exceeds the training rows.
    """
    if not 1 <= count <= len(train_NF):
        raise ValueError(f"{count} neighbours cannot be found among {len(train_NF)} rows")
    index_QK = np.empty((len(queries_QF), count), np.int64)
    distance_QK = np.empty((len(queries_QF), count))
    for start in range(0, len(queries_QF), block):
        queries_BF = _rows(queries_QF[start : start + block], device)
        best = torch.empty(len(queries_BF), 0, dtype=torch.float64, device=device)
        index = torch.empty(len(queries_BF), 0, dtype=torch.int64, device=device)
        for first in range(0, len(train_NF), block):
            distance_BT = _squared_distances(queries_BF, _rows(train_NF[first : first + block], device))
            columns_T = torch.arange(first, first + distance_BT.shape[1], device=device)
            # Rows found so far stand first: among equals the lower index stays to the left.
            best = torch.cat([best, distance_BT], 1)
            index = torch.cat([index, columns_T.expand(len(queries_BF), -1)], 1)
            places = _smallest(best, min(count, best.shape[1]))
            best, index = best.gather(1, places), index.gather(1, places)
        index_QK[start : start + block] = index.cpu().numpy()
        distance_QK[start : start + block] = best.cpu().numpy()
        progress(min(start + block, len(queries_QF)), len(queries_QF), "nearest neighbours")
    return index_QK, distance_QK


def _smallest(values_QN: Tensor, count: int) -> Tensor:
    """Columns (Q, count) of each row's smallest values, in their order; the left one of equals.

    ``topk`` says how small, but takes any of equals: so all that are no larger are sorted, few beside N.
    """
    largest_Q1 = values_QN.topk(count, largest=False).values.amax(1, keepdim=True)
    rows_X, columns_X = (values_QN <= largest_Q1).nonzero(as_tuple=True)
    by_value = values_QN[rows_X, columns_X].sort(stable=True).indices
    order = by_value[rows_X[by_value].sort(stable=True).indices]
    per_row_Q = torch.bincount(rows_X, minlength=len(values_QN))
    first_Q = per_row_Q.cumsum(0) - per_row_Q
    wanted_QK = first_Q[:, None] + torch.arange(count, device=values_QN.device)
    return columns_X[order[wanted_QK]]


def _squared_distances(a_QF: Tensor, b_NF: Tensor) -> Tensor:
    products_QN = a_QF @ b_NF.T
    squared_QN = products_QN.mul_(-2).add_(a_QF.square().sum(1, keepdim=True)).add_(b_NF.square().sum(1))
    return squared_QN.clamp_min_(0)  # rounding can leave it just below zero


def _rows(rows_NF: NDArray[np.generic], device: torch.device | str) -> Tensor:
    values_NF = torch.from_numpy(np.ascontiguousarray(rows_NF).reshape(len(rows_NF), -1)).to(device).double()
    if not bool(values_NF.isfinite().all()):
        raise ValueError("there are features that are not finite; distances to them say nothing")
    return values_NF
