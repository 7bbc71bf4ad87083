"""A conditional net is told the class beside the input of every layer, and says so where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan_core.errors import ConfigError
from dcgan_core.models.dcgan import Discriminator, Generator, build, classes_in_turn
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import Model, draw_z

SPEC = net_spec("mnist28", size=14, width=4)
Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def layers_of(net: nn.Module) -> list[Layer]:
    return [module for module in net.modules() if isinstance(module, Layer)]


def inputs_of(net: nn.Module, *given: Tensor) -> list[Tensor]:
    """What every layer with weights is shown, first layer first."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for layer in layers_of(net)]
    net(*given)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture
def nets() -> tuple[Generator, Discriminator]:
    return build(SPEC, 0)


@pytest.fixture
def z_NZ() -> Tensor:
    return draw_z(SPEC, 6, np.random.default_rng(0))


def test_every_layer_ends_with_the_one_hot_class(nets: tuple[Generator, Discriminator], z_NZ: Tensor) -> None:
    generator, discriminator = nets
    y_N = torch.tensor([0, 9, 3, 3, 7, 1])
    one_hot = nn.functional.one_hot(y_N, 10).float()
    shown = [inputs_of(generator, z_NZ, y_N), inputs_of(discriminator, generator(z_NZ, y_N), y_N)]
    assert [len(layers) for layers in shown] == [3, 3]  # at 14 px: 1024, project, image; conv, 1024, logit
    for x in (*shown[0], *shown[1]):
        told = x[:, -10:]
        assert torch.equal(told, one_hot.view(6, 10, *[1] * (x.ndim - 2)).expand_as(told))


def test_the_layers_are_those_of_the_authors_code() -> None:
    generator, discriminator = build(net_spec("mnist28"), 0)
    # Shapes of gw, gw2, gw3, gwx and dw, dw2, dw3, dwy in mnist/train_cond_dcgan.py; linear ones transposed.
    assert [tuple(layer.weight.shape) for layer in layers_of(generator)] == [
        (1024, 110),
        (6272, 1034),
        (138, 64, 5, 5),
        (74, 1, 5, 5),
    ]
    assert [tuple(layer.weight.shape) for layer in layers_of(discriminator)] == [
        (64, 11, 5, 5),
        (128, 74, 5, 5),
        (1024, 6282),
        (1, 1034),
    ]
    assert all(layer.bias is None for net in (generator, discriminator) for layer in layers_of(net))
    norms = [m for net in (generator, discriminator) for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == [1024, 6272, 1024]  # over units


def test_it_computes_what_the_authors_code_does(nets: tuple[Generator, Discriminator], z_NZ: Tensor) -> None:
    """Their gen and discrim, written again layer by layer; kernels as torch takes them."""
    generator, discriminator = nets
    y_N = torch.tensor([0, 9, 3, 3, 7, 1])
    y_NK = nn.functional.one_hot(y_N, 10).float()

    def beside(h: Tensor) -> Tensor:
        maps = y_NK if h.ndim == 2 else y_NK[:, :, None, None] * torch.ones(6, 10, *h.shape[2:])
        return torch.cat([h, maps], 1)

    def batchnorm(h: Tensor) -> Tensor:
        axes = (0,) if h.ndim == 2 else (0, 2, 3)
        mean = h.mean(axes, keepdim=True)
        return (h - mean) / ((h - mean).square().mean(axes, keepdim=True) + 1e-8).sqrt()

    gw, gw2, gwx = (layer.weight for layer in layers_of(generator))
    h = torch.relu(batchnorm(beside(z_NZ) @ gw.T))
    h = torch.relu(batchnorm(beside(h) @ gw2.T)).reshape(6, 4, 7, 7)
    x = torch.sigmoid(nn.functional.conv_transpose2d(beside(h), gwx, None, 2, 2, 1))
    assert torch.allclose(generator(z_NZ, y_N), x, atol=1e-6)
    dw, dw3, dwy = (layer.weight for layer in layers_of(discriminator))
    h = nn.functional.leaky_relu(nn.functional.conv2d(beside(x), dw, None, 2, 2), 0.2)
    h = nn.functional.leaky_relu(batchnorm(beside(h.flatten(1)) @ dw3.T), 0.2)
    assert torch.allclose(discriminator(x, y_N), (beside(h) @ dwy.T).squeeze(1), atol=1e-6)


def test_each_layer_alone_lets_the_class_through(nets: tuple[Generator, Discriminator], z_NZ: Tensor) -> None:
    for net, x in ((nets[0], z_NZ), (nets[1], torch.rand(6, 1, 14, 14))):
        net.eval()
        for heard in layers_of(net):
            kept = [layer.weight.detach().clone() for layer in layers_of(net)]
            with torch.no_grad():
                for layer in layers_of(net):
                    if layer is not heard:
                        at = slice(-10, None)
                        deaf = (
                            layer.weight[at] if isinstance(layer, nn.ConvTranspose2d) else layer.weight[:, at]
                        )
                        deaf.zero_()
                ones, twos = (net(x, torch.full((6,), label)) for label in (1, 2))
                assert not torch.allclose(ones, twos)
                for layer, weight in zip(layers_of(net), kept, strict=True):
                    layer.weight.copy_(weight)


def test_without_a_class_it_says_what_is_missing(nets: tuple[Generator, Discriminator], z_NZ: Tensor) -> None:
    x_NCHW = torch.rand(6, 1, 14, 14)
    for call in (
        lambda: nets[0](z_NZ),
        lambda: nets[1](x_NCHW),
        lambda: nets[1].feature_maps(x_NCHW),
    ):
        with pytest.raises(ConfigError, match="mnist28 is conditional: give it a class, 0 to 9"):
            call()


def test_a_model_draws_classes_in_turn_or_the_one_wanted(nets: tuple[Generator, Discriminator]) -> None:
    model = Model(SPEC, *nets, ema=None)
    drawn = model.sample(300, seed=1)
    assert drawn.shape == (300, 1, 14, 14)
    assert 0 <= drawn.min() < drawn.max() <= 1
    threes = model.sample(300, seed=1, label=3)
    same = [torch.equal(one, other) for one, other in zip(drawn, threes, strict=True)]
    assert [number for number, equal in enumerate(same) if equal] == list(range(3, 300, 10))
    with pytest.raises(ConfigError, match="mnist28 cannot draw class 10: it has classes 0 to 9"):
        model.sample(1, label=10)
    plain = net_spec("paper64", size=8, width=2)
    with pytest.raises(ConfigError, match="paper64 cannot draw class 0: it has no classes"):
        Model(plain, *build(plain, 0), ema=None).sample(1, label=0)
    assert classes_in_turn(plain, 3) is None
