"""The autoencoder learns, and learns the same bits from the same seed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dcgan_core.dedup.autoencoder import Fit, fit, standardise
from dcgan_core.errors import NoUsableData, TrainingDiverged

quick_fit = partial(
    fit, code_bits=128, noise=0.1, shift=1, dropout=0.1, epochs=1, batch_size=64, learning_rate=1e-3
)


def digits(n: int) -> NDArray[np.uint8]:
    small = load_digits(return_X_y=True)[0][:n].reshape(-1, 8, 8) * 15
    return np.repeat(small.repeat(4, 1).repeat(4, 2)[:, None], 3, axis=1).astype(np.uint8)


def weights(trained: Fit) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in trained.model.state_dict().values()]


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    one = quick_fit(digits(40), min_steps=60, seed=3)
    torch.manual_seed(99)  # neither global randomness nor the thread count may matter
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = quick_fit(digits(40), min_steps=60, seed=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert weights(one) == weights(again)
    assert one.losses == again.losses
    assert weights(one) != weights(quick_fit(digits(40), min_steps=60, seed=4))


def test_fitting_leaves_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    quick_fit(digits(5), min_steps=3, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_loss_falls_and_is_recorded_every_fifty_steps() -> None:
    seen: list[tuple[int, int, float]] = []
    trained = quick_fit(digits(200), min_steps=320, seed=0, on_step=lambda *entry: seen.append(entry))
    assert [step for step, _ in trained.losses] == [50, 100, 150, 200, 250, 300, 320]
    assert seen == [(step, 320, loss) for step, loss in trained.losses]
    assert trained.losses[-1][1] < 0.7 * trained.losses[0][1]


def test_epochs_set_the_steps_of_large_sets() -> None:
    trained = quick_fit(digits(170), min_steps=2, seed=0)
    assert trained.losses[-1][0] == 3


def test_the_model_rebuilds_pictures_it_knows() -> None:
    thumbs = digits(100)
    model = quick_fit(thumbs, min_steps=400, seed=0).model
    pixels = standardise(torch.from_numpy(thumbs))
    mean_picture_error = (pixels - pixels.mean(0)).square().mean()
    assert (model(pixels) - pixels).square().mean() < 0.5 * mean_picture_error


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_images_can_be_fitted(n: int) -> None:
    assert np.isfinite(quick_fit(digits(n), min_steps=20, seed=0).losses[-1][1])


def test_flat_and_equal_images_can_be_fitted() -> None:
    for thumbs in (np.full((9, 3, 32, 32), 200, np.uint8), digits(1).repeat(9, axis=0)):
        trained = quick_fit(thumbs, min_steps=20, seed=0)
        assert all(torch.isfinite(tensor).all() for tensor in trained.model.state_dict().values())


def test_no_images_are_refused_by_name() -> None:
    with pytest.raises(NoUsableData):
        quick_fit(digits(0), min_steps=5, seed=0)


def test_an_infinite_loss_is_refused_by_name() -> None:
    with pytest.raises(TrainingDiverged):
        fit(
            digits(20),
            code_bits=8,
            noise=0.1,
            shift=0,
            dropout=0.2,
            epochs=1,
            min_steps=50,
            batch_size=16,
            learning_rate=1e30,
            seed=0,
        )
