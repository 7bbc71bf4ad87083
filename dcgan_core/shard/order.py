"""Which sample goes where: seeded orders over samples, for shards and for epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def shuffled(keys: Sequence[str], seed: int) -> list[str]:
    """Keys in an order that depends on the seed and each key alone, not on how they were listed."""
    return sorted(keys, key=lambda key: (hashlib.sha256(f"{seed}:{key}".encode()).digest(), key))


def balanced(count: int, parts: int) -> list[range]:
    """Cut ``count`` positions into ``parts`` stretches whose lengths differ by at most one."""
    small, larger = divmod(count, parts)
    stretches, start = [], 0
    for part in range(parts):
        end = start + small + (part < larger)
        stretches.append(range(start, end))
        start = end
    return stretches


def epoch_order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of one epoch, (samples,) int64: the same on every rank and after every restart."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


class Positions:
    """The endless stream of sample indices: epoch after epoch, each sample exactly once per epoch.

    Batches are stretches of the stream, so they may straddle epochs, none is short, and the only state is
    the number of samples seen.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("there must be at least one sample")
        self._samples, self._seed = samples, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def take(self, start: int, count: int) -> NDArray[np.int64]:
        """Indices at stream positions [start, start + count), (count,) int64."""
        taken: list[NDArray[np.int64]] = []
        position, end = start, start + count
        while position < end:
            epoch, offset = divmod(position, self._samples)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, epoch_order(self._samples, self._seed, epoch)
            piece = self._order[offset : offset + end - position]
            taken.append(piece)
            position += len(piece)
        return np.concatenate(taken) if taken else np.empty(0, np.int64)
