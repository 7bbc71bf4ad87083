"""What may deviate from the paper's D, by name: learned slopes and spectral norm."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dcgan_core.models.dcgan import Discriminator, Generator, build, parameter_count
from dcgan_core.models.norms import SpectralNorm, batch_norms, batch_statistics, recalibrated, spectral_norms
from dcgan_core.models.specs import NETS, net_spec
from dcgan_core.models.weights import load_net, net_bytes

NORMED = net_spec("paper64", size=16, width=4, spectral_norm=True)


def pictures(n: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_prelu_begins_as_the_papers_leaky_relu_with_a_slope_a_channel() -> None:
    plain, learned = (
        build(net_spec("paper64", size=16, width=4, d_activation=which), 0)[1] for which in ("leaky", "prelu")
    )
    assert torch.equal(plain(pictures()), learned(pictures()))
    slopes = [module.weight for module in learned.modules() if isinstance(module, nn.PReLU)]
    assert [len(slope) for slope in slopes] == [4, 8]
    assert parameter_count(learned) == parameter_count(plain) + 12
    learned(pictures()).sum().backward()
    assert all(slope.grad is not None and slope.grad.any() for slope in slopes)


@pytest.mark.parametrize("name", list(NETS))
def test_every_weight_of_d_is_under_spectral_norm_and_none_of_g(name: str) -> None:
    generator, discriminator = build(net_spec(name, width=2, spectral_norm=True), 0)
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(spectral_norms(discriminator)) == len(layers)
    assert spectral_norms(generator) == []
    assert len(batch_norms(discriminator)) == len(batch_norms(build(net_spec(name, width=2), 0)[1]))


def test_it_divides_by_the_largest_singular_value() -> None:
    discriminator = build(NORMED, 0)[1].train()
    for _ in range(60):
        discriminator(pictures())
    for (own, _), layer in zip(
        spectral_norms(discriminator),
        [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)],
        strict=True,
    ):
        sigma = torch.linalg.svdvals(own.detach().flatten(1))[0]
        assert torch.allclose(layer.weight, own / sigma, rtol=1e-3, atol=1e-5)


def test_it_computes_what_torchs_own_does() -> None:
    theirs: Any = parametrizations.spectral_norm(nn.Conv2d(3, 8, 5))
    power, weight = theirs.parametrizations.weight[0], theirs.parametrizations.weight.original
    ours = SpectralNorm(weight)
    ours.u_M.copy_(power._u)
    ours.v_K.copy_(power._v)
    for training in (True, True, False):
        theirs.train(training)
        ours.train(training)
        assert torch.allclose(ours(weight), theirs.weight, atol=1e-6)
        assert torch.allclose(ours.u_M, power._u, atol=1e-6)


def test_its_vectors_follow_from_the_seed_alone() -> None:
    state = torch.get_rng_state()
    torch.manual_seed(5)
    one = build(NORMED, 3)[1]
    torch.manual_seed(6)
    same, other = build(NORMED, 3)[1], build(NORMED, 4)[1]
    torch.set_rng_state(state)
    assert net_bytes(one) == net_bytes(same)
    assert not torch.equal(spectral_norms(one)[0][1].u_M, spectral_norms(other)[0][1].u_M)
    plain = build(net_spec("paper64", size=16, width=4), 3)[1]
    assert torch.equal(spectral_norms(one)[0][0], plain.blocks[0][0].weight)  # pyright: ignore


def test_it_survives_copies_files_and_recalibration() -> None:
    discriminator = build(NORMED, 0)[1].train()
    discriminator(pictures())
    again = Discriminator(NORMED)
    load_net(again, net_bytes(discriminator))
    twin = copy.deepcopy(discriminator)
    fitted = recalibrated(discriminator, [pictures(seed=1)], lambda net, x: net(x))
    assert net_bytes(again) == net_bytes(discriminator) == net_bytes(twin)
    for _ in range(2):  # training goes on alike
        assert torch.equal(again.train()(pictures()), twin(pictures()))
    vectors = [norm.u_M for _, norm in spectral_norms(discriminator)]
    for before, (_, norm) in zip(vectors, spectral_norms(fitted), strict=True):
        assert torch.equal(before, norm.u_M)
    with batch_statistics(discriminator), torch.no_grad():
        first = discriminator(pictures())
        assert torch.equal(first, discriminator(pictures()))  # looking changes nothing
    assert discriminator.training
    assert all(norm.training for _, norm in spectral_norms(discriminator))


def test_it_trains_through_two_passes_before_one_backward_in_either_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        discriminator = build(NORMED, 0)[1].train()
        for parameter in discriminator.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            real, fake = discriminator(pictures()), discriminator(pictures(seed=1))
        (real.float().mean() - fake.float().mean()).backward()
        assert real.dtype is dtype
        for own, norm in spectral_norms(discriminator):
            assert own.grad is not None
            assert own.grad.isfinite().all()
            assert own.grad.any()
            assert norm.u_M.dtype is torch.float32
            assert norm.u_M.norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["paper64", "mnist28"])
def test_no_value_is_looked_at(name: str) -> None:
    """On the meta device there are none, as little as while a CUDA graph is captured."""
    spec = net_spec(name, width=2, d_activation="prelu", spectral_norm=True)
    with torch.device("meta"):
        generator, discriminator = Generator(spec), Discriminator(spec)
        y_N = torch.empty(4, dtype=torch.int64) if spec.classes else None
        logits = discriminator(generator(torch.empty(4, spec.z_size), y_N), y_N)
    logits.sum().backward()
    assert logits.shape == (4,)


def test_gradients_are_those_of_the_divided_weight() -> None:
    random = np.random.default_rng(0)
    weight = torch.tensor(random.standard_normal((4, 3, 2, 2)), requires_grad=True)
    norm = SpectralNorm(weight).double()
    norm.reset(weight, torch.Generator().manual_seed(0))
    norm.eval()
    assert torch.autograd.gradcheck(norm, (weight,))
