"""The supervised CNN learns what can be learned, and is chosen by validation images alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError, NoUsableData
from dcgan_core.evaluate.supervised import (
    Classifier,
    SearchOutcome,
    Settings,
    Space,
    augmented,
    predict,
    random_search,
)
from dcgan_core.models.specs import net_spec

SPEC = net_spec("svhn32", size=16, width=8)
GENTLE = Space(learning_rate=(2e-3, 5e-3), dropout=(0.0, 0.5), batch_size=(16,), augmentation=("none",))

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def quadrants(count: int, seed: int) -> Part:
    """Noise of which one quadrant, the class, is brighter."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = random.integers(0, 160, (count, 16, 16, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[top : top + 8, left : left + 8] += 60
    return images, labels


TRAIN, HELD, TEST = quadrants(64, 0), quadrants(40, 1), quadrants(40, 2)


def search(
    held: Part = HELD,
    test: NDArray[np.uint8] = TEST[0],
    space: Space = GENTLE,
    trials: int = 2,
    epochs: int = 6,
    patience: int = 6,
    dtype: torch.dtype = torch.float32,
    validate_every: int = 1,
) -> SearchOutcome:
    return random_search(
        SPEC,
        *TRAIN,
        *held,
        test,
        classes=4,
        trials=trials,
        epochs=epochs,
        patience=patience,
        seed=0,
        space=space,
        dtype=dtype,
        validate_every=validate_every,
    )


@pytest.fixture(scope="module")
def honest() -> SearchOutcome:
    return search()


def test_it_learns(honest: SearchOutcome) -> None:
    assert np.mean(honest.predictions_M == TEST[1]) > 0.8
    assert all(trial.status == "ok" and trial.reason == "" for trial in honest.trials)


def test_the_net_that_counts_is_that_of_the_smallest_validation_error(honest: SearchOutcome) -> None:
    error = honest.chosen.validation_error
    assert error == min(trial.validation_error or 0.0 for trial in honest.trials)
    assert error == np.mean(predict(honest.net, HELD[0]) != HELD[1])
    assert 1 <= honest.chosen.best_epoch <= honest.chosen.epochs <= 6


def test_test_images_choose_nothing(honest: SearchOutcome) -> None:
    other = search(test=255 - TEST[0][:7])
    assert other.trials == honest.trials and other.chosen == honest.chosen
    assert other.predictions_M.shape == (7,)


def test_validation_labels_choose_and_do_not_train() -> None:
    shuffled = (HELD[0], np.random.default_rng(0).permutation(HELD[1]))
    # A single look, after the last epoch: then the labels of the validation part have nothing to choose.
    one = search(trials=1, epochs=3, validate_every=3)
    other = search(shuffled, trials=1, epochs=3, validate_every=3)
    for ours, theirs in zip(one.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert other.chosen.validation_error != one.chosen.validation_error


def test_a_trial_is_the_same_however_many_there_are(honest: SearchOutcome) -> None:
    assert search(trials=1).trials == honest.trials[:1]
    assert len({trial.settings for trial in honest.trials}) == len(honest.trials)


def test_images_are_judged_alone(honest: SearchOutcome) -> None:
    alone = [int(predict(honest.net, TEST[0][at : at + 1])[0]) for at in range(8)]
    assert alone == honest.predictions_M[:8].tolist()


def test_a_trial_stops_where_validation_no_longer_improves() -> None:
    found = search(trials=1, epochs=40, patience=2)
    (trial,) = found.trials
    assert trial.epochs == trial.best_epoch + 2 < 40


def test_a_trial_that_diverges_is_a_row_with_a_reason() -> None:
    drops = [GENTLE.draw(np.random.default_rng([0, number])).dropout for number in range(2)]
    threshold = sum(drops) / 2

    class Half(Space):
        def draw(self, random: np.random.Generator) -> Settings:
            drawn = super().draw(random)
            return replace(drawn, learning_rate=1e30) if drawn.dropout > threshold else drawn

    found = search(space=Half(**vars(GENTLE)), epochs=3)
    by_status = {trial.status: trial for trial in found.trials}
    assert set(by_status) == {"ok", "diverged"} and found.chosen == by_status["ok"]
    failed = by_status["diverged"]
    assert failed.validation_error is None and failed.best_epoch == 0
    assert "epoch" in failed.reason and ("loss" in failed.reason or "finite" in failed.reason)


def test_where_all_trials_diverge_there_is_nothing_to_go_on_with() -> None:
    with pytest.raises(NoUsableData, match=r"2 diverged.*learning rates"):
        search(space=replace(GENTLE, learning_rate=(1e30, 1e30)), epochs=2)


def test_bfloat16_learns_too() -> None:
    found = search(trials=1, dtype=torch.bfloat16)
    assert np.mean(found.predictions_M == TEST[1]) > 0.7
    assert all(parameter.dtype == torch.float32 for parameter in found.net.parameters())


def test_nothing_to_choose_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 validation images"):
        search((HELD[0][:0], HELD[1][:0]))


def test_draws_keep_to_their_ranges_and_rates_are_drawn_by_magnitude() -> None:
    space = Space()
    drawn = [space.draw(np.random.default_rng(number)) for number in range(300)]
    rates = np.array([each.learning_rate for each in drawn])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2
    assert np.median(np.log10(rates)) == pytest.approx(-3, abs=0.2)
    assert {each.batch_size for each in drawn} == set(space.batch_size)
    assert {each.augmentation for each in drawn} == set(space.augmentation)
    fixed = replace(space, learning_rate=(1e-3, 1e-3))
    assert all(
        replace(each, learning_rate=0) == replace(fixed.draw(np.random.default_rng(number)), learning_rate=0)
        for number, each in enumerate(drawn)
    )


def test_a_conditional_net_is_not_told_the_class() -> None:
    net = Classifier(net_spec("mnist28", size=14, width=4), classes=3, seed=0)
    assert net(torch.zeros(2, 1, 14, 14)).shape == (2, 3)


def test_a_flip_mirrors_and_a_translation_moves_and_fills() -> None:
    x = torch.arange(2 * 1 * 8 * 8, dtype=torch.float32).view(2, 1, 8, 8)
    noise = torch.tensor([[0.2, 0.0, 0.99], [0.7, 0.5, 0.5]])
    assert torch.equal(augmented(x, noise, "none", 0.0), x)
    flipped = augmented(x, noise, "flip", 0.0)
    assert torch.equal(flipped[0], x[0].flip(2)) and torch.equal(flipped[1], x[1])
    moved = augmented(x, noise, "translation", -7.0)
    # Shifts of -1 (rows come from one further up) and +1 (columns from one further right).
    assert torch.equal(moved[0, 0, 1:, :-1], x[0, 0, :-1, 1:])
    assert bool((moved[0, 0, 0] == -7).all()) and bool((moved[0, 0, :, -1] == -7).all())
    assert torch.equal(moved[1], x[1])
    both = augmented(x, noise, "flip+translation", -7.0)
    assert torch.equal(both[0, 0, 1:, :-1], x[0, 0].flip(1)[:-1, 1:])


def test_an_untrained_net_says_nothing_in_particular() -> None:
    x_NCHW = torch.linspace(-1, 1, 8 * 3 * 16 * 16).view(8, 3, 16, 16)
    logits = Classifier(SPEC, classes=4, seed=0)(x_NCHW).detach()
    loss = float(torch.nn.functional.cross_entropy(logits, torch.zeros(8).long()))
    assert loss == pytest.approx(math.log(4), abs=0.5)
