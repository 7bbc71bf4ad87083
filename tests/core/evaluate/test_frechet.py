"""The Frechet distance equals the textbook's with a matrix square root, and holds where that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.frechet import frechet_distance
from dcgan_core.evaluate.moments import Moments
from tests.core.evaluate.sets import features


def moments(x: torch.Tensor) -> Moments:
    found = Moments.empty(x.shape[1])
    found.update(x)
    return found


def by_square_root(x: torch.Tensor, y: torch.Tensor) -> float:
    s, t = (np.cov(each.numpy(), rowvar=False) for each in (x, y))
    apart = (x.mean(0) - y.mean(0)).numpy()
    return float(apart @ apart + np.trace(s + t - 2 * np.real(sqrtm(s @ t))))


def from_rows(x: torch.Tensor, y: torch.Tensor) -> float:
    """tr (S T)^(1/2) straight from the centred rows X and Y: the singular values of X Y', for any rank."""
    a, b = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in (x, y))
    root = float(torch.linalg.svdvals(a @ b.T).sum())
    apart = x.mean(0) - y.mean(0)
    return float(apart @ apart + a.square().sum() + b.square().sum()) - 2 * root


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 3.0), (2.0, 0.1)])
def test_it_is_the_textbook_s(shift: float, scale: float) -> None:
    x, y = features(400, 24), features(300, 24, seed=1, shift=shift, scale=scale)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(by_square_root(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(10, 12), (10, 300), (39, 41), (2, 2)])
def test_fewer_samples_than_features(n: int, m: int) -> None:
    x, y = features(n, 40), features(m, 40, seed=1, shift=0.3)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(from_rows(x, y), rel=1e-7)


@pytest.mark.parametrize("n", [20, 500])
def test_equal_sets_are_at_zero_and_distance_is_symmetric(n: int) -> None:
    x, y = moments(features(n, 60)), moments(features(n, 60, seed=1))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-10)


def test_known_gaussians_in_one_dimension_and_constants() -> None:
    narrow, wide = torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([[1.0], [7.0]]).double()
    sd = 2**0.5, 18**0.5
    assert frechet_distance(moments(narrow), moments(wide)) == pytest.approx(16 + (sd[1] - sd[0]) ** 2)
    same = torch.full((5, 3), 2.0).double()
    assert frechet_distance(moments(same), moments(same + 2)) == pytest.approx(12)
    spread = features(50, 3)
    found = frechet_distance(moments(same), moments(spread))
    assert found == pytest.approx(from_rows(same, spread))


def test_features_of_unequal_size_keep_their_small_parts() -> None:
    sizes = torch.logspace(-3, 3, 30).double()
    x, y = features(200, 30) * sizes, features(200, 30, seed=1) * sizes
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(from_rows(x, y), rel=1e-7)


def test_it_is_torch_fidelity_s() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    x, y = features(500, 64), features(400, 64, seed=1, shift=0.2)
    theirs = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(x), fid.fid_features_to_statistics(y), False
    )
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-8
    )


def test_other_widths_are_refused() -> None:
    with pytest.raises(FeaturesUnusable, match="3 and 4 features"):
        frechet_distance(moments(features(9, 3)), moments(features(9, 4)))
