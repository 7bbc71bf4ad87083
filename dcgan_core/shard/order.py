"""Which sample goes where: seeded orders over samples, for shards and for epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

_ROUNDS = 8


def balanced(count: int, parts: int) -> list[range]:
    """Cut ``count`` positions into ``parts`` stretches whose lengths differ by at most one."""
    small, larger = divmod(count, parts)
    stretches, start = [], 0
    for part in range(parts):
        end = start + small + (part < larger)
        stretches.append(range(start, end))
        start = end
    return stretches


class Shuffle:
    """A seeded permutation of ``count`` items, computed where it is asked for: it needs no memory.

    A block cipher on the smallest power of two that holds ``count`` (rounds of an odd multiplier, a constant
    and a shift), walked along its cycles until it is inside. So any worker can say which of 100 million
    samples comes at its positions, and where its samples go, at once and without the others.
    """

    def __init__(self, count: int, seed: int, stream: int = 0) -> None:
        """``stream`` tells the permutations of one seed apart (the number of the epoch)."""
        if count < 1:
            raise ValueError("there must be at least one item")
        self.count = count
        bits = max(1, (count - 1).bit_length())
        random = np.random.Generator(np.random.Philox(key=[seed, stream]))
        drawn_R2 = random.integers(0, 2**64, (_ROUNDS, 2), np.uint64)
        self._mask = np.uint64(2**bits - 1)
        self._shift = np.uint64((bits + 1) // 2)
        self._odd = [int(odd) | 1 for odd in drawn_R2[:, 0]]
        self._add = [np.uint64(add) for add in drawn_R2[:, 1]]
        self._inverse = [pow(odd, -1, 2**bits) for odd in self._odd]

    def __call__(self, positions_N: Indices) -> Indices:
        """Which item is at each position (N,)."""
        return self._walk(positions_N, self._forth)

    def places(self, items_N: Indices) -> Indices:
        """At which position each item is (N,): the inverse."""
        return self._walk(items_N, self._back)

    def _walk(self, start_N: Indices, step: Callable[[Words], Words]) -> Indices:
        x_N = step(start_N.astype(np.uint64))
        outside = np.flatnonzero(x_N >= self.count)
        while len(outside):
            x_N[outside] = step(x_N[outside])
            outside = outside[x_N[outside] >= self.count]
        return x_N.astype(np.int64)

    def _forth(self, x_N: Words) -> Words:
        for odd, add in zip(self._odd, self._add, strict=True):
            x_N = (x_N * np.uint64(odd) + add) & self._mask
            x_N ^= x_N >> self._shift
        return x_N

    def _back(self, x_N: Words) -> Words:
        for odd, add in zip(reversed(self._inverse), reversed(self._add), strict=True):
            x_N = x_N ^ (x_N >> self._shift)  # its own inverse: the shift is at least half of the bits
            x_N = ((x_N - add) * np.uint64(odd)) & self._mask
        return x_N


class Positions:
    """The endless stream of sample indices: epoch after epoch, each sample exactly once per epoch.

    Batches are stretches of the stream, so they may straddle epochs, none is short, and the only state is
    the number of samples seen.
    """

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("there must be at least one sample")
        self.samples, self._seed = samples, seed
        self._epoch, self._order = -1, Shuffle(1, 0)

    def take(self, start: int, count: int) -> Indices:
        """Indices at stream positions [start, start + count), (count,) int64."""
        taken = [np.empty(0, np.int64)]
        position, end = start, start + count
        while position < end:
            epoch, offset = divmod(position, self.samples)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, Shuffle(self.samples, self._seed, epoch)
            stop = min(self.samples, offset + end - position)
            taken.append(self._order(np.arange(offset, stop)))
            position += stop - offset
        return np.concatenate(taken)


def state_after(seen: int, samples: int) -> dict[str, int]:
    """The state of a run over so many samples that has seen ``seen`` of them, all epochs together."""
    epoch, in_epoch = divmod(seen, samples)
    return {"epoch": epoch, "samples_seen": in_epoch}


class Sampler:
    """One rank's stretches of the global batches, without end: the same number on every rank.

    ``state_dict`` is that of the run, not of the rank: it is the same on all of them, and a run goes on from
    it exactly with another number of ranks or another batch size.
    """

    def __init__(
        self, samples: int, seed: int, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """``batch_size`` is global. ValueError where there are fewer samples in a batch than ranks."""
        if not 0 <= rank < world_size <= batch_size:
            raise ValueError(f"rank {rank} of {world_size} has no share of batches of {batch_size}")
        self._positions, self._batch_size = Positions(samples, seed), batch_size
        self._mine = balanced(batch_size, world_size)[rank]
        self._seen = 0

    def __iter__(self) -> Iterator[Indices]:
        return self

    def __next__(self) -> Indices:
        """Indices of this rank's share of the next global batch."""
        taken = self._positions.take(self._seen + self._mine.start, len(self._mine))
        self._seen += self._batch_size
        return taken

    def state_dict(self) -> dict[str, int]:
        """``epoch`` and ``samples_seen`` of it, counted over all ranks."""
        return state_after(self._seen, self._positions.samples)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where another sampler of the same samples and seed was; ValueError for a state of others."""
        epoch, seen = state["epoch"], state["samples_seen"]
        if epoch < 0 or not 0 <= seen < self._positions.samples:
            raise ValueError(f"{dict(state)} is no state of a sampler of {self._positions.samples} samples")
        self._seen = epoch * self._positions.samples + seen
