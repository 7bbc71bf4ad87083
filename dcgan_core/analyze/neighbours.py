"""The training images that lie nearest to samples, in pixel space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nearest(
    queries_QF: NDArray[np.float32], pool_NF: NDArray[np.float32], count: int, block: int = 8192
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices and Euclidean distances (Q, count) of the nearest rows of the pool, nearest first.

    The pool is gone through in blocks, so memory is bounded by Q * block. Fewer than ``count`` columns come
    back where the pool is smaller. Ties go to the lower index.
    """
    best_distance = np.empty((len(queries_QF), 0), np.float32)
    best_index = np.empty((len(queries_QF), 0), np.int64)
    query_norms = np.square(queries_QF).sum(1, keepdims=True)
    for start in range(0, len(pool_NF), block):
        pool = pool_NF[start : start + block].astype(np.float32)
        squared = query_norms - 2 * queries_QF @ pool.T + np.square(pool).sum(1)
        index = np.broadcast_to(np.arange(start, start + len(pool)), squared.shape)
        distance = np.concatenate([best_distance, squared], 1)
        index = np.concatenate([best_index, index], 1)
        order = np.argsort(distance, axis=1, kind="stable")[:, :count]
        best_distance = np.take_along_axis(distance, order, 1)
        best_index = np.take_along_axis(index, order, 1)
    return best_index, np.sqrt(np.maximum(best_distance, 0))
