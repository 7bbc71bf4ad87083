"""A linear SVM with squared hinge, LinearSVC's optimum, for features that fill the memory and more."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from dcgan_core.evaluate.svm_path import Effort, Precision, Route, solve_path
from dcgan_core.evaluate.svm_solver import Goal, Optimum
from dcgan_core.evaluate.svm_spaces import Blocks, FeatureSpace, gram_of
from dcgan_core.progress import Progress, silent

_validated: Any = validate_data  # its stub takes no arrays


class L2SVM(ClassifierMixin, BaseEstimator):
    """One-versus-rest linear SVMs: |w|^2 / 2 + b^2 / 2 + C sum of squared hinges, as liblinear's.

    The optimum is that of ``LinearSVC(C=C, loss="squared_hinge", intercept_scaling=1)``. Features may be
    float16, float32 or float64, and a numpy.memmap larger than memory: they are read in blocks, all classes
    in one pass, and never copied whole. Weights, losses and gradients are summed in float64. The same input
    gives the same output; nothing is random.

    C: weight of the losses.
    tol, gap: a class is done when its gradient's norm is at most ``tol`` times that at w = 0, and proves that
        its objective exceeds the least by a share of at most ``gap``.
    max_iter: Newton steps.
    fit_intercept: whether there is a b.
    route: "primal" seeks the weights of the features; "gram" seeks in the samples' span by their inner
        products, float64 (N, N); "auto" takes what costs less, never "gram" with more samples than features.
    device: torch's.
    precision: of the many products within a Newton step. "auto" is float32, and float64 for small sets or
        where float32 gets no further. So are gradients far from the end; all that is said of the end is
        float64.
    block_bytes: largest block of features; None: 64 MiB, on a GPU 256 MiB.
    warm_start: start from the last fit's weights where they have the same shape (primal route).
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-4,
        gap: float = 1e-5,
        max_iter: int = 100,
        fit_intercept: bool = True,
        route: Route = "auto",
        device: str = "cpu",
        precision: Precision = "auto",
        block_bytes: int | None = None,
        warm_start: bool = False,
    ) -> None:
        self.C = C
        self.tol = tol
        self.gap = gap
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.route: Route = route
        self.device = device
        self.precision: Precision = precision
        self.block_bytes = block_bytes
        self.warm_start = warm_start

    classes_: NDArray[Any]
    """Labels (K,) in order."""
    coef_: NDArray[np.float64]
    """(K, F); (1, F) for two classes, as LinearSVC's."""
    intercept_: NDArray[np.float64]
    """(K,) or (1,)."""
    n_iter_: int
    """Newton steps of the class that took most, at least 1."""
    objective_: float
    """Sum of the classes' objectives."""
    gradient_norm_: float
    """Largest norm of a class's gradient as a share of that at w = 0."""
    gap_: float
    """Largest share by which a class's objective can still exceed the least, by its gradient."""
    converged_: bool
    n_features_in_: int

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        gram: NDArray[np.floating] | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Fit to X (N, F) and labels y (N,). ``gram``: X X^T (N, N) where it is known (``gram_matrix``).

        ``progress`` is told of every pass over the samples. Warns (ConvergenceWarning) where ``max_iter``
        steps did not reach the optimum. Raises ValueError for settings and input that cannot be.
        """
        x_NF, signs_NK = self._begun(X, y, gram)
        start_KD = self._start(signs_NK.shape[1]) if self.warm_start else None
        (optimum,) = solve_path(
            x_NF,
            signs_NK,
            [float(self.C)],
            intercept=self.fit_intercept,
            effort=self._effort(),
            start_KD=start_KD,
            gram_NN=gram,
            progress=progress,
        )
        return self._ended(optimum)

    def fit_path(
        self, X: ArrayLike, y: ArrayLike, Cs: Sequence[float], gram: NDArray[np.floating] | None = None
    ) -> list[Self]:
        """A fitted copy of this estimator for every C, in the order given; self is left as it is.

        Small values of C are fitted first and the others start from them; inner products are formed once.
        """
        fitted = {model.C: model for model in self.iter_path(X, y, Cs, gram)}
        return [fitted[float(c)] for c in Cs]

    def iter_path(
        self,
        X: ArrayLike,
        y: ArrayLike,
        Cs: Sequence[float],
        gram: NDArray[np.floating] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Self]:
        """The same from the smallest C on, each fitted when it is asked for; none of a kind twice."""
        models = [cast("Self", clone(self)).set_params(C=c) for c in sorted({float(c) for c in Cs})]
        if not models:
            return
        for model in models:
            model._check_settings()
        first = models[0]
        x_NF, signs_NK = first._begun(X, y, gram)
        of_input = {name: vars(first)[name] for name in _OF_INPUT if name in vars(first)}
        optima = solve_path(
            x_NF,
            signs_NK,
            [model.C for model in models],
            intercept=self.fit_intercept,
            effort=self._effort(),
            gram_NN=gram,
            progress=progress,
        )
        for model, optimum in zip(models, optima, strict=True):
            vars(model).update(of_input)
            yield model._ended(optimum)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Distances from the planes, float64: (N, K), or (N,) for two classes."""
        check_is_fitted(self)
        x_NF = self._features(X)
        decisions_NK = _decisions(x_NF, self._weights(), self.fit_intercept, self.device, self.block_bytes)
        return decisions_NK[:, 0] if decisions_NK.shape[1] == 1 else decisions_NK

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Labels (N,)."""
        return self._labels(self.decision_function(X))

    def _begun(
        self, X: ArrayLike, y: ArrayLike, gram_NN: NDArray[np.floating] | None
    ) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
        """Features and signs (N, K), or (N, 1) for two classes; notes the classes."""
        self._check_settings()
        x_NF, y_N = cast(
            "tuple[NDArray[np.floating], NDArray[Any]]",
            _validated(self, X, y, dtype=_FLOATS, ensure_all_finite=False),
        )
        _check_finite(x_NF)
        check_classification_targets(y_N)
        classes_K, places_N = np.unique(y_N, return_inverse=True)
        if len(classes_K) < 2:
            raise ValueError(
                f"L2SVM needs samples of at least 2 classes, but there is only one class: {classes_K[0]!r}"
            )
        if gram_NN is not None and (self.route == "primal" or gram_NN.shape != (len(x_NF), len(x_NF))):
            raise ValueError(
                f"gram is X X^T of the {len(x_NF)} samples, for the routes 'auto' and 'gram'; "
                f"here its shape is {gram_NN.shape} and the route {self.route!r}"
            )
        self.classes_ = classes_K
        columns_K = np.arange(len(classes_K)) if len(classes_K) > 2 else np.ones(1, np.int64)
        return x_NF, np.where(places_N[:, None] == columns_K, 1.0, -1.0)

    def _features(self, X: ArrayLike) -> NDArray[np.floating]:
        x_NF = _validated(self, X, dtype=_FLOATS, ensure_all_finite=False, reset=False)
        _check_finite(cast("NDArray[np.floating]", x_NF))
        return cast("NDArray[np.floating]", x_NF)

    def _check_settings(self) -> None:
        for name in ("C", "tol", "gap", "max_iter", "block_bytes"):
            value = getattr(self, name)
            if name == "block_bytes" and value is None:
                continue
            if not isinstance(value, Real) or not 0 < float(value) < np.inf:
                raise ValueError(f"{name} must be a number above 0, but it is {value!r}")
        for name, allowed in (("route", ROUTES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, but it is {getattr(self, name)!r}")

    def _effort(self) -> Effort:
        return Effort(
            goal=Goal(float(self.tol), float(self.gap)),
            most=int(self.max_iter),
            route=self.route,
            precision=self.precision,
            device=self.device,
            block_bytes=self.block_bytes,
        )

    def _start(self, classes: int) -> NDArray[np.float64] | None:
        fits = hasattr(self, "coef_") and self.coef_.shape == (classes, self.n_features_in_)
        return self._weights() if fits else None

    def _weights(self) -> NDArray[np.float64]:
        """(K, F), and the intercept in a last column where there is one."""
        return np.column_stack([self.coef_, self.intercept_]) if self.fit_intercept else self.coef_

    def _ended(self, optimum: Optimum) -> Self:
        weights_KD = optimum.weights_KD.cpu().numpy()
        features = self.n_features_in_
        self.coef_ = np.ascontiguousarray(weights_KD[:, :features])
        self.intercept_ = weights_KD[:, features] if self.fit_intercept else np.zeros(len(weights_KD))
        self.n_iter_ = max(1, optimum.iterations)
        self.objective_ = float(optimum.objectives_K.sum())
        self.gradient_norm_ = float(optimum.gradients_K.max())
        self.gap_ = float(optimum.gaps_K.max())
        self.converged_ = bool(optimum.converged_K.all())
        if not self.converged_:
            warnings.warn(
                f"L2SVM(C={self.C:g}) ended after {self.n_iter_} steps short of its optimum (relative "
                f"gradient {self.gradient_norm_:.1e}, objective within {self.gap_:.1e}); raise max_iter, "
                "scale the features or lower C",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _labels(self, decisions: NDArray[np.float64]) -> NDArray[Any]:
        places_N = (decisions > 0).astype(np.int64) if decisions.ndim == 1 else decisions.argmax(1)
        return self.classes_[places_N]


def predict_all(models: Sequence[L2SVM], X: ArrayLike) -> list[NDArray[Any]]:
    """Labels (N,) by every model, in one pass over X (N, F), with the first one's device and blocks.

    All must be fitted to the same number of features, all with an intercept or all without.
    """
    for model in models:
        check_is_fitted(model)
    first = models[0]
    x_NF, weights_KD = first._features(X), np.concatenate([model._weights() for model in models])
    decisions_NK = _decisions(x_NF, weights_KD, first.fit_intercept, first.device, first.block_bytes)
    ends = np.cumsum([len(model.coef_) for model in models])
    return [
        model._labels(own_NK[:, 0] if own_NK.shape[1] == 1 else own_NK)
        for model, own_NK in zip(models, np.split(decisions_NK, ends[:-1], axis=1), strict=True)
    ]


def gram_matrix(
    X: NDArray[np.floating], *, device: str = "cpu", block_bytes: int | None = None
) -> NDArray[np.float64]:
    """X X^T, float64 (N, N): ``fit``'s ``gram``. For fits on some rows take ``gram[np.ix_(rows, rows)]``."""
    return gram_of(Blocks(X, device=device, block_bytes=block_bytes)).cpu().numpy()


ROUTES = ("auto", "primal", "gram")
PRECISIONS = ("auto", "float32", "float64")
_FLOATS = (np.float32, np.float64, np.float16)
"""Types that features keep; others become the first."""
_CHECKED = 2**20  # features at a time
_OF_INPUT = ("classes_", "n_features_in_", "feature_names_in_")


def _decisions(
    x_NF: NDArray[np.floating],
    weights_KD: NDArray[np.float64],
    intercept: bool,
    device: str,
    block_bytes: int | None,
) -> NDArray[np.float64]:
    blocks = Blocks(x_NF, device=device, block_bytes=block_bytes)
    space = FeatureSpace(blocks, intercept=intercept, quick=torch.float64)
    return space.decided(torch.from_numpy(weights_KD).to(blocks.device)).cpu().numpy()


def _check_finite(x_NF: NDArray[np.floating]) -> None:
    """Raise ValueError as scikit-learn does, without its temporary as large as the features."""
    step = max(1, _CHECKED // x_NF.shape[1])
    for start in range(0, len(x_NF), step):
        block_BF = x_NF[start : start + step]
        if block_BF.dtype == np.float16:
            block_BF = block_BF.astype(np.float32)  # numpy sums float16 slowly
        assert_all_finite(block_BF, input_name="X")
