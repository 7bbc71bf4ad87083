"""The networks are those of the paper: sizes, layers, where batch norm is, and how weights begin."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan_core.errors import ConfigError
from dcgan_core.models.dcgan import (
    Discriminator,
    Generator,
    build,
    classes_in_turn,
    parameter_count,
    training_bytes,
)
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
        # Counted by hand from the table of dcgan.md, section 1.
        (
            "imagenet32",
            256 * 512 * 16 + 9 * (512 * 512 + 512 * 256 + 256 * 256 + 256 * 128 + 128 * 128 + 128 * 3),
            9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512) + 512 * 16,
        ),
        (
            "mnist28",
            110 * 1024 + 1034 * 128 * 49 + 25 * (138 * 64 + 74 * 1),
            25 * (11 * 64 + 74 * 128) + (128 * 49 + 10) * 1024 + 1034,
        ),
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("doublings", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", list(NETS))
def test_depth_follows_from_the_size(name: str, doublings: int, channels: int) -> None:
    size = NETS[name].start * 2**doublings
    spec = net_spec(name, size=size, width=2, z_size=7, channels=channels)
    generator, discriminator = build(spec, 0)
    z_NZ = torch.empty(2, 7).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    y_N = classes_in_turn(spec, 2)
    images = generator(z_NZ, y_N)
    assert images.shape == (2, channels, size, size)
    assert spec.data_range[0] <= images.min() < images.max() <= spec.data_range[1]
    assert discriminator(images, y_N).shape == (2,)
    maps = discriminator.feature_maps(images, y_N)
    assert [map_NCHW.shape[1] for map_NCHW in maps] == [conv.filters for conv in spec.discriminator]
    assert maps[-1].shape[2:] == (spec.start, spec.start)
    sides = [map_NCHW.shape[2] for map_NCHW in maps]
    assert all(after in (before, before // 2) for before, after in pairwise(sides))


@pytest.mark.parametrize("size", [0, 1, 4, 12, 28, 48, 63, 65])
def test_a_size_that_no_depth_draws_is_refused(size: int) -> None:
    if size == 0:
        assert net_spec("paper64", size=None).size == 64
    else:
        with pytest.raises(ConfigError, match=f"train.size {size} cannot be drawn"):
            net_spec("paper64", size=size)


def test_an_unknown_net_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="nets: paper64, imagenet32, svhn32, mnist28, torch64"):
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
    after_z = len(generator.dense) + 1
    assert len(batch_norms(generator)) == after_z + len(convolutions) - 1  # none at the end
    assert isinstance(list(generator.layers)[-1], nn.ConvTranspose2d)
    blocks = [list(block.children()) for block in discriminator.blocks]
    has_norm = [any(isinstance(module, nn.BatchNorm2d) for module in block) for block in blocks]
    assert has_norm == [False] + [True] * (len(blocks) - 1)
    assert all(isinstance(block[-1], nn.LeakyReLU) and block[-1].negative_slope == 0.2 for block in blocks)


def test_without_options_only_batch_norm_adds_to_the_weights() -> None:
    for name in NETS:
        for net in build(net_spec(name, width=4), 0):
            # Gain and bias; mnist28 has neither (dcgan.md, section 2, point 8).
            own = sum(2 * norm.num_features for norm in batch_norms(net) if norm.affine)
            assert parameter_count(net) == weights_of_layers(net) + own
            assert all(norm.affine == (name != "mnist28") for norm in batch_norms(net))


def test_batch_norm_takes_biased_variances_of_each_batch_alone() -> None:
    _, discriminator = build(net_spec("svhn32", width=2), 0)
    norm = batch_norms(discriminator)[0]
    assert norm.eps == 1e-8
    random = torch.Generator().manual_seed(0)
    real, fake = torch.randn(8, 4, 5, 5, generator=random), 3 + torch.randn(8, 4, 5, 5, generator=random)
    for batch in (real, fake):
        mean, variance = batch.mean((0, 2, 3)), batch.var((0, 2, 3), correction=0)
        plain = (batch - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-8).sqrt()
        expected = plain * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        with batch_statistics(discriminator):
            assert torch.allclose(norm(batch), expected, atol=1e-5)
    assert not norm.running_mean.any()  # pyright: ignore[reportOptionalMemberAccess]


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
        error = 1 / len(gains) ** 0.5
        assert gains.mean().item() == pytest.approx(1, abs=0.02 * 5 * error)
        assert gains.std().item() == pytest.approx(0.02, rel=4 * error)
        assert (gains - 1).abs().max() < 0.02 * 5
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
    old = SMALL.to_json()
    for later in ("classes", "output", "affine", "dense", "start", "d_activation", "spectral_norm"):
        del old[later]
    assert spec_from_json(old) == SMALL
    mnist = net_spec("mnist28", d_activation="prelu", spectral_norm=True)
    assert spec_from_json(json.loads(json.dumps(mnist.to_json()))) == mnist
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
    assert to_uint8(values, (0.0, 1.0))[:, 0, 0, 0].tolist() == [0, 0, 0, 255, 255]
    assert to_uint8(torch.full((1, 1, 1, 1), 0.5), (0.0, 1.0)).max() == 128


def test_memory_is_foreseen_without_taking_it() -> None:
    assert training_bytes(net_spec("paper64", width=100_000), 128) > 2**43
    for name in NETS:
        assert training_bytes(net_spec(name, spectral_norm=True), 8) > training_bytes(net_spec(name), 1)
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


def test_the_authors_discriminator_ranks_each_picture_above_itself_with_noise(data_folder: Path) -> None:
    generator, discriminator = authors_nets(data_folder)
    drawn = draw_by_batch(generator)
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), batch_statistics(discriminator):
        logits = discriminator(torch.cat([drawn, (drawn + 0.3 * noise).clamp(-1, 1)]))
    clean, noisy = logits.chunk(2)
    assert (clean > noisy).float().mean() > 0.8


def test_the_authors_nets_compute_what_their_code_does_from_their_arrays(data_folder: Path) -> None:
    """Their gen and discrim written again: convolutions flip the kernel, deconv is their gradient."""
    generator, discriminator = authors_nets(data_folder)
    with np.load(data_folder / "models" / "dcgan-svhn-authors.npz") as arrays:
        g, d = (
            [torch.from_numpy(arrays[f"{net}_params_{i:02d}"].astype(np.float32)) for i in range(1, last)]
            for net, last in (("gen", 11), ("discrim", 9))
        )

    def batchnorm(h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        axes, shape = ((0,), (1, -1)) if h.ndim == 2 else ((0, 2, 3), (1, -1, 1, 1))
        mean = h.mean(axes, keepdim=True)
        variance = (h - mean).square().mean(axes, keepdim=True)
        return (h - mean) / (variance + 1e-8).sqrt() * gain.view(shape) + bias.view(shape)

    def conv(h: Tensor, kernel: Tensor) -> Tensor:
        return torch.conv2d(h, kernel.flip(2, 3), stride=2, padding=2)

    def deconv(h: Tensor, kernel: Tensor) -> Tensor:
        shape = (len(h), kernel.shape[1], 2 * h.shape[2], 2 * h.shape[3])
        image = torch.zeros(shape, requires_grad=True)
        return torch.autograd.grad(conv(image, kernel), image, h)[0]

    z_NZ = draw_z(generator.spec, 128, np.random.default_rng(0))
    h = torch.relu(batchnorm(z_NZ @ g[0], g[1], g[2])).view(128, -1, 4, 4)
    for kernel, gain, bias in (g[3:6], g[6:9]):
        h = torch.relu(batchnorm(deconv(h, kernel), gain, bias))
    x = torch.tanh(deconv(h, g[9]))
    assert torch.allclose(draw_by_batch(generator), x, atol=1e-4)
    h = torch.nn.functional.leaky_relu(conv(x, d[0]), 0.2)
    for kernel, gain, bias in (d[1:4], d[4:7]):
        h = torch.nn.functional.leaky_relu(batchnorm(conv(h, kernel), gain, bias), 0.2)
    with torch.no_grad(), batch_statistics(discriminator):
        assert torch.allclose(discriminator(x), (h.flatten(1) @ d[7]).squeeze(1), atol=1e-2)


def test_what_the_authors_generator_draws_is_neither_flat_nor_noise(data_folder: Path) -> None:
    drawn = draw_by_batch(authors_nets(data_folder)[0])
    assert drawn.std((1, 2, 3)).mean() > 0.1
    assert drawn.std(0).mean() > 0.1
    left, right = drawn[..., :-1].flatten(), drawn[..., 1:].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.9
    # House numbers: strokes on a ground, so single pictures have edges, and no two are the same.
    edges = (drawn[..., 1:] - drawn[..., :-1]).abs().amax((1, 2, 3))
    assert edges.median() > 0.2
    assert torch.pdist(drawn.flatten(1)).min() > 1


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
