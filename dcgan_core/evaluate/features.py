"""What D sees in an image: the maps of all its convolution layers, max-pooled to a 4x4 grid."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_core.errors import ConfigError, FeaturesNotFinite
from dcgan_core.evaluate.rows import BATCH, Batch, ImageRows, batches_of, rebatched
from dcgan_core.models.inputs import scaled
from dcgan_core.models.norms import batch_norms, recalibrated
from dcgan_core.models.specs import NetSpec
from dcgan_core.progress import Progress, silent

GRID = 4  # the paper's spatial grid, section 5.1

FeatureType: TypeAlias = Literal["float32", "float16"]
"""How features are kept. float16 takes half the room and rounds to a relative 2^-11."""

Sink: TypeAlias = Callable[[int, Tensor], None]
"""Takes features (B, F) in memory of the processor, and their first row, counted from that of the range."""


@dataclass(frozen=True)
class How:
    """Where and how exactly features are computed; nothing here decides which features they are."""

    device: torch.device | str = "cpu"
    dtype: FeatureType = "float32"
    autocast: bool = False
    """Convolutions in bfloat16: features are then off by up to a few hundredths of their spread. Otherwise
    float32 throughout, without TF32."""


def extract(
    discriminator: nn.Module,
    images: ImageRows,
    *,
    device: torch.device | str,
    batch_size: int = BATCH,
    rows: range | None = None,
    dtype: FeatureType = "float32",
    autocast: bool = False,
    progress: Progress = silent,
) -> NDArray[np.floating]:
    """Features of uint8 RGB images in memory, (N, F), F = 16 x the filters of all convolution layers.

    ``discriminator`` has ``channels`` (1 or 3) and ``feature_maps(x_NCHW)``, which returns one (N, C, H, W)
    map per convolution layer, after its activation; images are scaled to the range of its ``spec``, to
    [-1, 1] where it has none. It is used in eval mode and stays so, on ``device``, in channels_last: prepare
    it by ``batch_norm_mode``. A net with classes is shown none: every class's input is 0, so that no label
    can leak into features.

    Batches are of equal size (to within one image) and follow from the number of all images, so that with
    batch statistics no image is judged in a tiny batch, and ``rows`` [a, b), where not all are wanted, come
    out as they do from the whole. Raises ConfigError where maps are smaller than the grid, and
    FeaturesNotFinite, which names the row among all images, where features are not finite in ``dtype``.
    Paper, section 5.1.
    """
    wanted = range(len(images)) if rows is None else rows
    kept: list[NDArray[np.floating]] = []

    def keep(first: int, features_BF: Tensor) -> None:
        if not kept:
            kept.append(np.empty((len(wanted), features_BF.shape[1]), dtype))
        kept[0][first : first + len(features_BF)] = features_BF.numpy()

    how = How(device, dtype, autocast)
    extract_into(keep, discriminator, images, how, batch_size=batch_size, rows=wanted, progress=progress)
    return kept[0] if kept else np.empty((0, 0), dtype)


def extract_into(
    sink: Sink,
    discriminator: nn.Module,
    images: ImageRows,
    how: How,
    *,
    batch_size: int = BATCH,
    rows: range | None = None,
    progress: Progress = silent,
) -> None:
    """The same, handed to ``sink`` a batch at a time: at most three batches of features are held."""
    wanted = range(len(images)) if rows is None else rows
    batches = batches_of(images, wanted, batch_size)
    try:
        _run(sink, discriminator, batches, len(wanted), how, progress)
    except FeaturesNotFinite as error:
        raise FeaturesNotFinite(wanted.start + error.row, error.others, error.dtype) from None


def extract_stream(
    sink: Sink,
    discriminator: nn.Module,
    stream: Iterable[NDArray[np.uint8]],
    count: int,
    how: How,
    *,
    batch_size: int = BATCH,
    progress: Progress = silent,
) -> None:
    """The same of ``count`` images that come as arrays (B, H, W, 3) of any lengths.

    Raises ValueError where the stream holds more or fewer.
    """
    _run(sink, discriminator, rebatched(stream, count, batch_size), count, how, progress)


def feature_width(discriminator: nn.Module, side: int) -> int:
    """F for images of ``side`` pixels. ConfigError where they are too small."""
    before = discriminator.training
    with torch.inference_mode():
        net = discriminator.eval()
        device = next(net.parameters()).device
        black_2CSS = torch.zeros(2, _described(net).channels, side, side, device=device)
        width = sum(GRID**2 * each.shape[1] for each in maps_of(net, black_2CSS))
    discriminator.train(before)
    return width


def pixel_features(images_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The raw-pixel baseline: the image itself in [-1, 1], flattened, float32 (N, H x W x 3)."""
    return images_NHW3.reshape(len(images_NHW3), -1).astype(np.float32) / 127.5 - 1


def pool_and_join(maps: Iterable[Tensor]) -> Tensor:
    """Maps (N, C, H, W) of any sizes, each max-pooled to 4x4, flattened and joined: (N, 16 x sum of C)."""
    return torch.cat([_pooled(map_NCHW).flatten(1) for map_NCHW in maps], dim=1)


def as_inputs(
    images_NHW3: NDArray[np.uint8],
    channels: int,
    device: torch.device | str = "cpu",
    data_range: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Float32 (N, channels, H, W), black and white at ``data_range``, in memory as channels_last; for one
    channel the luma of ITU-R BT.601."""
    pixels_NHW3 = torch.from_numpy(np.ascontiguousarray(images_NHW3))
    if torch.device(device).type == "cuda":  # from pinned memory the copy runs beside the computation
        pixels_NHW3 = pixels_NHW3.pin_memory().to(device, non_blocking=True)
    inputs_NCHW = scaled(pixels_NHW3.permute(0, 3, 1, 2), channels, data_range)
    return inputs_NCHW.contiguous(memory_format=torch.channels_last)


def inputs_of(
    discriminator: nn.Module, images_NHW3: NDArray[np.uint8], device: torch.device | str = "cpu"
) -> Tensor:
    """Images as this net sees them: its channels, its range (``NetSpec.data_range``)."""
    spec = _spec_of(discriminator)
    data_range = spec.data_range if spec else (-1.0, 1.0)
    return as_inputs(images_NHW3, _described(discriminator).channels, device, data_range)


def maps_of(discriminator: nn.Module, x_NCHW: Tensor) -> list[Tensor]:
    """The maps of every convolution layer after its activation, of a net with classes without any class.

    Raises ConfigError where one is smaller than the grid: its values would stand there several times.
    """
    spec, net = _spec_of(discriminator), _described(discriminator)
    if spec and spec.classes:
        none_N = torch.full((len(x_NCHW),), -1, device=x_NCHW.device)  # equals no class: all inputs are 0
        maps = net.feature_maps(x_NCHW, none_N)
    else:
        maps = net.feature_maps(x_NCHW)
    if (smallest := min(min(each.shape[2:]) for each in maps)) < GRID:
        advice = f"; scale them to the {spec.size} px of {spec.name}" if spec else "; scale them up"
        raise ConfigError(
            f"images of {x_NCHW.shape[3]}x{x_NCHW.shape[2]} px leave this discriminator maps of {smallest} "
            f"px, and features are pooled to a grid of {GRID}x{GRID}{advice}"
        )
    return maps


def calibration_batches(
    discriminator: nn.Module, images: ImageRows, *, batch_size: int = BATCH
) -> Iterator[Tensor]:
    """Inputs for ``batch_norm_mode`` in the images' order; a last part batch is dropped if others came."""
    whole = len(images) // batch_size * batch_size or len(images)
    for start in range(0, whole, batch_size):
        yield inputs_of(discriminator, images[start : start + batch_size])


def batch_norm_mode(
    discriminator: nn.Module,
    mode: Literal["recalibrated", "running", "batch"],
    batches: Iterable[Tensor] = (),
) -> nn.Module:
    """A copy of ``discriminator`` in eval mode whose batch norms use the wanted statistics.

    ``running``: the running averages as they are. ``batch``: those of each batch shown to it.
    ``recalibrated``: the plain means of batch means and biased batch variances over ``batches``
    ((B, channels, H, W) in the net's range, of training images only), as the authors; computed where the
    discriminator is. The argument is left as it was. Raises ConfigError where ``running`` finds no averages,
    ValueError where ``recalibrated`` gets no batches.
    """
    if mode == "recalibrated":
        with _exact(next(discriminator.parameters()).device):
            return recalibrated(discriminator, batches, maps_of)
    net = copy.deepcopy(discriminator).eval()
    norms = batch_norms(net)
    if mode == "running" and any(norm.running_mean is None for norm in norms):
        raise ConfigError(
            "this discriminator keeps no running averages; "
            "set evaluate.batch_norm to 'recalibrated' or 'batch'"
        )
    if mode == "batch":
        for norm in norms:  # in eval mode a norm without averages takes the batch's own statistics
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return net


def _run(
    sink: Sink,
    discriminator: nn.Module,
    batches: Iterable[Batch],
    count: int,
    how: How,
    progress: Progress,
) -> None:
    """Features of each batch to the sink; on a GPU one batch is fetched while the next is computed."""
    device = torch.device(how.device)
    net = discriminator.eval().to(device)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    ready: _OnTheWay | None = None
    for batch in batches:
        started = _OnTheWay(batch, _features(net, batch.images_BHW3, device, how)[batch.keep])
        if ready is not None:
            ready.hand_over(sink, count, progress)
        ready = started
        if device.type == "cpu":
            ready.hand_over(sink, count, progress)
            ready = None
    if ready is not None:
        ready.hand_over(sink, count, progress)


def _features(net: nn.Module, images_BHW3: NDArray[np.uint8], device: torch.device, how: How) -> Tensor:
    with (
        torch.inference_mode(),
        _exact(device),
        torch.autocast(device.type, torch.bfloat16, enabled=how.autocast),
    ):
        # Pooled where the maps are: 16 values a filter leave a GPU, not the maps.
        return pool_and_join(maps_of(net, inputs_of(net, images_BHW3, device))).to(_TYPES[how.dtype])


class _OnTheWay:
    """Features of a batch, being copied to the processor."""

    def __init__(self, batch: Batch, features_BF: Tensor) -> None:
        self.first, self.features_BF = batch.first, features_BF
        self.done: torch.cuda.Event | None = None
        if features_BF.is_cuda:
            self.features_BF = torch.empty(features_BF.shape, dtype=features_BF.dtype, pin_memory=True)
            self.features_BF.copy_(features_BF, non_blocking=True)
            done = self.done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(features_BF.device))

    def hand_over(self, sink: Sink, count: int, progress: Progress) -> None:
        if self.done is not None:
            self.done.synchronize()
        last = self.first + len(self.features_BF)
        # One pass, as a sum is finite only where all are; a sum of large values in float32 may not be.
        if not torch.isfinite(self.features_BF.sum(dtype=torch.float32)):
            wrong_B = ~self.features_BF.isfinite().all(1)
            if bool(wrong_B.any()):
                row, others = self.first + int(wrong_B.int().argmax()), int(wrong_B.sum()) - 1
                raise FeaturesNotFinite(row, others, str(self.features_BF.dtype).removeprefix("torch."))
        sink(self.first, self.features_BF)
        progress(last, count, "features")


def _pooled(map_NCHW: Tensor) -> Tensor:
    """Max-pooled to (N, C, 4, 4)."""
    height, width = map_NCHW.shape[2:]
    if height % GRID or width % GRID:
        return F.adaptive_max_pool2d(map_NCHW, GRID)
    # The same maxima; in channels_last measured 2 to 7 times as fast as the adaptive kernel.
    return F.max_pool2d(map_NCHW, (height // GRID, width // GRID))


def _exact(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions of a GPU in float32 itself, not in torch's default TF32, which rounds inputs to 2^-11."""
    if device.type != "cuda":
        return nullcontext()
    now = torch.backends.cudnn
    return torch.backends.cudnn.flags(
        enabled=now.enabled, benchmark=now.benchmark, deterministic=now.deterministic, allow_tf32=False
    )


_TYPES: dict[FeatureType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class _Described(Protocol):
    @property
    def channels(self) -> int: ...

    def feature_maps(self, x_NCHW: Tensor, y_N: Tensor | None = None, /) -> list[Tensor]: ...


def _described(discriminator: nn.Module) -> _Described:
    return cast("_Described", discriminator)


def _spec_of(discriminator: nn.Module) -> NetSpec | None:
    """The net's description; None for a discriminator of somebody's own."""
    spec = getattr(discriminator, "spec", None)
    return spec if isinstance(spec, NetSpec) else None
