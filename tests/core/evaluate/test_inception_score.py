"""The inception score is exp of the mean divergence, between 1 and the number of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.inception_score import inception_score
from tests.core.evaluate.sets import features


def by_loops(logits: torch.Tensor) -> float:
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    q = p.mean(0)
    return float(np.exp(np.mean([sum(row * np.log(row / q)) for row in p])))


def test_it_is_the_formula_on_each_part() -> None:
    logits = 3 * features(50, 6)
    found = inception_score(logits, splits=4)
    parts = [by_loops(logits[start:end]) for start, end in ((0, 12), (12, 25), (25, 37), (37, 50))]
    assert found.mean == pytest.approx(np.mean(parts)) and found.sd == pytest.approx(np.std(parts))


def test_it_is_torch_fidelity_s() -> None:
    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is not installed")
    logits = (2 * features(103, 9)).float()
    theirs = isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    found = inception_score(logits)
    assert found.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert found.sd == pytest.approx(theirs["inception_score_std"], rel=1e-8)


def test_its_limits_are_one_and_the_number_of_classes() -> None:
    assert inception_score(torch.zeros(20, 5), splits=2).mean == pytest.approx(1)
    sure = 100 * torch.eye(5).repeat(4, 1)
    assert inception_score(sure, splits=2).mean == pytest.approx(5)


def test_classes_in_order_need_shuffling() -> None:
    by_class = 100 * torch.eye(5).repeat_interleave(20, 0)
    assert inception_score(by_class, splits=5).mean == pytest.approx(1)
    shuffled = inception_score(by_class, np.random.default_rng(0), splits=5)
    assert shuffled.mean > 4 and shuffled == inception_score(by_class, np.random.default_rng(0), splits=5)


def test_too_few_and_not_finite_are_refused() -> None:
    with pytest.raises(FeaturesUnusable, match="9 images in 10 parts"):
        inception_score(torch.zeros(9, 3))
    with pytest.raises(FeaturesUnusable, match="class logits: row 0"):
        inception_score(torch.full((10, 3), torch.nan))
