"""How good features are: the accuracy of an L2-SVM on them, its C chosen without the test set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from dcgan_core.evaluate.draws import stratified_split


@dataclass(frozen=True)
class Trial:
    """One value of C, fitted on part of the training set and scored on the rest of it."""

    c: float
    accuracy: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a set of features is worth, with the evidence."""

    accuracy: float
    """Share of test images classified rightly."""
    ci95_low: float
    ci95_high: float
    """Wilson's 95 % interval of ``accuracy``; it covers the draw of test images, nothing else."""
    chosen_c: float
    trials: tuple[Trial, ...]
    """All values of C in the order given; the smallest among the best was chosen."""
    converged: bool
    """Whether the final fit reached its tolerance."""
    predictions_N: NDArray[np.int64]
    confusion_CC: NDArray[np.int64]
    """Test images by true class (row) and predicted class (column)."""


def judge(
    train_features_NF: NDArray[np.floating],
    train_labels_N: NDArray[np.int64],
    test_features_MF: NDArray[np.floating],
    test_labels_M: NDArray[np.int64],
    *,
    svm_c: Sequence[float],
    seed: int,
    validation_share: float,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
) -> Verdict:
    """One-versus-rest linear SVMs (squared hinge, L2 on weights and intercept), features unscaled.

    Labels are 0, 1, ... . C is the best of ``svm_c`` on a stratified ``validation_share`` of the training
    set (the smaller of equals); the SVM is then fitted to the whole training set. Test labels only count
    the result. ``max_iterations`` bounds liblinear's passes; a fit that needs more is said not to have
    converged. Paper, sections 5.1 and 5.2. Raises ConfigError where a class has a single training image.
    """
    train_NF, test_MF = _in_span(train_features_NF, test_features_MF)
    fitted, held = stratified_split(train_labels_N, validation_share, np.random.default_rng(seed))
    trials = []
    for c in svm_c:
        svm, converged = _fit(train_NF[fitted], train_labels_N[fitted], c, seed, tolerance, max_iterations)
        accuracy = float(np.mean(svm.predict(train_NF[held]) == train_labels_N[held]))
        trials.append(Trial(c, accuracy, converged))
    chosen = min(trials, key=lambda trial: (-trial.accuracy, trial.c))
    svm, converged = _fit(train_NF, train_labels_N, chosen.c, seed, tolerance, max_iterations)
    predictions_M = np.asarray(svm.predict(test_MF), np.int64)
    right = int(np.sum(predictions_M == test_labels_M))
    low, high = wilson_interval(right, len(test_labels_M))
    return Verdict(
        accuracy=right / len(test_labels_M),
        ci95_low=low,
        ci95_high=high,
        chosen_c=chosen.c,
        trials=tuple(trials),
        converged=converged,
        predictions_N=predictions_M,
        confusion_CC=_confusion(test_labels_M, predictions_M, int(train_labels_N.max()) + 1),
    )


def pixel_features(images_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The raw-pixel baseline: the image itself in [-1, 1], flattened, float32 (N, H x W x 3)."""
    return images_NHW3.reshape(len(images_NHW3), -1).astype(np.float32) / 127.5 - 1


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of the share ``right / total``; ``total`` > 0."""
    z = 1.959964
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _in_span(
    train_NF: NDArray[np.floating], test_MF: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sets in coordinates of the training rows' span (N, N) where that is smaller than F.

    An L2-SVM's weights lie in that span and its loss knows only inner products, so the optimum and every
    decision value stay as they are, while the work falls from N x F to N x N / 2 (triangular rows).
    """
    train64_NF: NDArray[np.float64] = train_NF.astype(np.float64, copy=False)
    test64_MF: NDArray[np.float64] = test_MF.astype(np.float64, copy=False)
    if len(train_NF) >= train_NF.shape[1]:
        return train64_NF, test64_MF
    gram_NN = train64_NF @ train64_NF.T
    # Equal images make it singular. The squared hinge puts 1 / (2 C) here anyway, which dwarfs this.
    gram_NN[np.diag_indices_from(gram_NN)] += 1e-10 * np.trace(gram_NN) / len(gram_NN) + 1e-12
    lower_NN = np.asarray(np.linalg.cholesky(gram_NN), np.float64)
    return lower_NN, np.asarray(solve_triangular(lower_NN, train64_NF @ test64_MF.T, lower=True).T)


def _fit(
    features_NF: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    c: float,
    seed: int,
    tolerance: float,
    max_iterations: int,
) -> tuple[LinearSVC, bool]:
    # With C large against few rows the primal solver stops far from the optimum and calls it converged.
    dual: Any = len(features_NF) <= features_NF.shape[1]
    svm = LinearSVC(C=c, dual=dual, tol=tolerance, max_iter=max_iterations, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        svm.fit(features_NF, labels_N)
    return svm, not any(issubclass(each.category, ConvergenceWarning) for each in caught)


def _confusion(true_N: NDArray[np.int64], said_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    confusion_CC = np.zeros((classes, classes), np.int64)
    np.add.at(confusion_CC, (true_N, said_N), 1)
    return confusion_CC
