"""Which protocols a labelled set is judged by, and what learns: an L2-SVM, or nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from dcgan_core.config import EvaluateConfig, LabelledSet
from dcgan_core.evaluate.datasets import Labelled
from dcgan_core.evaluate.draws import per_class_draw, stratified_draw, stratified_split
from dcgan_core.evaluate.enough import CIFAR_LABELS, SVHN_LABELS, SVHN_VALIDATION
from dcgan_core.evaluate.neighbours import nearest, vote
from dcgan_core.evaluate.protocols import (
    SVHN_C,
    Features,
    Fitted,
    OneByOne,
    Outcome,
    Products,
    Rows,
    Split,
    all_labels,
    folds,
    outcome_of,
    repeated_draws,
)
from dcgan_core.evaluate.supervised import SearchTrial, random_search
from dcgan_core.evaluate.svm import L2SVM, gram_matrix, predict_all
from dcgan_core.models.specs import NetSpec
from dcgan_core.progress import Progress, share_of, silent

_VALIDATION, _PATIENCE = 5000, 15
_FEW_ROWS = 8192
"""Rows whose inner products take half a GiB at most."""
_ROUGH = 1e-3
"""How near an SVM comes to its optimum while values of C are compared, as a share of the objective."""


@dataclass(frozen=True)
class _FittedSVM:
    svm: L2SVM

    @property
    def converged(self) -> bool:
        return self.svm.converged_

    def predict(self, features_NF: Features) -> Rows:
        return np.asarray(self.svm.predict(features_NF), np.int64)


@dataclass(frozen=True)
class Svm:
    """L2-SVMs; values are C."""

    climbs: ClassVar[bool] = True
    device: str = "cpu"

    def path(
        self,
        features_NF: Features,
        labels_N: Rows,
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: Products | None = None,
        progress: Progress = silent,
    ) -> Iterator[Fitted]:
        svm = L2SVM(tol=_ROUGH, gap=_ROUGH, device=self.device) if rough else L2SVM(device=self.device)
        fits = svm.iter_path(features_NF, labels_N, values, products_NN, progress)
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # outcomes say it
                fitted = next(fits, None)
            if fitted is None:
                return
            yield _FittedSVM(fitted)

    def products(self, features_NF: Features) -> Products | None:
        samples, features = features_NF.shape
        if samples > min(features, _FEW_ROWS):
            return None
        return gram_matrix(cast("NDArray[np.floating]", features_NF), device=self.device)

    def predicted(self, fits: Sequence[Fitted], features_NF: Features) -> list[Rows]:
        svms = [cast("_FittedSVM", fit).svm for fit in fits]
        said = predict_all(svms, cast("NDArray[np.floating]", features_NF))
        return [np.asarray(said_N, np.int64) for said_N in said]


class _Surroundings:
    """The nearest rows of those that were last asked about: they are sought once, whatever k."""

    def __init__(self, features_NF: Features, labels_N: Rows, most: int, device: str) -> None:
        self._features_NF, self._labels_N, self._device = features_NF, labels_N, device
        self._most = min(most, len(labels_N))  # a fold of few labels may have fewer
        self._asked_QF: Features | None = None
        self._labels_QK = np.empty((0, 0), np.int64)

    def labels(self, features_QF: Features) -> Rows:
        """Labels (Q, most) of the nearest rows, nearest first."""
        if self._asked_QF is not features_QF:
            index_QK, _ = nearest(self._features_NF, features_QF, self._most, device=self._device)
            self._asked_QF, self._labels_QK = features_QF, self._labels_N[index_QK]
        return self._labels_QK


@dataclass(frozen=True)
class _Neighbourhood:
    around: _Surroundings
    k: int
    converged: bool = True

    def predict(self, features_NF: Features) -> Rows:
        return vote(self.around.labels(features_NF)[:, : self.k])


@dataclass(frozen=True)
class Neighbours(OneByOne):
    """Nearest neighbours; values are k. There is nothing to learn."""

    climbs: ClassVar[bool] = False
    device: str = "cpu"

    def path(
        self,
        features_NF: Features,
        labels_N: Rows,
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: Products | None = None,
        progress: Progress = silent,
    ) -> Sequence[Fitted]:
        around = _Surroundings(features_NF, labels_N, int(max(values)), self.device)
        return [_Neighbourhood(around, int(value)) for value in sorted(set(values))]


def outcomes(
    spec: LabelledSet,
    config: EvaluateConfig,
    data: Split,
    machine: Svm | Neighbours,
    *,
    seed: int,
    progress: Progress = silent,
) -> list[Outcome]:
    """Judge features by the protocols of their set. ConfigError where it has too few labels for one."""
    values: tuple[float, ...] = config.knn_k if isinstance(machine, Neighbours) else config.svm_c
    wanted = (CIFAR_LABELS,) if spec.protocol == "cifar10" else config.labels_per_class

    def turn(place: int) -> Progress:  # all labels first, then each of the few: about as long
        return share_of(progress, place / (1 + len(wanted)), (place + 1) / (1 + len(wanted)))

    def few(place: int, per_class: int) -> Outcome:
        return folds(
            data,
            machine,
            per_class=per_class,
            count=config.folds,
            svm_c=values,
            seed=seed,
            progress=turn(1 + place),
        )

    if spec.protocol == "svhn":
        return [
            repeated_draws(
                data,
                machine,
                per_class=SVHN_LABELS,
                judging=config.draws,
                validation=SVHN_VALIDATION,
                svm_c=values if isinstance(machine, Neighbours) else SVHN_C,
                seed=seed,
                progress=progress,
            )
        ]
    whole = all_labels(
        data, machine, svm_c=values, validation_share=config.validation_share, seed=seed, progress=turn(0)
    )
    return [whole, *(few(place, per_class) for place, per_class in enumerate(wanted))]


def supervised(
    spec: LabelledSet,
    config: EvaluateConfig,
    data: Labelled,
    net: NetSpec,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[Outcome, Sequence[SearchTrial]]:
    """A CNN of D's architecture, told as few labels as the set's protocol says (paper, section 5.2).

    Its settings are chosen on training images that it is not shown. One draw, one net: there is no
    deviation. Raises ConfigError where a class has too few images.
    """
    rng = np.random.default_rng(seed)
    labels_N = data.train_labels_N
    few = {"svhn": SVHN_LABELS, "cifar10": CIFAR_LABELS}.get(spec.protocol)
    few = few or (min(config.labels_per_class) if config.labels_per_class else None)
    if few:
        shown = per_class_draw(labels_N, few, rng)
        others = np.setdiff1d(np.arange(len(labels_N)), shown)
        most = SVHN_VALIDATION if spec.protocol == "svhn" else _VALIDATION
        held = others[stratified_draw(labels_N[others], most, rng)]
    else:
        shown, held = stratified_split(labels_N, config.validation_share, rng)
    found = random_search(
        net,
        data.train_images_NHW3[shown],
        labels_N[shown],
        data.train_images_NHW3[held],
        labels_N[held],
        data.test_images_NHW3,
        classes=len(data.classes),
        trials=config.supervised_trials,
        epochs=config.supervised_epochs,
        patience=_PATIENCE,
        seed=seed,
        device=device,
        progress=progress,
    )
    name = f"{few:,} labels per class" if few else "all labels"
    if spec.protocol == "svhn":
        name = f"{len(shown):,} labels"
    outcome = outcome_of(name, len(shown), data.test_labels_N, len(data.classes), [found.predictions_M])
    return outcome, found.trials
