"""The networks are those of the paper: sizes, layers, where batch norm is, and how weights begin."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan_core.errors import ConfigError
from dcgan_core.models.dcgan import Discriminator, Generator, build, parameter_count, training_bytes
from dcgan_core.models.norms import batch_norms, batch_statistics
from dcgan_core.models.specs import NETS, net_spec, spec_from_json
from dcgan_core.models.weights import draw_z, load_authors_svhn, load_net, net_bytes, to_uint8

SMALL = net_spec("paper64", size=16, width=8)


def weights_of_layers(net: nn.Module) -> int:
    """Convolution and linear weights, without batch norm's."""
    return sum(p.numel() for p in net.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("paper64", 18_851_200, 17_229_184),
        ("svhn32", 1_438_400, 1_032_896),
        ("torch64", 3_574_784, 2_763_776),
    ],
)
def test_the_nets_have_as_many_weights_as_the_papers(name: str, generator: int, discriminator: int) -> None:
    nets = build(net_spec(name), 0)
    assert [weights_of_layers(net) for net in nets] == [generator, discriminator]


def test_torch64_has_as_many_parameters_as_pytorchs_example() -> None:
    assert [parameter_count(net) for net in build(net_spec("torch64"), 0)] == [3_576_704, 2_765_568]


@pytest.mark.parametrize(
    ("name", "features"), [("imagenet32", 28_672), ("svhn32", 7_168), ("paper64", 30_720)]
)
def test_the_features_are_as_wide_as_the_papers(name: str, features: int) -> None:
    assert sum(conv.filters for conv in net_spec(name).discriminator) * 16 == features


def test_the_imagenet_net_alternates_its_strides() -> None:
    spec = net_spec("imagenet32")
    assert [(conv.filters, conv.stride) for conv in spec.discriminator] == [
        (128, 1),
        (128, 2),
        (256, 1),
        (256, 2),
        (512, 1),
        (512, 2),
    ]
    assert [(conv.filters, conv.stride) for conv in spec.generator] == [
        (512, 2),
        (256, 1),
        (256, 2),
        (128, 1),
        (128, 2),
        (3, 1),
    ]
    assert (spec.z_size, spec.project) == (256, 512)


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("name", list(NETS))
def test_depth_follows_from_the_size(name: str, size: int) -> None:
    spec = net_spec(name, size=size, width=4, z_size=7)
    generator, discriminator = build(spec, 0)
    images = generator(torch.zeros(2, 7).uniform_(-1, 1))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)
    maps = discriminator.feature_maps(images)
    assert [map_NCHW.shape[1] for map_NCHW in maps] == [conv.filters for conv in spec.discriminator]
    assert maps[-1].shape[2:] == (4, 4)
    sides = [map_NCHW.shape[2] for map_NCHW in maps]
    assert all(after in (before, before // 2) for before, after in pairwise(sides))


@pytest.mark.parametrize("size", [0, 1, 4, 12, 48, 63, 65])
def test_a_size_that_no_depth_draws_is_refused(size: int) -> None:
    if size == 0:
        assert net_spec("paper64", size=None).size == 64
    else:
        with pytest.raises(ConfigError, match=f"train.size {size} cannot be drawn"):
            net_spec("paper64", size=size)


def test_an_unknown_net_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="nets: paper64, imagenet32, svhn32, torch64"):
        net_spec("paper65")


@pytest.mark.parametrize("name", list(NETS))
def test_no_layer_has_a_bias(name: str) -> None:
    for net in build(net_spec(name, width=4), 0):
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                assert module.bias is None


@pytest.mark.parametrize("name", list(NETS))
def test_batch_norm_is_everywhere_but_on_images(name: str) -> None:
    generator, discriminator = build(net_spec(name, width=4), 0)
    convolutions = [module for module in generator.layers if isinstance(module, nn.ConvTranspose2d)]
    assert len(batch_norms(generator)) == len(convolutions)  # one after the projection, none at the end
    assert isinstance(list(generator.layers)[-1], nn.ConvTranspose2d)
    blocks = [list(block.children()) for block in discriminator.blocks]
    has_norm = [any(isinstance(module, nn.BatchNorm2d) for module in block) for block in blocks]
    assert has_norm == [False] + [True] * (len(blocks) - 1)
    assert all(isinstance(block[-1], nn.LeakyReLU) and block[-1].negative_slope == 0.2 for block in blocks)


def test_the_authors_normalise_every_unit_of_the_projection_and_torch_every_filter() -> None:
    paper, torchs = Generator(net_spec("paper64")), Generator(net_spec("torch64"))
    assert isinstance(paper.project_norm, nn.BatchNorm1d)
    assert (paper.project_norm.num_features, paper.project_norm.eps) == (16_384, 1e-8)
    assert isinstance(torchs.project_norm, nn.BatchNorm2d)
    assert (torchs.project_norm.num_features, torchs.project_norm.eps) == (512, 1e-5)


def test_weights_begin_as_in_the_paper() -> None:
    for net in build(net_spec("svhn32"), 0):
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                weight = module.weight.detach()
                error = 1 / weight.numel() ** 0.5
                assert weight.mean().item() == pytest.approx(0, abs=0.02 * 5 * error)
                assert weight.std().item() == pytest.approx(0.02, rel=5 * error)
        gains = torch.cat([norm.weight.detach() for norm in batch_norms(net)])
        assert gains.mean().item() == pytest.approx(1, abs=0.02 * 5 / len(gains) ** 0.5)
        assert gains.std().item() == pytest.approx(0.02, rel=0.3)
        assert all(not norm.bias.any() for norm in batch_norms(net))


def test_weights_follow_from_the_seed_and_leave_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    torch.manual_seed(5)
    one = build(SMALL, 3)
    torch.manual_seed(6)
    same, other = build(SMALL, 3), build(SMALL, 4)
    assert [net_bytes(net) for net in one] == [net_bytes(net) for net in same]
    assert net_bytes(one[0]) != net_bytes(other[0])
    torch.set_rng_state(state)


def test_a_description_rebuilds_the_net_and_bytes_fill_it() -> None:
    generator, _ = build(SMALL, 3)
    again = Generator(spec_from_json(SMALL.to_json()))
    assert again.spec == SMALL
    load_net(again, net_bytes(generator))
    assert net_bytes(again) == net_bytes(generator)


def test_z_is_uniform_or_normal_as_the_net_wants_it() -> None:
    uniform = draw_z(net_spec("paper64"), 2000, np.random.default_rng(0))
    normal = draw_z(net_spec("svhn32"), 2000, np.random.default_rng(0))
    assert uniform.shape == normal.shape == (2000, 100)
    assert uniform.dtype == normal.dtype == torch.float32
    assert -1 <= uniform.min() < -0.999
    assert 0.999 < uniform.max() <= 1
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert normal.abs().max() > 3


def test_images_become_bytes_from_black_to_white() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(5, 1, 1, 1)
    assert to_uint8(values)[:, 0, 0].tolist() == [[0] * 3, [0] * 3, [128] * 3, [255] * 3, [255] * 3]
    assert to_uint8(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def test_memory_is_foreseen_without_taking_it() -> None:
    assert training_bytes(net_spec("paper64", width=100_000), 128) > 2**43
    small, large = training_bytes(SMALL, 8), training_bytes(SMALL, 16)
    assert 0 < large - small < large


def test_the_authors_discriminator_ranks_their_generators_pictures_above_noise(data_folder: Path) -> None:
    generator, discriminator = authors_nets(data_folder)
    drawn = draw_by_batch(generator)
    noise = torch.empty_like(drawn).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), batch_statistics(discriminator):
        # In one batch: alone, each would be normalised by itself.
        logits = discriminator(torch.cat([drawn, noise]))
    drawn_N1, noise_1N = logits[: len(drawn), None], logits[None, len(drawn) :]
    assert (drawn_N1 > noise_1N).float().mean() > 0.9


def test_what_the_authors_generator_draws_is_neither_flat_nor_noise(data_folder: Path) -> None:
    drawn = draw_by_batch(authors_nets(data_folder)[0])
    assert drawn.std((1, 2, 3)).mean() > 0.1
    assert drawn.std(0).mean() > 0.1
    left, right = drawn[..., :-1].flatten(), drawn[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.9


def test_the_authors_kernels_are_flipped_or_their_discriminator_sees_mush(data_folder: Path) -> None:
    generator, discriminator = authors_nets(data_folder)
    rightly = draw_by_batch(generator)
    for layer in generator.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data = layer.weight.data.flip(2, 3)
    with torch.no_grad(), batch_statistics(discriminator):
        verdicts = [discriminator(images).mean() for images in (rightly, draw_by_batch(generator))]
    assert verdicts[0] > verdicts[1] + 1


def draw_by_batch(generator: Generator) -> Tensor:
    """128 pictures, normalised by their own batch, as the authors draw."""
    z_NZ = draw_z(generator.spec, 128, np.random.default_rng(0))
    with torch.no_grad(), batch_statistics(generator):
        return generator(z_NZ)


def authors_nets(folder: Path) -> tuple[Generator, Discriminator]:
    file = folder / "models" / "dcgan-svhn-authors.npz"
    if not file.is_file():
        pytest.skip(f"DCGAN_TEST_DATA has no {file.name}")
    return load_authors_svhn(file)
