"""Protocols learn, choose and judge on the rows that the paper says, and on no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.protocols import (
    OneByOne,
    Outcome,
    Split,
    all_labels,
    averaged,
    best_of,
    cross_validated,
    folds,
    repeated_draws,
    wilson_interval,
)
from dcgan_core.progress import Progress, silent

CLASSES, WIDTH = 4, 6
C = (1e-3, 1e-1, 10.0)


def data(train: int = 400, test: int = 100, seed: int = 0) -> Split:
    """Four overlapping clouds; the first column is the row's number, so that fits can be told apart."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CLASSES, WIDTH))

    def part(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = np.arange(count) % CLASSES
        clouds = centres[labels] + random.normal(scale=0.8, size=(count, WIDTH))
        return np.column_stack([np.arange(count) * 1e-9, clouds]).astype(np.float32), labels

    return Split(*part(train), *part(test))


@dataclass
class Liblinear(OneByOne):
    """Fits with scikit-learn and notes what it was shown."""

    shown: list[tuple[NDArray[np.int64], tuple[float, ...]]] = field(default_factory=list)

    def path(
        self,
        features_NF: NDArray[np.generic],
        labels_N: NDArray[np.int64],
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: NDArray[np.float64] | None = None,
        progress: Progress = silent,
    ) -> list[_Fit]:
        self.shown.append(
            (np.rint(np.asarray(features_NF, np.float64)[:, 0] * 1e9).astype(int), tuple(values))
        )
        return [_Fit(LinearSVC(C=c, random_state=0).fit(features_NF, labels_N)) for c in values]


@dataclass
class _Fit:
    svm: LinearSVC
    converged: bool = True

    def predict(self, features_NF: NDArray[np.generic]) -> NDArray[np.int64]:
        return np.asarray(self.svm.predict(features_NF), np.int64)


def run(name: str, split: Split, seed: int = 0) -> tuple[Outcome, Liblinear]:
    machine = Liblinear()
    if name == "all":
        return all_labels(split, machine, svm_c=C, validation_share=0.25, seed=seed), machine
    if name == "folds":
        return folds(split, machine, per_class=10, count=5, svm_c=C, inner=4, seed=seed), machine
    return (
        repeated_draws(
            split, machine, per_class=10, choosing=3, judging=7, validation=200, svm_c=C, seed=seed
        ),
        machine,
    )


NAMES = ("all", "folds", "draws")


@pytest.mark.parametrize("name", NAMES)
def test_test_labels_have_no_say_in_anything_but_the_result(name: str) -> None:
    split = data()
    shuffled = replace(split, test_labels_M=np.random.default_rng(1).permutation(split.test_labels_M))
    (ours, first), (theirs, second) = run(name, split), run(name, shuffled)
    assert ours.trials == theirs.trials
    assert ours.chosen_c == theirs.chosen_c
    assert np.array_equal(ours.predictions_M, theirs.predictions_M)
    assert ours.accuracy > theirs.accuracy + 0.2
    for (one, _), (other, _) in zip(first.shown, second.shown, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_test_images_have_no_say_in_the_choice_of_c(name: str) -> None:
    split = data()
    other = replace(split, test_MF=np.zeros_like(split.test_MF))
    assert run(name, split)[0].trials == run(name, other)[0].trials


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_all(name: str) -> None:
    one, same, other = (run(name, data(), seed)[0] for seed in (0, 0, 1))
    assert (one.trials, one.accuracies) == (same.trials, same.accuracies)
    assert one.trials != other.trials


def test_all_labels_are_learned_from_in_the_end() -> None:
    outcome, machine = run("all", data())
    (choosing, values), (last, final) = machine.shown
    assert len(choosing) == 300
    assert values == C
    assert sorted(last) == list(range(400))
    assert final == outcome.chosen_c == (best_of(outcome.trials).c,)
    split = data()
    svm = LinearSVC(C=final[0], random_state=0).fit(split.train_NF, split.train_labels_N)
    assert outcome.accuracies == (pytest.approx(svm.score(split.test_MF, split.test_labels_M)),)
    assert outcome.sd is None


def test_folds_are_disjoint_and_balanced_and_choose_within_themselves() -> None:
    split = data()
    outcome, machine = run("folds", split)
    judged = [rows for rows, values in machine.shown if len(values) == 1]
    assert len(judged) == len(outcome.accuracies) == len(outcome.chosen_c) == 5
    everything = np.concatenate(judged)
    assert len(set(everything)) == 5 * 10 * CLASSES
    for rows in judged:
        assert np.bincount(split.train_labels_N[rows]).tolist() == [10] * CLASSES
    for number, rows in enumerate(judged):
        inner = machine.shown[number * 5 : number * 5 + 4]
        for fitted, values in inner:
            assert values == C
            assert set(fitted) < set(rows)
            assert len(fitted) == 30
        assert sorted(np.concatenate([fitted for fitted, _ in inner])) == sorted(np.repeat(rows, 3))
    assert outcome.sd == pytest.approx(np.std(outcome.accuracies, ddof=1))
    assert outcome.confusion_CC.sum() == 5 * 100
    assert outcome.train == 40


def test_repeated_draws_choose_c_once_on_rows_that_nobody_learns_from() -> None:
    split = data()
    outcome, machine = run("draws", split)
    assert [len(values) for _, values in machine.shown] == [3] * 3 + [1] * 7
    seen = set(np.concatenate([rows for rows, _ in machine.shown]))
    assert len(seen) <= 200  # the other 200 are held back
    for rows, _ in machine.shown:
        assert np.bincount(split.train_labels_N[rows]).tolist() == [10] * CLASSES
    assert len({tuple(sorted(rows)) for rows, _ in machine.shown}) == 10
    assert all(trial.draws == 3 for trial in outcome.trials)
    assert len(outcome.accuracies) == 7
    assert outcome.chosen_c == (best_of(outcome.trials).c,)
    assert outcome.protocol == "40 labels"


def test_cross_validation_is_that_of_the_obvious_loop() -> None:
    split = data(train=120)
    found = cross_validated(split, Liblinear(), C, 3, np.random.default_rng(5))
    machine = Liblinear()
    cross_validated(split, machine, C, 3, np.random.default_rng(5))
    for place, c in enumerate(C):
        scores = []
        for fitted, _ in machine.shown:
            held = np.setdiff1d(np.arange(120), fitted)
            svm = LinearSVC(C=c, random_state=0).fit(split.train_NF[fitted], split.train_labels_N[fitted])
            scores.append(svm.score(split.train_NF[held], split.train_labels_N[held]))
        assert found[place].accuracy == pytest.approx(np.mean(scores))
    assert averaged([found, found]) == tuple(replace(each, draws=6) for each in found)


def test_too_few_labels_are_named() -> None:
    with pytest.raises(ConfigError, match="class 0"):
        folds(data(train=40), Liblinear(), per_class=10, count=5, svm_c=C, seed=0)


def test_a_memory_mapped_file_gives_what_memory_gives(tmp_path_factory: pytest.TempPathFactory) -> None:
    split, path = data(), tmp_path_factory.mktemp("features") / "train.npy"
    np.save(path, split.train_NF)
    mapped = replace(split, train_NF=np.load(path, mmap_mode="r"))
    for name in NAMES:
        assert run(name, mapped)[0].accuracies == run(name, split)[0].accuracies


def test_wilson_interval_matches_known_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1.0


@dataclass
class _Rated(OneByOne):
    """Its accuracy on any rows is what is written down for its C; fits are made when they are asked for."""

    shares: dict[float, float]
    made: list[float] = field(default_factory=list)

    def path(
        self,
        features_NF: NDArray[np.generic],
        labels_N: NDArray[np.int64],
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: NDArray[np.float64] | None = None,
        progress: Progress = silent,
    ) -> Iterator[_RatedFit]:
        for c in values:
            self.made.append(c)
            yield _RatedFit(self.shares[c])


@dataclass
class _RatedFit:
    share: float
    converged: bool = True

    def predict(self, features_NF: NDArray[np.generic]) -> NDArray[np.int64]:
        right = round(self.share * len(features_NF))
        labels_N = np.asarray(features_NF)[:, 0].astype(np.int64)
        return np.where(np.arange(len(labels_N)) < right, labels_N, 1 - labels_N)


@pytest.mark.parametrize(
    ("shares", "tried"),
    [
        ([0.60, 0.70, 0.40, 0.90], 3),  # a plain fall
        ([0.60, 0.70, 0.69, 0.90], 4),  # within the standard error of 200 rows: once is no fall
        ([0.60, 0.70, 0.69, 0.68, 0.90], 4),  # twice is
        ([0.60, 0.70, 0.69, 0.71], 4),
        ([0.60, 0.60, 0.60], 3),
    ],
)
def test_larger_c_are_not_fitted_once_the_accuracy_has_fallen(shares: list[float], tried: int) -> None:
    labels_N = np.tile([0, 1], 500)
    data = Split(labels_N[:, None].astype(np.float32), labels_N, labels_N[:10, None], labels_N[:10])
    values = [10.0**place for place in range(len(shares))]
    machine = _Rated(dict(zip(values, shares, strict=True)))
    outcome = all_labels(data, machine, svm_c=values[::-1], validation_share=0.2, seed=0)
    assert [trial.c for trial in outcome.trials] == values[:tried]
    assert [trial.accuracy for trial in outcome.trials] == pytest.approx(shares[:tried])
    best = values[int(np.argmax(shares[:tried]))]
    assert outcome.chosen_c == (best,)
    assert machine.made == [*values[:tried], best]


@dataclass
class _RatedByFold(OneByOne):
    """Fold after fold another C is the best, so that each stops elsewhere."""

    shares: Sequence[dict[float, float]]
    asked: int = 0

    def path(
        self,
        features_NF: NDArray[np.generic],
        labels_N: NDArray[np.int64],
        values: Sequence[float],
        *,
        rough: bool = False,
        products_NN: NDArray[np.float64] | None = None,
        progress: Progress = silent,
    ) -> Iterator[_RatedFit]:
        fold = self.asked // 3  # two inner folds, and the fit that is judged
        self.asked += 1
        for c in values:
            yield _RatedFit(self.shares[fold][c])


def test_folds_may_stop_at_different_c() -> None:
    labels_N = np.tile([0, 1], 500)
    data = Split(labels_N[:, None].astype(np.float32), labels_N, labels_N[:10, None], labels_N[:10])
    machine = _RatedByFold([{1.0: 0.9, 2.0: 0.5, 4.0: 0.5}, {1.0: 0.5, 2.0: 0.6, 4.0: 0.9}])
    outcome = folds(data, machine, per_class=200, count=2, inner=2, svm_c=(4.0, 2.0, 1.0, 1.0), seed=0)
    assert outcome.chosen_c == (1.0, 4.0)
    found = [(trial.c, trial.draws, round(trial.accuracy, 6)) for trial in outcome.trials]
    assert found == [(1.0, 4, 0.7), (2.0, 4, 0.55), (4.0, 2, 0.9)]
