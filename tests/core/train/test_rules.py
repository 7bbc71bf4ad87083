"""Schedules, objectives, noise, health and distances, each beside its definition."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_core.models.specs import net_spec
from dcgan_core.train.health import LOOKS, SIGNS, Health, Trouble
from dcgan_core.train.losses import discriminator_loss, generator_loss
from dcgan_core.train.noise import (
    AUGMENT_ANSWER,
    AUGMENT_FAKE,
    AUGMENT_REAL,
    GRID,
    RECALIBRATION,
    SCORE,
    draw_batch_z,
    draw_uniform,
    salted,
)
from dcgan_core.train.quality import diversity, kernel_distance, nearest_distance, saturation
from dcgan_core.train.schedule import rate_share, update_of

SPEC = net_spec("paper64", size=16, width=8)
ALIVE = {
    "loss_d": 1.2,
    "loss_g": 1.0,
    "d_real": 0.6,
    "d_fake": 0.4,
    "logit_spread": 1.0,
    "grad_d": 1.0,
    "grad_g": 1.0,
    "diversity": 0.7,
    "saturation": 0.0,
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_authors_update_g_on_the_first_minibatch_and_then_in_turn() -> None:
    """``n_updates % (k + 1) == 0`` of their code."""
    for k in (1, 2, 3):
        for step in range(24):
            which = update_of("alternate", k, step)
            assert which.g == (step % (k + 1) == 0)
            assert which.d != which.g


def test_with_both_g_answers_after_every_k_minibatches_of_d() -> None:
    assert [update_of("both", 1, step) for step in range(3)] == [(True, True)] * 3
    assert [update_of("both", 3, step).g for step in range(7)] == [False, False, True] * 2 + [False]
    assert all(update_of("both", 3, step).d for step in range(7))


def test_the_rate_falls_linearly_over_the_end_and_never_reaches_zero() -> None:
    shares = [rate_share(step, 200, 0.5) for step in range(200)]
    assert shares[:101] == [1.0] * 101
    assert np.diff(shares[100:]) == pytest.approx(-0.01)
    assert shares[-1] == pytest.approx(0.01)
    assert rate_share(199, 200, 0.0) == 1.0


def test_losses_are_binary_cross_entropies_of_what_d_says() -> None:
    real, fake = random(32) * 4, random(32, seed=1) * 4
    ones, zeros = torch.ones(32), torch.zeros(32)
    expected = F.binary_cross_entropy(real.sigmoid(), ones) + F.binary_cross_entropy(fake.sigmoid(), zeros)
    assert discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    saturating = -F.binary_cross_entropy(fake.sigmoid(), zeros)
    assert generator_loss(fake, "minmax").item() == pytest.approx(saturating.item(), rel=1e-5)
    assert generator_loss(fake, "non-saturating").item() == pytest.approx(
        F.binary_cross_entropy(fake.sigmoid(), ones).item(), rel=1e-5
    )


def test_losses_stay_finite_where_probabilities_would_not() -> None:
    far = torch.tensor([500.0])
    assert discriminator_loss(-far, far).item() == pytest.approx(1000)
    assert generator_loss(-far, "non-saturating").item() == pytest.approx(500)
    assert generator_loss(far, "minmax").item() == pytest.approx(-500)


def test_all_random_numbers_differ_between_streams_steps_and_seeds() -> None:
    streams = [0, 1, GRID, RECALIBRATION, RECALIBRATION + 31, SCORE]
    drawn = {draw_batch_z(SPEC, seed, stream, 8).numpy().tobytes() for seed in (1, 2) for stream in streams}
    assert len(drawn) == 2 * len(streams)
    noise = {
        draw_uniform(seed, stream + step, 8, 4).numpy().tobytes()
        for seed in (1, salted(1, 1), salted(1, 2))
        for stream in (AUGMENT_REAL, AUGMENT_FAKE, AUGMENT_ANSWER)
        for step in (0, 1, 10**9)
    }
    assert len(noise) == 27
    assert salted(7, 0) == 7


def test_a_sample_has_the_same_noise_whatever_the_batch_it_is_cut_from() -> None:
    assert torch.equal(draw_batch_z(SPEC, 1, 5, 8)[:4], draw_batch_z(SPEC, 1, 5, 4))
    assert torch.equal(draw_uniform(1, AUGMENT_REAL, 8, 3)[:4], draw_uniform(1, AUGMENT_REAL, 4, 3))


def checked(*vitals: Mapping[str, float], grace: int = 0) -> list[Trouble | None]:
    health = Health(grace)
    return [health.check(step, values) for step, values in enumerate(vitals, 1)]


def test_a_run_that_is_alive_is_left_alone() -> None:
    health = Health(0)
    assert [health.check(step, ALIVE) for step in range(1, 50)] == [None] * 49
    assert health.healthy_step == 49


@pytest.mark.parametrize("name", list(ALIVE))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_trouble_at_once(name: str, value: float) -> None:
    found = checked(ALIVE, {**ALIVE, name: value}, grace=1000)
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].sign, found[1].step, found[1].metric) == ("not finite", 2, name)


@pytest.mark.parametrize(
    ("sign", "change"),
    [
        ("dead discriminator", {"logit_spread": 1e-6}),
        ("dead generator", {"d_fake": 1e-9, "loss_d": 1e-9}),
        ("samples alike", {"diversity": 0.01}),
        ("saturated samples", {"saturation": 0.95}),
    ],
)
def test_a_sign_of_collapse_is_trouble_when_it_was_seen_in_three_checks_in_a_row(
    sign: str, change: dict[str, float]
) -> None:
    ill = {**ALIVE, **change}
    found = checked(*[ill] * (LOOKS - 1), ALIVE, *[ill] * LOOKS)
    assert found[:-1] == [None] * (2 * LOOKS - 1)
    assert found[-1] is not None
    assert (found[-1].sign, found[-1].step) == (sign, 2 * LOOKS)
    assert found[-1].metric == SIGNS[sign][0]


def test_signs_count_after_the_grace_only_and_the_healthy_step_stays_before_them() -> None:
    ill = {**ALIVE, "diversity": 0.01}
    health = Health(grace=5)
    found = [health.check(step, ill) for step in range(1, 9)]
    assert [each is None for each in found] == [True] * 7 + [False]
    assert health.healthy_step == 5


def test_a_judgement_goes_on_where_it_was_saved() -> None:
    ill = {**ALIVE, "saturation": 0.9}
    health = Health(0)
    assert health.check(1, ALIVE) is health.check(2, ill) is health.check(3, ill) is None
    again = Health(0)
    again.load(health.to_json())
    assert again.healthy_step == 1
    assert again.check(4, ill) is not None


def test_numbers_that_were_not_measured_are_not_judged() -> None:
    assert checked(*[{"loss_d": 1.0}] * 5) == [None] * 5


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = random(6, 3, 4, 4)
    flat = images.flatten(1)
    pairs = [(a - b).square().mean().sqrt().item() for i, a in enumerate(flat) for b in flat[i + 1 :]]
    assert diversity(images) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert diversity(images[:1].expand(6, -1, -1, -1)) == 0
    assert diversity(images[:1]) == 0


def test_saturation_counts_both_ends() -> None:
    assert saturation(torch.tensor([[[[1.0, -1.0, 0.0, 0.98]]]])) == 0.5


def test_the_nearest_distance_is_the_authors() -> None:
    real, fake = random(5, 3, 4, 4), random(7, 3, 4, 4, seed=1)
    slow = [min(float((r - f).norm()) for f in fake) for r in real]
    assert nearest_distance(real, fake) == pytest.approx(np.mean(slow), rel=1e-5)
    assert nearest_distance(real, torch.cat([fake, real])) == pytest.approx(0, abs=1e-2)


def test_the_kernel_distance_is_the_unbiased_cubic_one() -> None:
    real, fake = random(5, 9), random(6, 9, seed=1) + 0.3

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / 9 + 1) ** 3

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        for x in (real, fake)
    ]
    between = np.mean([kernel(a, b) for a in real for b in fake])
    assert kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * between, rel=1e-6)


def test_the_kernel_distance_is_near_zero_for_two_draws_and_large_for_others() -> None:
    one, same, other = random(400, 8), random(400, 8, seed=1), random(400, 8, seed=2) * 0.5 + 0.4
    assert abs(kernel_distance(one, same)) < 0.01 < kernel_distance(one, other)
