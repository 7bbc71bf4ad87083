"""Pixels reach the nets in their own range, grey by one rule wherever that is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcgan_core.evaluate.features import as_inputs
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import to_uint8

PIXELS_N3HW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 14, 14, 3), np.uint8)).permute(
    0, 3, 1, 2
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["paper64", "mnist28"])
def test_black_and_white_are_the_ends_of_the_nets_range(name: str, channels: int) -> None:
    spec = net_spec(name, channels=channels)
    ends = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 255)]).to(torch.uint8)
    x_NCHW = to_inputs(ends, spec)
    assert x_NCHW.dtype is torch.float32
    assert x_NCHW.shape == (2, channels, 2, 2)
    for image, end in zip(x_NCHW, spec.data_range, strict=True):
        assert torch.allclose(image, torch.tensor(end), atol=1e-6)


def test_colours_come_back_as_the_bytes_they_were_and_the_argument_stays() -> None:
    before = PIXELS_N3HW.clone()
    for name in ("paper64", "mnist28"):
        spec = net_spec(name, channels=3)
        x_NCHW = to_inputs(PIXELS_N3HW, spec)
        assert x_NCHW.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(to_uint8(x_NCHW, spec.data_range), PIXELS_N3HW.permute(0, 2, 3, 1).numpy())
    assert torch.equal(PIXELS_N3HW, before)


def test_grey_is_the_luma_of_bt_601_for_training_and_for_features_alike() -> None:
    grey = to_inputs(PIXELS_N3HW, net_spec("paper64", channels=1))
    red, green, blue = PIXELS_N3HW.double().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert torch.allclose(grey[:, 0].double(), luma / 127.5 - 1, atol=1e-6)
    assert torch.equal(grey, as_inputs(PIXELS_N3HW.permute(0, 2, 3, 1).numpy(), 1))
