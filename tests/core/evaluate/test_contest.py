"""Sets are judged by the protocols of their names, by an SVM that is liblinear's, neighbours, or a CNN."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from dcgan_core.config import EvaluateConfig, LabelledSet
from dcgan_core.evaluate.contest import Neighbours, Svm, outcomes, supervised
from dcgan_core.evaluate.datasets import Labelled
from dcgan_core.evaluate.draws import stratified_split
from dcgan_core.evaluate.neighbours import nearest
from dcgan_core.evaluate.protocols import Split
from dcgan_core.models.specs import net_spec


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    x, y = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(y))
    return np.rint(x[order] * (255 / 16)).astype(np.uint8), y[order].astype(np.int64)


def split(scale: float = 1 / 255) -> Split:
    x, y = digits()
    x = (x * scale).astype(np.float32) if scale != 1 else x
    return Split(x[:1200], y[:1200], x[1200:], y[1200:])


def chosen(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"svm_c": (1e-2, 1e-1, 1.0), "folds": 4, "knn_k": (1, 5), **changes})


def labelled(protocol: str = "labelled") -> LabelledSet:
    return LabelledSet.model_validate({"name": "digits", "kind": "digits", "protocol": protocol})


def test_all_labels_and_few_are_judged_and_the_svm_is_liblinears() -> None:
    data = split()
    whole, few = outcomes(labelled(), chosen(labels_per_class=(10,)), data, Svm(), seed=1)
    assert (whole.protocol, few.protocol) == ("all labels", "10 labels per class")
    assert len(few.accuracies) == 4
    assert few.accuracy < whole.accuracy
    svm = LinearSVC(C=whole.chosen_c[0], tol=1e-8, max_iter=100_000, random_state=0)
    said = svm.fit(data.train_NF, data.train_labels_N).predict(data.test_MF)
    assert np.mean(said == whole.predictions_M) >= 0.995
    assert whole.converged


def test_what_is_reported_moves_within_a_fit_and_never_goes_back() -> None:
    seen: list[tuple[float, str]] = []
    config = chosen(svm_c=(1e-2, 1.0), labels_per_class=(10, 20))
    outcomes(
        labelled(),
        config,
        split(),
        Svm(),
        seed=1,
        progress=lambda done, total, note: seen.append((done / total, note)),
    )
    shares, notes = zip(*seen, strict=True)
    assert list(shares) == sorted(shares)
    assert shares[0] == 0 and 2 / 3 < shares[-1] < 1
    assert "C = 0.01, pass 3, choosing C on 240 images" in notes
    assert any(note.endswith(", learning from all 1,200 labels") for note in notes)
    choosing = [share for share, note in seen if note.endswith("choosing C on 240 images")]
    assert len(set(choosing)) > 4


def test_neighbours_are_scikit_learns_on_pixels_as_they_are() -> None:
    data = split(scale=1)
    assert data.train_NF.dtype == np.uint8
    (whole,) = outcomes(labelled(), chosen(), data, Neighbours(), seed=1)
    assert whole.chosen_c[0] in (1, 5)
    plain = KNeighborsClassifier(int(whole.chosen_c[0]), algorithm="brute")
    expected = plain.fit(data.train_NF.astype(float), data.train_labels_N)
    assert whole.accuracy == pytest.approx(
        expected.score(data.test_MF.astype(float), data.test_labels_M), abs=0.004
    )


def test_k_is_the_best_on_held_training_rows_and_none_is_sought_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sought: list[tuple[int, int, int]] = []

    def counted(train_NF: Any, queries_QF: Any, count: int, **more: Any) -> Any:
        sought.append((len(train_NF), len(queries_QF), count))
        return nearest(train_NF, queries_QF, count, **more)

    monkeypatch.setattr("dcgan_core.evaluate.contest.nearest", counted)
    data, ks = split(scale=1), (50, 1, 5, 3)
    (whole,) = outcomes(labelled(), chosen(knn_k=ks, validation_share=0.25), data, Neighbours(), seed=3)
    x, y = data.train_NF.astype(float), data.train_labels_N
    fitted, held = stratified_split(y, 0.25, np.random.default_rng(3))
    for trial, k in zip(whole.trials, sorted(ks)[: len(whole.trials)], strict=True):
        plain = KNeighborsClassifier(k, algorithm="brute").fit(x[fitted], y[fitted])
        assert trial.c == k
        # Pixels have ties, which scikit-learn gives to anybody.
        assert trial.accuracy == pytest.approx(plain.score(x[held], y[held]), abs=0.007)
    best = max(whole.trials, key=lambda trial: (trial.accuracy, -trial.c))
    assert whole.chosen_c == (best.c,) != (50,)
    assert sought == [(len(fitted), len(held), 50), (1200, len(data.test_MF), int(best.c))]


def test_neighbours_of_other_rows_are_sought_anew() -> None:
    data = split(scale=1)
    one, five = Neighbours().path(data.train_NF, data.train_labels_N, [1, 5])
    first = one.predict(data.test_MF[:300]), five.predict(data.test_MF[:300])
    assert np.array_equal(
        one.predict(data.test_MF[300:]), [one.predict(row[None])[0] for row in data.test_MF[300:]]
    )
    assert np.array_equal(five.predict(data.test_MF)[:300], first[1])
    assert np.array_equal(one.predict(data.train_NF), data.train_labels_N)
    assert not np.array_equal(*first)


def test_more_neighbours_than_there_are_labels_are_all_of_them() -> None:
    whole, few = outcomes(
        labelled(), chosen(knn_k=(1, 25), labels_per_class=(2,)), split(scale=1), Neighbours(), seed=1
    )
    assert whole.accuracy > few.accuracy > 0.3
    assert set(few.chosen_c) == {1}


def test_the_svhn_protocol_takes_the_authors_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_core.evaluate.contest.SVHN_LABELS", 20)
    monkeypatch.setattr("dcgan_core.evaluate.contest.SVHN_VALIDATION", 300)
    (found,) = outcomes(labelled("svhn"), chosen(draws=5), split(), Svm(), seed=1)
    assert found.protocol == "200 labels"
    assert [trial.c for trial in found.trials] == [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    assert len(found.accuracies) == 5


def test_a_cnn_of_ds_architecture_learns_from_few_labels_and_never_sees_test_labels() -> None:
    x, y = digits()
    images = np.repeat(np.repeat(x.reshape(-1, 8, 8), 2, 1), 2, 2)[..., None].repeat(3, 3)

    def found(test_labels: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
        data = Labelled(images[:600], y[:600], images[600:800], test_labels, tuple("0123456789"), "digits")
        settings = chosen(labels_per_class=(20,), supervised_trials=2, supervised_epochs=8)
        outcome, trials = supervised(
            labelled(), settings, data, net_spec("paper64", size=16, width=8), seed=3
        )
        assert outcome.protocol == "20 labels per class"
        assert outcome.train == 200
        assert len(trials) == 2
        return outcome.accuracy, outcome.predictions_M

    accuracy, predictions = found(y[600:800])
    assert accuracy > 0.4
    assert np.array_equal(found(np.roll(y[600:800], 1))[1], predictions)


class _WithoutProducts(Svm):
    def products(self, features_NF: Any) -> None:
        return None


def test_inner_products_that_folds_share_change_no_answer() -> None:
    x, y = digits()
    wide = np.concatenate([x, x**2 // 255], 1).astype(np.float32) / 255  # 128 features, 100 rows a fold
    data = Split(wide[:1200], y[:1200], wide[1200:], y[1200:])
    assert Svm().products(wide[:100]) is not None
    assert Svm().products(wide[:200]) is None
    with_, without = (
        outcomes(labelled(), chosen(labels_per_class=(10,)), data, machine, seed=1)[1]
        for machine in (Svm(), _WithoutProducts())
    )
    assert with_.chosen_c == without.chosen_c
    assert np.mean(with_.predictions_M == without.predictions_M) >= 0.995
    assert with_.accuracy == pytest.approx(without.accuracy, abs=0.005)


def test_every_k_is_tried_as_neighbours_are_sought_once() -> None:
    """Also those after accuracies that have fallen twice: unlike C, larger k cost nothing."""
    config = chosen(knn_k=(1, 200, 400, 600, 3))
    trials = outcomes(labelled(), config, split(), Neighbours(), seed=0)[0].trials
    assert [trial.c for trial in trials] == [1, 3, 200, 400, 600]
    assert trials[-1].accuracy < trials[1].accuracy - 0.1
