"""DiffAugment does to every image what an obvious version does to one, and lets gradients through."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core.train.augment import augment, noise_size

ALL = ("color", "translation", "cutout")


def images_of(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.uniform(-1, 1, (n, channels, height, width)).astype(np.float32))


def noise_of(n: int, policy: tuple[str, ...], seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, noise_size(policy)), np.float32))


def slowly(
    image_CHW: NDArray[np.float64], noise: list[float], policy: tuple[str, ...]
) -> NDArray[np.float64]:
    """One image, pixel by pixel, as arXiv 2006.10738 and its authors' code say."""
    x, left = image_CHW.copy(), iter(noise)
    _, height, width = x.shape
    for name in policy:
        if name == "color":
            brightness, saturation, contrast = next(left), next(left), next(left)
            x = x + (brightness - 0.5)
            x = (x - x.mean(0)) * (2 * saturation) + x.mean(0)
            x = (x - x.mean()) * (0.5 + contrast) + x.mean()
        elif name == "translation":
            shifts = []
            for side in (height, width):
                most = int(side / 8 + 0.5)
                shifts.append(int(np.floor(next(left) * (2 * most + 1))) - most)
            moved = np.zeros_like(x)
            for row in range(height):
                for column in range(width):
                    source = row + shifts[0], column + shifts[1]
                    if 0 <= source[0] < height and 0 <= source[1] < width:
                        moved[:, row, column] = x[:, source[0], source[1]]
            x = moved
        else:
            holes = []
            for side in (height, width):
                cut = int(side / 2 + 0.5)
                first = int(np.floor(next(left) * (side + (1 - cut % 2)))) - cut // 2
                holes.append(range(first, first + cut))
            for row in holes[0]:
                for column in holes[1]:
                    if 0 <= row < height and 0 <= column < width:
                        x[:, row, column] = 0
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (14, 14), (12, 20), (7, 9)])
def test_every_image_becomes_what_an_obvious_version_makes_of_it(
    channels: int, height: int, width: int
) -> None:
    x_NCHW = images_of(24, channels, height, width)
    for policy in [(), *((name,) for name in ALL), *permutations(ALL)]:
        noise = noise_of(24, policy)
        found = augment(x_NCHW, noise, policy)
        for image, row, result in zip(x_NCHW, noise, found, strict=True):
            expected = slowly(image.double().numpy(), row.tolist(), policy)
            assert np.allclose(result.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("noise", "expected"), [(0.0, -2), (0.5, 0), (0.999999, 2)])
def test_shifts_reach_an_eighth_of_the_side_both_ways(noise: float, expected: int) -> None:
    ramp = torch.arange(1.0, 17).repeat(16, 1).view(1, 1, 16, 16)
    moved = augment(ramp, torch.tensor([[0.5, noise]]), ("translation",))[0, 0, 8]
    assert moved[8] == 9 + expected
    assert int((moved == 0).sum()) == abs(expected)  # nothing comes in from the other side


def test_a_hole_takes_a_quarter_or_less_of_the_image_and_no_place_is_spared() -> None:
    n = 2000
    hidden = augment(torch.ones(n, 1, 8, 8), noise_of(n, ("cutout",)), ("cutout",)) == 0
    shares = hidden.float().mean((1, 2, 3))
    assert shares.max() == 0.25
    assert shares.min() >= 4 / 64
    assert hidden.float().mean(0).min() > 0.05


def test_gradients_are_those_of_the_changes() -> None:
    x_NCHW = images_of(3, 3, 8, 8).double().requires_grad_()
    noise = noise_of(3, ALL).double()
    assert torch.autograd.gradcheck(lambda x: augment(x, noise, ALL), (x_NCHW,))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_memory_format_stay(dtype: torch.dtype, channels: int) -> None:
    x_NCHW = images_of(4, channels, 16, 16).to(dtype)
    exact = augment(x_NCHW.double(), noise_of(4, ALL), ALL)
    for lies_as in (torch.contiguous_format, torch.channels_last):
        found = augment(x_NCHW.contiguous(memory_format=lies_as), noise_of(4, ALL), ALL)
        assert found.dtype is dtype
        assert found.is_contiguous(memory_format=lies_as)
        assert (found.double() - exact).abs().max() < (1e-5 if dtype is torch.float32 else 0.05)


def test_images_from_0_to_1_are_changed_as_if_they_went_from_minus_1_to_1() -> None:
    x_NCHW, noise = images_of(8, 1, 14, 14), noise_of(8, ALL)
    unit = augment((x_NCHW + 1) / 2, noise, ALL, (0.0, 1.0))
    assert torch.allclose(unit, (augment(x_NCHW, noise, ALL) + 1) / 2, atol=1e-6)


def test_an_image_depends_on_its_own_noise_alone() -> None:
    x_NCHW, noise = images_of(6, 3, 16, 16), noise_of(6, ALL)
    together = augment(x_NCHW, noise, ALL)
    alone = torch.cat([augment(x_NCHW[i : i + 1], noise[i : i + 1], ALL) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_no_value_is_looked_at() -> None:
    """On the meta device there are none, as little as while a CUDA graph is captured."""
    x_NCHW = torch.empty(4, 3, 16, 16, device="meta", requires_grad=True)
    changed = augment(x_NCHW, torch.empty(4, noise_size(ALL), device="meta"), ALL)
    changed.sum().backward()
    assert changed.shape == x_NCHW.shape


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no augmentation 'blur'; there are color, translation, cutout"):
        noise_size(("blur",))
    with pytest.raises(ValueError, match=r"color\+cutout takes 5 columns of noise, not 4"):
        augment(images_of(2, 3, 8, 8), torch.zeros(2, 4), ("color", "cutout"))
