"""Features are the pooled maps of every layer, and batch norm statistics are what they are said to be."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.features import (
    as_inputs,
    batch_norm_mode,
    calibration_batches,
    extract,
    pixel_features,
    pool_and_join,
)
from dcgan_core.models.dcgan import build
from dcgan_core.models.specs import net_spec


class SmallDiscriminator(nn.Module):
    """Three convolution layers, batch norm on the last two, one linear unit behind its own norm."""

    def __init__(self, channels: int = 3, *, averages: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels, 8, 5, stride=2, padding=2, bias=False)
        self.second = nn.Conv2d(8, 12, 5, stride=2, padding=2, bias=False)
        self.second_norm = nn.BatchNorm2d(12, eps=1e-8, track_running_stats=averages)
        self.third = nn.Conv2d(12, 20, 5, stride=2, padding=2, bias=False)
        self.third_norm = nn.BatchNorm2d(20, eps=1e-8, track_running_stats=averages)
        self.behind = nn.BatchNorm1d(20, track_running_stats=averages)

    @property
    def normed(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(self.second, self.second_norm), (self.third, self.third_norm)]

    def feature_maps(self, x_NCHW: Tensor) -> list[Tensor]:
        maps = [F.leaky_relu(self.first(x_NCHW), 0.2)]
        for convolution, norm in self.normed:
            maps.append(F.leaky_relu(norm(convolution(maps[-1])), 0.2))
        return maps


def small_discriminator(channels: int = 3, *, averages: bool = True) -> SmallDiscriminator:
    torch.manual_seed(0)
    net = SmallDiscriminator(channels, averages=averages)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    return net


def random_images(count: int, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def pooled_slowly(map_CHW: NDArray[np.float32]) -> list[float]:
    step = map_CHW.shape[1] // 4
    return [
        float(plane[i * step : (i + 1) * step, j * step : (j + 1) * step].max())
        for plane in map_CHW
        for i in range(4)
        for j in range(4)
    ]


def test_every_layer_gives_sixteen_values_a_filter() -> None:
    features = extract(small_discriminator(), random_images(5), device="cpu")
    assert features.shape == (5, (8 + 12 + 20) * 16)
    assert features.dtype == np.float32


@pytest.mark.parametrize(("name", "width"), [("svhn32", 7_168), ("imagenet32", 28_672)])
def test_the_papers_nets_have_the_papers_feature_width(name: str, width: int) -> None:
    _, discriminator = build(net_spec(name), seed=0)
    assert extract(discriminator, random_images(2), device="cpu").shape == (2, width)


def test_features_are_the_slowly_pooled_maps_in_the_layers_order() -> None:
    net, images = small_discriminator().eval(), random_images(7)
    with torch.no_grad():
        maps = [each.numpy() for each in net.feature_maps(as_inputs(images, 3))]
    expected = [[value for map_NCHW in maps for value in pooled_slowly(map_NCHW[n])] for n in range(7)]
    np.testing.assert_allclose(extract(net, images, device="cpu", batch_size=3), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4, 7, 28, 64])
def test_maps_of_any_size_become_a_grid_of_four(size: int) -> None:
    assert pool_and_join([torch.zeros(2, 3, size, size)]).shape == (2, 48)


def test_inputs_span_minus_one_to_one_and_are_grey_for_one_channel() -> None:
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, 0, 0] = 255
    images[0, 0, 1] = (255, 0, 0)
    colour, grey = as_inputs(images, 3), as_inputs(images, 1)
    assert colour.shape == (1, 3, 4, 4)
    assert colour.min() == -1 and colour.max() == 1
    assert colour[0, :, 0, 1].tolist() == [1, -1, -1]
    assert grey.shape == (1, 1, 4, 4)
    assert grey[0, 0, 0].tolist() == pytest.approx([1, 2 * 0.299 - 1, -1, -1], abs=1e-6)


def test_a_grey_net_takes_rgb_images() -> None:
    assert extract(small_discriminator(1), random_images(3), device="cpu").shape == (3, 640)


def test_recalibrated_statistics_are_plain_means_over_batches() -> None:
    net = small_discriminator()
    batches = [*calibration_batches(net, random_images(50), batch_size=20)]
    ready = batch_norm_mode(net, "recalibrated", batches)
    assert [len(batch) for batch in batches] == [20, 20]

    totals: list[list[NDArray[np.float64]]] = [[], []]
    for batch in batches:
        x = F.leaky_relu(net.first(batch), 0.2)
        for layer, (convolution, norm) in enumerate(net.normed):
            x = convolution(x)
            values = x.detach().double().numpy()
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
            totals[layer].append(np.stack([mean, variance]))
            normal = (values - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-8)
            gain, shift = (each.detach().numpy()[:, None, None] for each in (norm.weight, norm.bias))
            x = F.leaky_relu(torch.from_numpy(normal * gain + shift).float(), 0.2)
    assert isinstance(ready, SmallDiscriminator)
    for (_, norm), layer_totals in zip(ready.normed, totals, strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        mean, variance = np.mean(layer_totals, axis=0)
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["recalibrated", "running", "batch"])
def test_the_net_is_left_as_it_was(mode: Literal["recalibrated", "running", "batch"]) -> None:
    net = small_discriminator().train()
    before = state_of(net)
    images = random_images(24)
    ready = batch_norm_mode(net, mode, calibration_batches(net, images, batch_size=8))
    ready_state = state_of(ready)
    extract(ready, images, device="cpu")
    assert net.training
    assert same_state(state_of(net), before)
    assert same_state(state_of(ready), ready_state)


def test_batch_statistics_are_those_of_the_batch_shown() -> None:
    net, images = small_discriminator(), random_images(10)
    features = extract(batch_norm_mode(net, "batch"), images, device="cpu", batch_size=10)
    with torch.no_grad():
        expected = pool_and_join(copy.deepcopy(net).train().feature_maps(as_inputs(images, 3)))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)


def test_recalibrated_features_do_not_depend_on_the_other_images() -> None:
    net, images = small_discriminator(), random_images(12)
    ready = batch_norm_mode(net, "recalibrated", calibration_batches(net, images))
    together = extract(ready, images, device="cpu")
    alone = extract(ready, images[4:5], device="cpu")
    np.testing.assert_allclose(together[4:5], alone, atol=1e-5)


def test_a_norm_behind_the_features_keeps_its_averages() -> None:
    net = small_discriminator()
    net.behind.running_mean = torch.full((20,), 3.0)
    ready = batch_norm_mode(net, "recalibrated", calibration_batches(net, random_images(4)))
    assert isinstance(ready, SmallDiscriminator)
    assert ready.behind.running_mean is not None
    assert torch.equal(ready.behind.running_mean, torch.full((20,), 3.0))


def test_a_mode_without_its_statistics_is_refused() -> None:
    with pytest.raises(ConfigError, match="no running averages"):
        batch_norm_mode(small_discriminator(averages=False), "running")
    with pytest.raises(ValueError, match="no batches"):
        batch_norm_mode(small_discriminator(), "recalibrated", [])


def test_pixel_features_are_the_image_in_minus_one_to_one() -> None:
    images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    images[0, 0, 0, 0], images[1, 2, 2, 2] = 0, 255
    features = pixel_features(images)
    assert features.shape == (2, 27) and features.dtype == np.float32
    assert features[0, 0] == -1 and features[1, -1] == 1
