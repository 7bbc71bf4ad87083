"""Which rows go through D together, and who does which: by the number of all rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BATCH = 128  # images a batch when statistics are estimated, as in the authors' code


class ImageRows(Protocol):
    """Images by row, uint8 (N, H, W, 3): an array, a memory map, or what decodes them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are shown together, and which of them are wanted."""

    images_BHW3: NDArray[np.uint8]
    keep: slice
    first: int
    """Where the first wanted one goes, counted from the first of all that are wanted."""


def batch_bounds(rows: int, batch_size: int = BATCH) -> NDArray[np.int64]:
    """Batch k is rows [bounds[k], bounds[k + 1]): as few as possible, equal to within one row, the larger
    first. A last short batch would be judged by statistics of its own."""
    batches = max(1, math.ceil(rows / batch_size))
    numbers = np.arange(batches + 1)
    return numbers * (rows // batches) + np.minimum(numbers, rows % batches)


def row_ranges(rows: int, parts: int, batch_size: int = BATCH) -> list[range]:
    """At most ``parts`` ranges that cover all rows, of whole batches, equal to within one batch and a row.

    Features of a range are those of the whole set bit for bit, in every mode of batch norm, as the batches
    are the same; ranges that cut batches also come out so, and show the cut batches twice.
    """
    bounds = batch_bounds(rows, batch_size)
    batches = len(bounds) - 1
    parts = max(1, min(parts, batches))
    cuts = bounds[np.arange(parts + 1) * batches // parts].tolist()
    return [range(start, end) for start, end in pairwise(cuts)]


def batches_of(images: ImageRows, rows: range, batch_size: int) -> Iterator[Batch]:
    """The batches that hold ``rows`` (a range of step 1 within the images), whole; ValueError for others."""
    if rows.step != 1 or not 0 <= rows.start <= rows.stop <= len(images):
        raise ValueError(f"{rows} is no stretch of {len(images)} rows")
    bounds = batch_bounds(len(images), batch_size).tolist()
    for low, high in pairwise(bounds):
        start, end = max(low, rows.start), min(high, rows.stop)
        if start < end or (low == high and not rows):  # an empty set has one empty batch: it has a width
            yield Batch(images[low:high], slice(start - low, end - low), start - rows.start)


def rebatched(stream: Iterable[NDArray[np.uint8]], count: int, batch_size: int) -> Iterator[Batch]:
    """The same batches out of ``count`` images that come as arrays of any lengths.

    Raises ValueError where there are more or fewer.
    """
    bounds = batch_bounds(count, batch_size).tolist()
    sizes = iter(np.diff(bounds).tolist())
    wanted, first = next(sizes), 0
    held: list[NDArray[np.uint8]] = []
    for images_BHW3 in stream:
        rest = images_BHW3
        while len(rest):
            if wanted == 0:
                raise ValueError(f"there are more than the {count} images that were announced")
            missing = wanted - sum(map(len, held))
            held.append(rest[:missing])
            rest = rest[missing:]
            if sum(map(len, held)) == wanted:
                yield Batch(held[0] if len(held) == 1 else np.concatenate(held), slice(None), first)
                first, wanted, held = first + wanted, next(sizes, 0), []
    if first < count:
        came = first + sum(map(len, held))
        raise ValueError(f"there are {came} images, and {count} were announced")
