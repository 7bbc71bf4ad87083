"""The verdict equals plain LinearSVC's, and test labels decide nothing but the count."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from dcgan_core.evaluate.draws import stratified_split
from dcgan_core.evaluate.protocol import Verdict, judge, pixel_features, wilson_interval

CS = (1e-4, 1e-3, 1e-2)

Halves = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def digits_in(features: int, train: int) -> Halves:
    """Digits through a random layer, so that there can be fewer rows than features."""
    digits = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    pixels, labels = digits
    weights = np.random.default_rng(0).normal(size=(64, features)) / 64
    values = np.maximum(pixels @ weights, 0)
    return values[:train], labels[:train], values[train : train + 300], labels[train : train + 300]


def judged(halves: Halves, *, seed: int = 0) -> Verdict:
    return judge(*halves, svm_c=CS, seed=seed, validation_share=0.25, tolerance=1e-6, max_iterations=20_000)


@pytest.mark.parametrize("features", [100, 1200], ids=["more-rows", "more-features"])
def test_the_verdict_equals_plain_linear_svc(features: int) -> None:
    x, y, test_x, test_y = halves = digits_in(features, 400)
    verdict = judged(halves)

    def plain(rows: NDArray[np.int64], c: float) -> LinearSVC:
        dual = features > len(rows)
        return LinearSVC(C=c, dual=dual, tol=1e-6, max_iter=20_000).fit(x[rows], y[rows])  # pyright: ignore[reportArgumentType]

    fitted, held = stratified_split(y, 0.25, np.random.default_rng(0))
    scores = [plain(fitted, c).score(x[held], y[held]) for c in CS]
    assert [trial.accuracy for trial in verdict.trials] == pytest.approx(scores, abs=0.011)  # one image
    predictions = plain(np.arange(len(y)), verdict.chosen_c).predict(test_x)
    assert np.mean(predictions == verdict.predictions_N) >= 0.995
    assert verdict.accuracy == np.mean(verdict.predictions_N == test_y) > 0.8
    assert verdict.converged


def test_shuffled_test_labels_change_neither_c_nor_predictions() -> None:
    x, y, test_x, test_y = digits_in(1200, 300)
    honest = judged((x, y, test_x, test_y))
    shuffled = judged((x, y, test_x, np.random.default_rng(1).permutation(test_y)))
    assert honest.trials == shuffled.trials
    assert honest.chosen_c == shuffled.chosen_c
    assert np.array_equal(honest.predictions_N, shuffled.predictions_N)
    assert shuffled.accuracy < 0.3 < honest.accuracy


def test_test_images_change_neither_c_nor_each_others_predictions() -> None:
    x, y, test_x, test_y = digits_in(1200, 300)
    whole = judged((x, y, test_x, test_y))
    part = judged((x, y, test_x[:50], test_y[:50]))
    assert whole.trials == part.trials
    assert np.array_equal(whole.predictions_N[:50], part.predictions_N)


def test_the_smallest_of_equally_good_c_is_taken() -> None:
    x = np.repeat([[1.0], [-1.0]], 20, axis=0)
    y = np.repeat([0, 1], 20)
    verdict = judge(x, y, x, y, svm_c=(1.0, 0.1, 10.0), seed=0, validation_share=0.25)
    assert {trial.accuracy for trial in verdict.trials} == {1.0}
    assert verdict.chosen_c == 0.1


def test_the_confusion_has_true_classes_as_rows() -> None:
    halves = digits_in(100, 300)
    verdict = judged(halves)
    assert verdict.confusion_CC.shape == (10, 10)
    assert np.array_equal(verdict.confusion_CC.sum(1), np.bincount(halves[3], minlength=10))
    assert np.array_equal(verdict.confusion_CC.sum(0), np.bincount(verdict.predictions_N, minlength=10))
    assert np.trace(verdict.confusion_CC) == round(verdict.accuracy * len(halves[3]))


def test_equal_training_images_are_no_trouble() -> None:
    x, y, test_x, test_y = digits_in(1200, 100)
    verdict = judged((np.repeat(x, 2, axis=0), np.repeat(y, 2), test_x, test_y))
    plain = LinearSVC(C=verdict.chosen_c, tol=1e-6, max_iter=20_000).fit(
        np.repeat(x, 2, axis=0), np.repeat(y, 2)
    )
    assert np.mean(plain.predict(test_x) == verdict.predictions_N) >= 0.995


def test_a_fit_that_was_cut_short_says_so() -> None:
    verdict = judge(*digits_in(1200, 300), svm_c=(1.0,), seed=0, validation_share=0.25, max_iterations=1)
    assert not verdict.converged
    assert not verdict.trials[0].converged


def test_wilson_interval_matches_known_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0


def test_pixel_features_are_the_image_in_minus_one_to_one() -> None:
    images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    images[0, 0, 0, 0], images[1, 2, 2, 2] = 0, 255
    features = pixel_features(images)
    assert features.shape == (2, 27) and features.dtype == np.float32
    assert features[0, 0] == -1 and features[1, -1] == 1
