"""Precision and recall are those of a loop over all balls, and torch-fidelity's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.manifold import precision_recall
from tests.core.evaluate.sets import features


def by_loops(real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, float]:
    def radius(of: int, among: np.ndarray) -> float:
        others = [other for other in range(len(among)) if other != of]
        return sorted(float(np.linalg.norm(among[of] - among[other])) for other in others)[k - 1]

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        radii = [radius(of, centres) for of in range(len(centres))]
        inside = [
            any(np.linalg.norm(point - centres[of]) <= radii[of] for of in range(len(centres)))
            for point in points
        ]
        return float(np.mean(inside))

    x, y = real.numpy(), generated.numpy()
    return share(y, x), share(x, y)


@pytest.mark.parametrize("block", [7, 16, 2048])
@pytest.mark.parametrize("k", [1, 3])
def test_they_are_those_of_the_loop_in_blocks_of_any_size(block: int, k: int) -> None:
    real, generated = features(40, 3), features(33, 3, seed=1, shift=0.5, scale=0.7)
    precision, recall = by_loops(real, generated, k)
    for dtype in (torch.float64, torch.float32):
        found = precision_recall(real.to(dtype), generated.to(dtype), neighbours=k, block=block)
        assert (found.precision, found.recall) == pytest.approx((precision, recall), abs=1e-6)
    assert 0 < precision < 1 and 0 < recall < 1


def test_they_are_torch_fidelity_s() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity is not installed")
    real, generated = features(300, 6), features(250, 6, seed=1, shift=0.4, scale=0.8)
    theirs = prc.prc_features_to_metric(generated, real, prc_neighborhood=3, verbose=False)
    found = precision_recall(real, generated, block=64)
    assert (found.precision, found.recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert found.precision != found.recall


def test_equal_sets_are_all_precise_and_all_drawn() -> None:
    x = features(60, 5).float()
    found = precision_recall(x, x, block=16)
    assert (found.precision, found.recall) == (1, 1)


def test_one_good_image_drawn_again_and_again_is_precise_and_recalls_nothing() -> None:
    real = features(80, 4)
    found = precision_recall(real, (real[:1] + 1e-3).repeat(80, 1))
    assert found.precision == 1 and found.recall < 0.05


def test_features_far_from_zero_lose_nothing() -> None:
    real, generated = features(60, 4), features(60, 4, seed=1, shift=0.5)
    near = precision_recall(real.float(), generated.float())
    assert precision_recall((real + 300).float(), (generated + 300).float()) == near


def test_too_few_and_not_finite_are_refused_by_name() -> None:
    x, bad = features(9, 3), torch.full((9, 3), torch.inf)
    with pytest.raises(FeaturesUnusable, match="real features: 3 rows have no neighbour number 3"):
        precision_recall(x[:3], x)
    with pytest.raises(FeaturesUnusable, match="generated features: row 0 and 8 others"):
        precision_recall(x, bad)
