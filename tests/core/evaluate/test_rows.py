"""Batches and ranges follow from the number of all rows, and streams are cut as arrays are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.evaluate.rows import batch_bounds, batches_of, rebatched, row_ranges

ROWS, SIZES = st.integers(1, 300), st.integers(1, 40)


def numbered(count: int) -> NDArray[np.uint8]:
    """Images of one pixel that say their number."""
    return (np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 1, 2)).copy()


@settings(deadline=None)
@given(rows=ROWS, batch_size=SIZES)
def test_batches_are_equal_to_within_one_row(rows: int, batch_size: int) -> None:
    sizes = np.diff(batch_bounds(rows, batch_size))
    assert sizes.tolist() == [len(each) for each in np.array_split(np.zeros(rows), len(sizes))]
    assert sizes.max() <= batch_size
    assert (len(sizes) - 1) * batch_size < rows, "as few as possible"


@settings(deadline=None)
@given(rows=ROWS, batch_size=SIZES, parts=st.integers(1, 50))
def test_ranges_are_equal_to_within_a_batch_and_cut_none(rows: int, batch_size: int, parts: int) -> None:
    ranges = row_ranges(rows, parts, batch_size)
    assert [row for each in ranges for row in each] == list(range(rows))
    bounds = batch_bounds(rows, batch_size).tolist()
    assert {each.start for each in ranges} <= set(bounds)
    batches = [bounds.index(each.stop) - bounds.index(each.start) for each in ranges]
    assert max(batches) - min(batches) <= 1
    assert len(ranges) == min(parts, len(bounds) - 1)


@settings(deadline=None)
@given(rows=ROWS, batch_size=SIZES, data=st.data())
def test_a_range_gets_the_batches_of_the_whole(rows: int, batch_size: int, data: st.DataObject) -> None:
    images = numbered(rows)
    start = data.draw(st.integers(0, rows))
    wanted = range(start, data.draw(st.integers(start, rows)))
    whole = [each.images_BHW3.tobytes() for each in batches_of(images, range(rows), batch_size)]
    found = list(batches_of(images, wanted, batch_size))
    assert {each.images_BHW3.tobytes() for each in found} <= set(whole)
    kept = [each.images_BHW3[each.keep] for each in found]
    assert np.array_equal(np.concatenate([images[:0], *kept]), images[wanted.start : wanted.stop])
    assert [each.first for each in found] == np.cumsum([0, *map(len, kept)])[:-1].tolist()


@settings(deadline=None)
@given(rows=ROWS, batch_size=SIZES, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_a_stream_is_cut_into_the_same_batches(rows: int, batch_size: int, cuts: list[int]) -> None:
    images = numbered(rows)
    stream = np.split(images, sorted(min(cut, rows) for cut in cuts))
    one, other = (
        [(each.first, each.images_BHW3[each.keep].tobytes()) for each in batches]
        for batches in (
            batches_of(images, range(rows), batch_size),
            rebatched(stream, rows, batch_size),
        )
    )
    assert one == other


def test_a_stream_is_not_read_ahead() -> None:
    taken = 0

    def stream() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for image in numbered(40):
            taken += 1
            yield image[None]

    next(iter(rebatched(stream(), 40, 10)))
    assert taken == 10


@pytest.mark.parametrize(("count", "message"), [(9, "more than the 9"), (11, "there are 10 images, and 11")])
def test_a_stream_of_another_length_is_refused(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(rebatched([numbered(10)], count, 4))


@pytest.mark.parametrize("wanted", [range(11), range(-1, 3), range(0, 10, 2)])
def test_rows_that_are_not_there_are_refused(wanted: range) -> None:
    with pytest.raises(ValueError, match="no stretch of 10 rows"):
        list(batches_of(numbered(10), wanted, 4))
