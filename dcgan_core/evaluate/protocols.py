"""The paper's protocols: which rows are learned from, which choose C, which are judged; each by a seed.

A protocol is given features and a machine, and knows neither images nor files. C is chosen on rows of the
training part alone; the test part is looked at once, after that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dcgan_core.evaluate.draws import held_out, per_class_draw, stratified_folds, stratified_split
from dcgan_core.progress import Progress, share_of, silent

Rows = NDArray[np.int64]
Features = NDArray[np.generic]
"""(N, F); may be a memory-mapped file: rows are taken as they are wanted."""
Products = NDArray[np.float64]
"""(N, N)."""

SVHN_C = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
"""The authors' candidates for SVHN (dcgan.md, section 3)."""
_CHOOSING = 0.6
"""Share of learning from all labels, as it is reported, in which C is chosen."""


class Fitted(Protocol):
    """A classifier that has learned."""

    @property
    def converged(self) -> bool: ...

    def predict(self, features_NF: Features) -> Rows: ...


class Machine(Protocol):
    """What learns: fits of the same rows under several values of C (or of k)."""

    climbs: ClassVar[bool]
    """Whether larger values take so much longer that none is tried once the accuracy has fallen."""

    def path(
        self,
        features_NF: Features,
        labels_N: Rows,
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: Products | None = None,
        progress: Progress = silent,
    ) -> Iterable[Fitted]:
        """From the smallest value on, each made when it is asked for; ``rough``: near enough to compare.

        ``products_NN``: what ``products`` said of these rows. ``progress``: of all values.
        """
        ...

    def products(self, features_NF: Features) -> Products | None:
        """Inner products of rows that are learned from several times, where these save time."""
        ...

    def predicted(self, fits: Sequence[Fitted], features_NF: Features) -> list[Rows]:
        """What each says of the same rows, (N,); as few passes over these as can be."""
        ...


class OneByOne:
    """A machine whose fits have nothing to share when they predict."""

    climbs: ClassVar[bool] = True

    def products(self, features_NF: Features) -> Products | None:
        return None

    def predicted(self, fits: Sequence[Fitted], features_NF: Features) -> list[Rows]:
        return [fit.predict(features_NF) for fit in fits]


@dataclass(frozen=True, eq=False)
class Split:
    """Features and labels of a set's two parts."""

    train_NF: Features
    train_labels_N: Rows
    test_MF: Features
    test_labels_M: Rows


@dataclass(frozen=True)
class Trial:
    """One value of C: its accuracy on rows that were held back, averaged over ``draws``."""

    c: float
    accuracy: float
    draws: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a protocol found."""

    protocol: str
    """Its name in tables, such as `400 labels per class`."""
    train: int
    """Labelled rows that each fit has learned from."""
    test: int
    accuracies: tuple[float, ...]
    """On the test part, one a fold or draw."""
    chosen_c: tuple[float, ...]
    """As ``accuracies``; a single one where it was chosen once for all."""
    trials: tuple[Trial, ...]
    converged: bool
    """Whether every fit that was judged reached its tolerance."""
    predictions_M: Rows
    """Of the first fold or draw."""
    confusion_CC: NDArray[np.int64]
    """Test rows by true (row) and predicted class, summed over all folds or draws."""

    @property
    def accuracy(self) -> float:
        """Mean over folds or draws."""
        return float(np.mean(self.accuracies))

    @property
    def sd(self) -> float | None:
        """Standard deviation over folds or draws (n - 1); None for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None


def all_labels(
    data: Split,
    machine: Machine,
    *,
    svm_c: Sequence[float],
    validation_share: float,
    seed: int,
    progress: Progress = silent,
) -> Outcome:
    """Learn from the whole training part; C by the accuracy on a stratified share of it (paper, 5.1).

    C are tried from the smallest on until the accuracy has fallen (``_climbed``): the larger they are the
    longer they take. Raises ConfigError where a class has a single row.
    """
    fitted, held = stratified_split(data.train_labels_N, validation_share, np.random.default_rng(seed))
    doing = f"choosing C on {len(held):,} images"
    progress(0, 1, doing)
    choosing = _noted(share_of(progress, 0, _CHOOSING), doing)
    trials = _climbed(machine, data.train_NF, data.train_labels_N, [(fitted, held)], svm_c, progress=choosing)
    chosen, doing = best_of(trials).c, f"learning from all {len(data.train_labels_N):,} labels"
    progress(_CHOOSING, 1, doing)
    learning = _noted(share_of(progress, _CHOOSING, 1), doing)
    (machine_of_all,) = machine.path(data.train_NF, data.train_labels_N, [chosen], progress=learning)
    predictions_M = machine_of_all.predict(data.test_MF)
    return outcome_of(
        "all labels",
        len(data.train_labels_N),
        data.test_labels_M,
        _classes(data),
        [predictions_M],
        chosen_c=(chosen,),
        trials=trials,
        converged=machine_of_all.converged,
    )


def folds(
    data: Split,
    machine: Machine,
    *,
    per_class: int,
    count: int,
    svm_c: Sequence[float],
    inner: int = 5,
    seed: int,
    progress: Progress = silent,
) -> Outcome:
    """``count`` disjoint draws of ``per_class`` labels a class, each with a C of its own (paper, table 1).

    C is chosen by cross-validation within the draw, of ``inner`` folds or one a label where there are fewer
    (at least two), so that no other label has a say. Raises ConfigError where a class has too few rows for
    all draws.
    """
    rng = np.random.default_rng(seed)
    drawn = per_class_draw(data.train_labels_N, per_class * count, rng)
    predictions, chosen, all_trials, converged = [], [], [], True
    for number, rows in enumerate(stratified_folds(data.train_labels_N, drawn, count)):
        progress(number, count, f"fold {number + 1} of {count}, {per_class} labels a class")
        own_NF, own_N = _rows(data.train_NF, rows), data.train_labels_N[rows]
        within = Split(own_NF, own_N, data.test_MF, data.test_labels_M)
        products = machine.products(own_NF)
        trials = cross_validated(within, machine, svm_c, min(inner, per_class), rng, products)
        chosen.append(best_of(trials).c)
        all_trials.append(trials)
        (fitted,) = machine.path(own_NF, own_N, [chosen[-1]], products_NN=products)
        predictions.append(fitted.predict(data.test_MF))
        converged &= fitted.converged
    name, classes = f"{per_class:,} labels per class", _classes(data)
    trials = averaged(all_trials)
    return outcome_of(
        name,
        per_class * classes,
        data.test_labels_M,
        classes,
        predictions,
        chosen_c=tuple(chosen),
        trials=trials,
        converged=converged,
    )


def repeated_draws(
    data: Split,
    machine: Machine,
    *,
    per_class: int,
    choosing: int = 10,
    judging: int = 100,
    validation: int = 10_000,
    svm_c: Sequence[float] = SVHN_C,
    seed: int,
    progress: Progress = silent,
) -> Outcome:
    """The authors' protocol for SVHN (paper, section 5.2).

    ``validation`` rows of the training part are held back. C: the best mean accuracy on these over
    ``choosing`` draws of ``per_class`` labels a class. Judged: the test accuracy over ``judging`` fresh
    draws with that C. All draws come from the other rows. Raises ConfigError where there are too few.
    """
    rng = np.random.default_rng(seed)
    pool, held = held_out(data.train_labels_N, validation, rng)
    held_NF, held_N = _rows(data.train_NF, held), data.train_labels_N[held]

    def fits(values: Sequence[float]) -> Iterable[Fitted]:
        rows = pool[per_class_draw(data.train_labels_N[pool], per_class, rng)]
        return machine.path(_rows(data.train_NF, rows), data.train_labels_N[rows], values)

    total, all_trials = choosing + judging, []
    for number in range(choosing):
        progress(number, total, f"choosing C, draw {number + 1} of {choosing}")
        tried = list(fits(svm_c))
        said = machine.predicted(tried, held_NF)
        all_trials.append(
            tuple(
                Trial(c, _share(said_N, held_N), 1, fit.converged)
                for c, said_N, fit in zip(sorted(set(svm_c)), said, tried, strict=True)
            )
        )
    trials = averaged(all_trials)
    chosen, judged = best_of(trials).c, []
    for number in range(judging):
        progress(choosing + number, total, f"draw {number + 1} of {judging}")
        judged.extend(fits([chosen]))
    classes = _classes(data)
    name = f"{per_class * classes:,} labels"
    return outcome_of(
        name,
        per_class * classes,
        data.test_labels_M,
        classes,
        machine.predicted(judged, data.test_MF),
        chosen_c=(chosen,),
        trials=trials,
        converged=all(fit.converged for fit in judged),
    )


def cross_validated(
    data: Split,
    machine: Machine,
    svm_c: Sequence[float],
    count: int,
    rng: np.random.Generator,
    products_NN: Products | None = None,
) -> tuple[Trial, ...]:
    """Each C, as far as they are tried, by its mean accuracy over ``count`` folds of the training part."""
    labels_N = data.train_labels_N
    everything = rng.permutation(len(labels_N))
    parts = [(np.setdiff1d(everything, held), held) for held in stratified_folds(labels_N, everything, count)]
    return _climbed(machine, data.train_NF, labels_N, parts, svm_c, products_NN)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The highest accuracy; of equals the smallest C."""
    return min(trials, key=lambda trial: (-trial.accuracy, trial.c))


def averaged(tried: Sequence[Sequence[Trial]]) -> tuple[Trial, ...]:
    """Values of C that were tried several times, each over as many draws as got to it."""
    by_c: dict[float, list[Trial]] = {}
    for trial in sorted((each for trials in tried for each in trials), key=lambda trial: trial.c):
        by_c.setdefault(trial.c, []).append(trial)
    return tuple(
        Trial(
            c,
            float(np.mean([each.accuracy for each in same])),
            sum(each.draws for each in same),
            all(each.converged for each in same),
        )
        for c, same in by_c.items()
    )


def outcome_of(
    name: str,
    train: int,
    labels_M: Rows,
    classes: int,
    predictions: Sequence[Rows],
    *,
    chosen_c: tuple[float, ...] = (),
    trials: tuple[Trial, ...] = (),
    converged: bool = True,
) -> Outcome:
    """What the predictions (M,) of each fold or draw are worth beside the test part's labels."""
    confusion_CC = np.zeros((classes, classes), np.int64)
    for said_M in predictions:
        np.add.at(confusion_CC, (labels_M, said_M), 1)
    return Outcome(
        protocol=name,
        train=train,
        test=len(labels_M),
        accuracies=tuple(_share(said_M, labels_M) for said_M in predictions),
        chosen_c=chosen_c,
        trials=trials,
        converged=converged,
        predictions_M=predictions[0],
        confusion_CC=confusion_CC,
    )


def row_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as files and records keep it, but for its predictions."""
    right = round(outcome.accuracy * outcome.test)
    return {
        "protocol": outcome.protocol,
        "train": outcome.train,
        "test": outcome.test,
        "accuracy": outcome.accuracy,
        "sd": outcome.sd,
        "accuracies": list(outcome.accuracies),
        "ci95": list(wilson_interval(right, outcome.test)),
        "c": float(np.median(outcome.chosen_c)) if outcome.chosen_c else None,
        "chosen_c": list(outcome.chosen_c),
        "trials": [vars(trial) for trial in outcome.trials],
        "converged": outcome.converged,
        "confusion": outcome.confusion_CC.tolist(),
    }


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of the share ``right / total``; ``total`` > 0."""
    z = 1.959964
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _climbed(
    machine: Machine,
    features_NF: Features,
    labels_N: Rows,
    parts: Sequence[tuple[Rows, Rows]],
    svm_c: Sequence[float],
    products_NN: Products | None = None,
    progress: Progress = silent,
) -> tuple[Trial, ...]:
    """Mean accuracy over (fitted, held) rows, from the smallest C on until it has plainly fallen; of all k.

    That is: by more than its standard error below the best, or twice in a row below it. Large C take the
    longest by far, and fit the training rows ever closer. ``progress`` is of one part: with several it would
    go back.
    """
    values = sorted(set(svm_c))
    paths = [
        iter(
            machine.path(
                _rows(features_NF, fitted),
                labels_N[fitted],
                values,
                rough=True,
                products_NN=None if products_NN is None else products_NN[np.ix_(fitted, fitted)],
                progress=progress,
            )
        )
        for fitted, _ in parts
    ]
    held = [(_rows(features_NF, rows), labels_N[rows]) for _, rows in parts]
    many, best, falls, trials = sum(len(rows) for _, rows in parts), 0.0, 0, []
    for c in values:
        fits = [next(path) for path in paths]
        shares = [_share(fit.predict(own_NF), own_N) for fit, (own_NF, own_N) in zip(fits, held, strict=True)]
        accuracy = float(np.mean(shares))
        trials.append(Trial(c, accuracy, len(parts), all(fit.converged for fit in fits)))
        falls = falls + 1 if accuracy < best else 0
        best = max(best, accuracy)
        if machine.climbs and (falls > 1 or best - accuracy > math.sqrt(best * (1 - best) / many)):
            break
    return tuple(trials)


def _noted(progress: Progress, doing: str) -> Progress:
    """The same with what is being done behind each note, where a short line ends first."""
    return lambda done, total, note: progress(done, total, f"{note}, {doing}")


def _rows(features_NF: Features, rows: Rows) -> Features:
    """Some rows in memory, as they are kept."""
    return np.asarray(features_NF[rows])


def _classes(data: Split) -> int:
    return int(max(data.train_labels_N.max(), data.test_labels_M.max())) + 1


def _share(said_N: Rows, labels_N: Rows) -> float:
    return float(np.mean(said_N == labels_N))
