"""Features do not depend on how they are computed: by range, stream or file, nor on who else is there."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251  # what crosses to a worker
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError, CorruptArtifact, FeaturesNotFinite, StorageUnusable
from dcgan_core.evaluate import feature_files
from dcgan_core.evaluate.feature_files import FeatureFile, create, fill, fill_from
from dcgan_core.evaluate.features import (
    batch_norm_mode,
    calibration_batches,
    extract,
    feature_width,
    inputs_of,
)
from dcgan_core.evaluate.rows import row_ranges
from dcgan_core.images import decode_rgb
from dcgan_core.models.dcgan import Discriminator, build
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import load_authors_svhn
from tests.core.evaluate.test_features import random_images, small_discriminator

Mode = Literal["recalibrated", "running", "batch"]
MODES: tuple[Mode, ...] = ("recalibrated", "running", "batch")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"name": "svhn32"},
    "paired": {"name": "imagenet32"},
    "prelu": {"name": "svhn32", "d_activation": "prelu"},
    "spectral": {"name": "svhn32", "spectral_norm": True},
    "conditional": {"name": "mnist28"},
}


def net_of(options: dict[str, Any]) -> Discriminator:
    """A small net with batch norm and weights that spread its features."""
    discriminator = build(net_spec(**options, width=4), seed=1)[1]
    with torch.no_grad():
        for parameter in discriminator.parameters():
            if parameter.ndim == 4:
                parameter.mul_(5)
    return discriminator


def ready_in(mode: Mode, net: nn.Module) -> nn.Module:
    return batch_norm_mode(net, mode, calibration_batches(net, random_images(16, 32), batch_size=8))


def slowly(net: Discriminator, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One image at a time, in float64, every cell's maximum by itself."""
    net = copy.deepcopy(net).double().eval()
    black, white = net.spec.data_range
    features = []
    for image in images:
        rgb = image.astype(np.float64).transpose(2, 0, 1)
        if net.channels == 1:
            rgb = np.tensordot([0.299, 0.587, 0.114], rgb, 1)[None]
        h = torch.from_numpy(rgb / 255 * (white - black) + black)[None]
        values: list[float] = []
        for block in net.blocks:
            no_class = torch.zeros(1, net.spec.classes, *h.shape[2:], dtype=torch.float64)
            h = block(torch.cat([h, no_class], dim=1))
            side = h.shape[2]
            cuts = [(side * i // 4, -(-side * (i + 1) // 4)) for i in range(4)]
            for plane in h[0].detach().numpy():
                values += [float(plane[a:b, c:d].max()) for a, b in cuts for c, d in cuts]
        features.append(values)
    return np.array(features)


@pytest.mark.parametrize("option", OPTIONS)
def test_features_of_every_kind_of_net_are_those_computed_slowly(option: str) -> None:
    net = net_of(OPTIONS[option])
    images = random_images(5, net.spec.size)
    ready = batch_norm_mode(net, "recalibrated", calibration_batches(net, images))
    expected = slowly(cast("Discriminator", ready), images)
    found = extract(ready, images, device="cpu", batch_size=2)
    assert found.shape == (5, feature_width(net, net.spec.size)) == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.std() * 10)


@pytest.mark.parametrize("side", [29, 40, 57, 64])
def test_images_larger_than_the_nets_own_are_taken_as_they_are(side: int) -> None:
    ready = ready_in("recalibrated", net_of(OPTIONS["plain"]))
    images = random_images(2, side)
    expected = slowly(cast("Discriminator", ready), images)
    np.testing.assert_allclose(extract(ready, images, device="cpu"), expected, atol=1e-3)


def test_images_too_small_for_the_grid_are_refused() -> None:
    net = net_of(OPTIONS["plain"])
    with pytest.raises(ConfigError, match=r"24x24 px leave .* maps of 3 px.* to the 32 px of svhn32"):
        extract(net, random_images(2, 24), device="cpu")
    with pytest.raises(ConfigError, match="scale them up"):
        feature_width(small_discriminator(), 16)


def test_inputs_are_in_the_range_of_the_net() -> None:
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(3, axis=3)
    for option, channels, expected in (("plain", 3, [-1.0, 1.0]), ("conditional", 1, [0.0, 1.0])):
        inputs = inputs_of(net_of(OPTIONS[option]), images)
        assert inputs.shape == (2, channels, 1, 1)
        np.testing.assert_allclose(inputs[:, 0, 0, 0].numpy(), expected, atol=1e-6)


def test_the_width_is_told_without_changing_the_net() -> None:
    net = net_of(OPTIONS["plain"]).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert feature_width(net, 32) == 16 * (4 + 8 + 16)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("mode", ["recalibrated", "running"])
def test_features_do_not_change_with_the_rest_of_the_test_set(mode: Mode) -> None:
    ready = ready_in(mode, net_of(OPTIONS["plain"]))
    test, other = random_images(12), random_images(12)
    other[3:] = 255 - other[3:]
    one, changed = (extract(ready, images, device="cpu", batch_size=6) for images in (test, other))
    np.testing.assert_array_equal(one[:3], changed[:3])
    assert not np.allclose(one[3:], changed[3:], atol=0.1)


def test_with_batch_statistics_they_do() -> None:
    ready = ready_in("batch", net_of(OPTIONS["plain"]))
    test, other = random_images(12), random_images(12)
    other[3:6] = 255 - other[3:6]
    one, changed = (extract(ready, images, device="cpu", batch_size=6) for images in (test, other))
    assert not np.allclose(one[:3], changed[:3], atol=0.01)
    np.testing.assert_array_equal(one[6:], changed[6:])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cuts", ["by the plan", [0, 3, 4, 20, 29]])
def test_ranges_come_out_bit_for_bit_as_the_whole(mode: Mode, cuts: str | list[int]) -> None:
    ready, images = ready_in(mode, net_of(OPTIONS["plain"])), random_images(29)
    whole = extract(ready, images, device="cpu", batch_size=8)
    ranges = row_ranges(29, 3, 8) if isinstance(cuts, str) else [range(a, b) for a, b in pairwise(cuts)]
    parts = [extract(ready, images, device="cpu", batch_size=8, rows=rows) for rows in ranges]
    assert len(parts) == len(ranges) > 1
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_filled_by_ranges_in_any_order_holds_what_memory_would(
    mode: Mode, dtype: Literal["float32", "float16"], tmp_path: Path
) -> None:
    ready, images = ready_in(mode, net_of(OPTIONS["plain"])), random_images(29)
    file = create(tmp_path / "features.npy", 29, feature_width(ready, 32), dtype)
    for rows in reversed(row_ranges(29, 3, 8)):
        fill(pickle.loads(pickle.dumps(file)), ready, images, rows=rows, batch_size=8)
    whole = extract(ready, images, device="cpu", batch_size=8, dtype=dtype)
    mapped = file.open()
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, whole)
    assert feature_files.opened(file.path) == file
    assert mapped.dtype == whole.dtype == dtype


def test_a_range_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    ready, images = ready_in("batch", net_of(OPTIONS["plain"])), random_images(20)
    whole = extract(ready, images, device="cpu", batch_size=8)
    rows = row_ranges(20, 2, 8)[1]
    file = create(tmp_path / "part.npy", len(rows), whole.shape[1])
    fill(file, ready, images, rows=rows, first=0, batch_size=8)
    np.testing.assert_array_equal(file.open(), whole[rows.start : rows.stop])


def test_a_stream_of_images_gives_the_same_file(tmp_path: Path) -> None:
    ready, images = ready_in("batch", net_of(OPTIONS["plain"])), random_images(29)
    seen: list[tuple[float, float]] = []

    def stream() -> Iterator[NDArray[np.uint8]]:
        yield from np.split(images, [1, 1, 12, 25])

    file = create(tmp_path / "features.npy", 29, feature_width(ready, 32))
    fill_from(file, ready, stream(), batch_size=8, progress=lambda done, total, _: seen.append((done, total)))
    np.testing.assert_array_equal(file.open(), extract(ready, images, device="cpu", batch_size=8))
    assert seen == [(8, 29), (15, 29), (22, 29), (29, 29)]


def test_float16_is_float32_rounded() -> None:
    ready, images = ready_in("recalibrated", net_of(OPTIONS["plain"])), random_images(9)
    full, half = (extract(ready, images, device="cpu", dtype=dtype) for dtype in ("float32", "float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, full.astype(np.float16))
    np.testing.assert_allclose(half, full, rtol=2**-11, atol=2**-24)


def test_bfloat16_is_near_and_never_the_default() -> None:
    ready, images = ready_in("recalibrated", net_of(OPTIONS["plain"])), random_images(9)
    exact, near = (extract(ready, images, device="cpu", autocast=autocast) for autocast in (False, True))
    difference = np.abs(near - exact).max() / exact.std()
    assert 1e-4 < difference < 0.1
    np.testing.assert_array_equal(extract(ready, images, device="cpu"), exact)


def test_what_float16_cannot_hold_is_refused() -> None:
    net = net_of(OPTIONS["plain"])
    with torch.no_grad():
        cast("nn.Conv2d", cast("nn.Sequential", net.blocks[0])[0]).weight.mul_(1e6)
    assert np.isfinite(extract(net, random_images(2), device="cpu")).all()
    with pytest.raises(ConfigError, match=r"image 0 and of 1 others .* not finite in float16; keep them in"):
        extract(net, random_images(2), device="cpu", dtype="float16")


def test_what_is_not_finite_is_named_by_its_row_among_all_images() -> None:
    net = ready_in("recalibrated", net_of(OPTIONS["plain"]))
    first = cast("nn.Conv2d", cast("nn.Sequential", cast("Discriminator", net).blocks[0])[0])

    def spoiled(_module: object, inputs: tuple[torch.Tensor], maps: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == 1).all((1, 2, 3), keepdim=True), torch.nan, maps)

    first.register_forward_hook(spoiled)
    images = random_images(40)
    images[29] = 255
    assert len(extract(net, images, device="cpu", rows=range(29), batch_size=10)) == 29
    for rows, batch_size in ((range(40), 40), (range(17, 40), 10), (range(29, 30), 7)):
        with pytest.raises(FeaturesNotFinite) as raised:
            extract(net, images, device="cpu", rows=rows, batch_size=batch_size)
        assert (raised.value.row, raised.value.others) == (29, 0)


def test_finite_values_whose_sum_is_not_are_taken() -> None:
    net = net_of(OPTIONS["plain"])
    with torch.no_grad():
        cast("nn.Conv2d", cast("nn.Sequential", net.blocks[0])[0]).weight.mul_(2e36)
    features = extract(net, random_images(2), device="cpu")
    with np.errstate(over="ignore"):
        assert not np.isfinite(features.sum(dtype=np.float32))


def test_images_are_asked_for_a_batch_at_a_time(tmp_path: Path) -> None:
    class Counted:
        """Images that say how many are asked for at once."""

        def __init__(self) -> None:
            self.asked: list[int] = []

        def __len__(self) -> int:
            return 40

        def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
            self.asked.append(rows.stop - rows.start)
            return random_images(40)[rows]

    images, net = Counted(), net_of(OPTIONS["plain"])
    ready = batch_norm_mode(net, "recalibrated", calibration_batches(net, images, batch_size=8))
    file = create(tmp_path / "features.npy", 40, feature_width(ready, 32))
    fill(file, ready, images, batch_size=8)
    assert images.asked == [8] * 10
    np.testing.assert_array_equal(file.open(), extract(ready, random_images(40), device="cpu", batch_size=8))


def test_files_that_do_not_fit_or_are_none_are_refused(tmp_path: Path) -> None:
    net, images = net_of(OPTIONS["plain"]), random_images(8)
    short, narrow = create(tmp_path / "short.npy", 4, 448), create(tmp_path / "narrow.npy", 8, 100)
    for file in (short, narrow):
        with pytest.raises(ValueError, match="do not fit into"):
            fill(file, net, images)
    for name, data in (("text", b"no features"), ("empty", b""), ("cut", short.path.read_bytes()[:-1])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptArtifact, match=r"no whole \.npy file"):
            feature_files.opened(tmp_path / name)
    np.save(tmp_path / "labels.npy", np.arange(4))
    with pytest.raises(CorruptArtifact, match="no table of float32 or float16"):
        feature_files.opened(tmp_path / "labels.npy")


def test_a_full_disk_is_an_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageUnusable, match=r"features\.npy: the disk is full"):
        create(tmp_path / "features.npy", 10, 10)


def test_a_file_of_no_images_is_one_too(tmp_path: Path) -> None:
    file = create(tmp_path / "none.npy", 0, 448)
    fill(file, net_of(OPTIONS["plain"]), random_images(1)[:0])
    assert file.open().shape == (0, 448)
    assert isinstance(file, FeatureFile)


@pytest.mark.parametrize("mode", ["recalibrated", "batch"])
def test_the_authors_own_discriminator_gives_7168_features(mode: Mode, data_folder: Path) -> None:
    _, discriminator = load_authors_svhn(data_folder / "models" / "dcgan-svhn-authors.npz")
    rows = pq.ParquetFile(data_folder / "cifar10-test.parquet").iter_batches(64, use_threads=False)
    encoded = next(rows).column("image").to_pylist()
    images = np.stack([decode_rgb(each, max_pixels=10**4) for each in encoded])
    ready = batch_norm_mode(discriminator, mode, calibration_batches(discriminator, images))
    found = extract(ready, images, device="cpu")
    assert found.shape == (64, 7_168)
    assert feature_width(discriminator, 32) == 7_168
    with torch.no_grad():  # the authors' order: convolution, batch norm by the batch, leaky ReLU
        h, expected = inputs_of(discriminator, images), []
        for block in discriminator.blocks:
            conv, *norm, _ = cast("nn.Sequential", block)
            h = cast("nn.Conv2d", conv)(h)
            if norm:
                first = cast("nn.BatchNorm2d", norm[0])
                gain, bias = first.weight[:, None, None], first.bias[:, None, None]
                mean, variance = h.mean((0, 2, 3), True), h.var((0, 2, 3), unbiased=False, keepdim=True)
                h = (h - mean) / torch.sqrt(variance + 1e-8) * gain + bias
            h = F.leaky_relu(h, 0.2)
            expected.append(F.adaptive_max_pool2d(h, 4).flatten(1))
    np.testing.assert_allclose(found, torch.cat(expected, 1).numpy(), atol=1e-3)
    assert found.std() > 0.1
