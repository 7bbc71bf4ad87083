"""Diversity is that of all pairs, and the Vendi score counts what differs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.diversity import mean_pairwise_distance, vendi_score
from dcgan_core.train.quality import diversity
from tests.core.evaluate.sets import features


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_mean_distance_is_that_of_all_pairs(block: int) -> None:
    x = features(23, 5, shift=10.0)
    pairs = [float((a - b).norm()) for a, b in itertools.combinations(x, 2)]
    found = mean_pairwise_distance(x, block=block)
    assert found == pytest.approx(sum(pairs) / len(pairs) / 5**0.5, rel=1e-9)
    assert found == pytest.approx(diversity(x.view(23, 5, 1, 1)), rel=1e-4)


@pytest.mark.parametrize(("n", "f"), [(20, 6), (6, 20)])
def test_vendi_score_is_the_entropy_of_the_whole_kernel(n: int, f: int) -> None:
    x = features(n, f)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2)
    shares = torch.linalg.eigvalsh(cosines / n).clamp(min=1e-300)
    assert vendi_score(x) == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-8)


def test_vendi_score_counts_what_differs() -> None:
    assert vendi_score(torch.ones(9, 4)) == pytest.approx(1)
    assert vendi_score(torch.eye(7)) == pytest.approx(7)
    assert vendi_score(torch.eye(3).repeat(5, 1)) == pytest.approx(3)


def test_what_has_no_pairs_or_no_direction_is_refused() -> None:
    with pytest.raises(FeaturesUnusable, match="fewer than two rows"):
        mean_pairwise_distance(torch.zeros(1, 3))
    with pytest.raises(FeaturesUnusable, match="row 2 is all 0"):
        vendi_score(torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
