"""Orders are permutations that need no memory, and a run goes on exactly where it was, whatever its shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.shard.order import Positions, Sampler, Shuffle, balanced

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def phases(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """A run that is stopped and goes on in other shapes: (global batch, ranks, steps) of each stretch."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        batch = draw(st.integers(1, 12))
        found.append((batch, draw(st.integers(1, batch)), draw(st.integers(0, 9))))
    return found


@given(st.integers(1, 3000), SEEDS, st.integers(0, 100))
def test_a_shuffle_is_a_permutation_and_knows_its_inverse(count: int, seed: int, stream: int) -> None:
    shuffle, everything = Shuffle(count, seed, stream), np.arange(count)
    items = shuffle(everything)
    assert np.array_equal(np.sort(items), everything)
    assert np.array_equal(shuffle.places(items), everything)
    some = everything[:: max(1, count // 7)]
    assert np.array_equal(shuffle(some), items[some])  # what is asked for does not matter


@given(st.integers(2**33, 2**60), SEEDS, st.lists(st.integers(0, 2**33 - 1), min_size=1, max_size=20))
def test_a_shuffle_of_more_than_any_memory_holds_is_as_quick(count: int, seed: int, some: list[int]) -> None:
    shuffle, positions = Shuffle(count, seed), np.array(some)
    items = shuffle(positions)
    assert ((items >= 0) & (items < count)).all()
    assert np.array_equal(shuffle.places(items), positions)


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 8, 13, 16])
def test_every_item_comes_as_often_at_every_place(count: int) -> None:
    drawn = 4000
    orders = np.array([Shuffle(count, 5, stream)(np.arange(count)) for stream in range(drawn)])
    for pair in ((0, 1), (0, count - 1), (count // 2, count - 1)):
        if pair[0] == pair[1]:
            continue
        seen = np.bincount(orders[:, pair[0]] * count + orders[:, pair[1]], minlength=count**2)
        seen = seen.reshape(count, count)
        assert (np.diag(seen) == 0).all()
        expected = drawn / (count * (count - 1))
        off = seen[~np.eye(count, dtype=bool)]
        # Far beyond chance at these sizes; the seeds are fixed, so it does not come and go.
        assert np.abs(off - expected).max() < 6 * np.sqrt(expected)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(Shuffle(50, seed, epoch)(np.arange(50))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    neighbours = np.diff(Shuffle(10_000, 1)(np.arange(10_000)))
    assert len(np.unique(neighbours)) > 5_000  # no pattern that a first look would find


def test_there_must_be_something_to_put_in_order() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        Shuffle(0, 1)
    with pytest.raises(ValueError, match="at least one sample"):
        Positions(0, 1)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_stretches_cover_everything_and_differ_by_at_most_one(count: int, parts: int) -> None:
    stretches = balanced(count, parts)
    assert [position for stretch in stretches for position in stretch] == list(range(count))
    lengths = [len(stretch) for stretch in stretches]
    assert len(lengths) == parts
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 200), SEEDS, st.integers(0, 5))
def test_an_epoch_shows_every_sample_once(samples: int, seed: int, epoch: int) -> None:
    shown = Positions(samples, seed).take(epoch * samples, samples)
    assert sorted(shown.tolist()) == list(range(samples))


@given(st.integers(1, 50), SEEDS, st.integers(0, 200), st.lists(st.integers(0, 120), max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_taken(
    samples: int, seed: int, start: int, pieces: list[int]
) -> None:
    straight = Positions(samples, seed).take(start, sum(pieces))
    stream, taken, position = Positions(samples, seed), [], start
    for count in pieces:
        taken += stream.take(position, count).tolist()
        position += count
    assert taken == straight.tolist()
    jumping = Positions(samples, seed)
    for count in reversed(pieces):
        position -= count
        assert jumping.take(position, count).tolist() == taken[position - start : position - start + count]


@given(st.integers(1, 60), SEEDS, phases())
def test_a_run_that_goes_on_in_another_shape_shows_what_a_straight_one_shows(
    samples: int, seed: int, run: list[tuple[int, int, int]]
) -> None:
    shown: list[int] = []
    state = Sampler(samples, seed, 1).state_dict()
    for batch_size, ranks, steps in run:
        samplers = [Sampler(samples, seed, batch_size, rank=rank, world_size=ranks) for rank in range(ranks)]
        for sampler in samplers:
            sampler.load_state_dict(state)
        for _ in range(steps):
            shares = [next(sampler) for sampler in samplers]
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1
            shown += np.concatenate(shares).tolist()
        states = [sampler.state_dict() for sampler in samplers]
        assert all(each == states[0] for each in states)
        state = states[0]
    assert shown == Positions(samples, seed).take(0, len(shown)).tolist()
    assert state == {"epoch": len(shown) // samples, "samples_seen": len(shown) % samples}
    for epoch in range(len(shown) // samples):
        assert sorted(shown[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_a_state_of_other_samples_and_a_rank_without_a_share_are_refused() -> None:
    sampler = Sampler(10, 0, 4)
    for state in ({"epoch": 0, "samples_seen": 10}, {"epoch": -1, "samples_seen": 0}):
        with pytest.raises(ValueError, match="no state of a sampler of 10 samples"):
            sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="rank 4 of 5 has no share of batches of 4"):
        Sampler(10, 0, 4, rank=4, world_size=5)
