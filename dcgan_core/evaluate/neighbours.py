"""The nearest-neighbour baseline: the nearest rows by exact distances, and what they vote for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.progress import Progress, silent


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
