"""A generator that copies is found out, one that draws from the distribution is not accused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.memorisation import memorisation
from tests.core.evaluate.sets import features, images

TRAINING, HELD_OUT = features(400, 6, seed=1), features(200, 6, seed=2)


def least_distances(queries: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    return np.array([min(np.linalg.norm(points.numpy() - q, axis=1)) for q in queries.numpy()])


def test_its_figures_are_those_of_the_loops() -> None:
    generated = 0.9 * features(50, 6, seed=3)
    found = memorisation(generated, TRAINING, HELD_OUT)
    drawn, held_out = least_distances(generated, TRAINING), least_distances(HELD_OUT, TRAINING)
    np.testing.assert_allclose(found.distance_M, drawn)
    np.testing.assert_allclose(found.held_out_distance_N, held_out)
    u = mannwhitneyu(drawn, held_out).statistic
    assert found.copying_z == pytest.approx((u - 5000) / (50 * 200 * 251 / 12) ** 0.5)
    assert found.nearer_share == pytest.approx(np.mean(drawn[:, None] < held_out[None]))
    assert found.copied_share == pytest.approx(np.mean(drawn < np.quantile(held_out, 0.01)))
    rows = torch.from_numpy(found.nearest_M)
    np.testing.assert_allclose((generated - TRAINING[rows]).norm(dim=1).numpy(), drawn)


def test_honest_samples_are_near_zero_copies_far_below_and_bad_ones_far_above() -> None:
    honest = memorisation(features(200, 6, seed=4), TRAINING, HELD_OUT)
    copied = memorisation(TRAINING[:200] + 1e-3, TRAINING, HELD_OUT)
    bad = memorisation(features(200, 6, seed=4, shift=2.0), TRAINING, HELD_OUT)
    assert abs(honest.copying_z) < 3 and honest.copied_share < 0.05
    assert copied.copying_z < -10 and copied.copied_share == 1 and copied.nearer_share == 1
    assert bad.copying_z > 3 and bad.copied_share == 0


def test_cells_find_copying_in_one_region_that_bad_samples_elsewhere_hide() -> None:
    left, right = -20.0, 20.0
    centres = torch.stack([torch.full((6,), left), torch.full((6,), right)]).double()
    training, held_out = (torch.cat([each + left, each + right]) for each in (TRAINING, HELD_OUT))
    copies = TRAINING[:100] + left + 1e-3
    bad = features(100, 6, seed=5, scale=2.5) + right
    one = memorisation(torch.cat([copies, bad]), training, held_out)
    two = memorisation(torch.cat([copies, bad]), training, held_out, centres=centres)
    alone = [
        memorisation(generated, TRAINING + side, HELD_OUT + side).copying_z
        for generated, side in ((copies, left), (bad, right))
    ]
    assert one.cells == 1 and two.cells == 2
    assert two.copying_z == pytest.approx(np.mean(alone))  # as many held-out images in each cell
    without_bad = memorisation(torch.cat([copies, bad[:19]]), training, held_out, centres=centres)
    assert without_bad.cells == 1 and without_bad.copying_z == pytest.approx(alone[0])


def test_pixels_are_compared_as_bytes() -> None:
    training, held_out, generated = (torch.from_numpy(images(n, 4, seed=n)) for n in (50, 30, 25))
    generated[:5] = training[10:15]
    found = memorisation(generated, training, held_out)
    assert found.nearest_M[:5].tolist() == [10, 11, 12, 13, 14] and not found.distance_M[:5].any()
    assert found.copied_share == pytest.approx(0.2, abs=0.05)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(FeaturesUnusable, match="held-out images: there are none"):
        memorisation(TRAINING, TRAINING, HELD_OUT[:0])
    with pytest.raises(FeaturesUnusable, match="no cell has 20 samples"):
        memorisation(HELD_OUT[:19], TRAINING, HELD_OUT)
