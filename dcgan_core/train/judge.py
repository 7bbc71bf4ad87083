"""Looks at a run's samples: grids, what they are like beside real images, and scores of steps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_core import images
from dcgan_core.errors import NoUsableData
from dcgan_core.models.dcgan import Discriminator, Generator, build, classes_in_turn
from dcgan_core.models.inputs import to_inputs
from dcgan_core.models.norms import batch_statistics, recalibrated
from dcgan_core.models.weights import to_uint8
from dcgan_core.shard.order import Indices, balanced
from dcgan_core.train import quality
from dcgan_core.train.data import Pixels
from dcgan_core.train.noise import GRID, SCORE, draw_batch_z
from dcgan_core.train.state import Job, Run

GRID_COLUMNS, GRID_ROWS = 8, 8
_CHUNK = 128
"""Samples drawn together: batch statistics should be those of a batch as in training."""


class Judge:
    """Draws from G, or from its moving average, without touching either. Rank 0 has one."""

    def __init__(self, pixels: Pixels, numbers_N: Indices, job: Job) -> None:
        """``numbers_N``: the real images that samples are compared with.

        Raises NoUsableData where they are all alike: there is nothing to learn.
        """
        self._job = job
        real = [
            to_inputs(pixels.batch(numbers_N[start : start + _CHUNK]), job.spec)
            for start in range(0, len(numbers_N), _CHUNK)
        ]
        self._real_NCHW = _centred(torch.cat(real), job)
        few = self._real_NCHW[: GRID_COLUMNS * GRID_ROWS]
        self._real_diversity, self._real_saturation = quality.diversity(few), quality.saturation(few)
        if self._real_diversity == 0:
            raise NoUsableData(
                "train", {"alike": len(few)}, "All images looked at are equal; look at the shards' source."
            )
        self._yardstick: Discriminator | None = None
        self._real_features_NF: Tensor | None = None

    def grid(self, net: Generator) -> bytes:
        """64 samples (a column a class, where there are classes) of the same z each time, as PNG."""
        columns = self._job.spec.classes or GRID_COLUMNS
        return images.encode_png(images.grid(to_uint8(self._grid_samples(net)), columns=columns))

    def vitals(self, run: Run) -> dict[str, float]:
        """``diversity`` relative to that of real images; ``saturation`` beyond theirs, 0 to 1."""
        drawn = self._grid_samples(run.pair.generator.net)
        room = max(1 - self._real_saturation, 1e-3)
        return {
            "diversity": quality.diversity(drawn) / self._real_diversity,
            "saturation": max(0.0, (quality.saturation(drawn) - self._real_saturation) / room),
        }

    def scores(self, run: Run) -> dict[str, float]:
        """Distances of real images and as many samples (of the moving average where there is one)."""
        net = run.average if run.average is not None else run.pair.generator.net
        fake_MCHW = self._drawn(net, SCORE, len(self._real_NCHW))
        yardstick = self._fixed_net()
        assert self._real_features_NF is not None
        fake_MF = self._features(yardstick, fake_MCHW)
        return {
            "nearest": quality.nearest_distance(self._real_NCHW, fake_MCHW),
            "kernel": quality.kernel_distance(self._real_features_NF, fake_MF),
        }

    def _fixed_net(self) -> Discriminator:
        """D as it was before its first step: trained D's change, and so would what a distance means."""
        if self._yardstick is None:
            blind = replace(self._job.spec, classes=0)  # images are compared, not what they are called
            net = build(blind, self._job.seed)[1].to(self._job.runtime.device)
            self._yardstick = recalibrated(
                net, [self._real_NCHW], lambda net, x_NCHW: net.feature_maps(x_NCHW)
            )
            self._real_features_NF = self._features(self._yardstick, self._real_NCHW)
        return self._yardstick

    @torch.no_grad()
    def _features(self, net: Discriminator, images_NCHW: Tensor) -> Tensor:
        """All maps of a net, each averaged to 2x2: (N, 4 x filters)."""
        parts = []
        for start in range(0, len(images_NCHW), _CHUNK):
            maps = net.feature_maps(images_NCHW[start : start + _CHUNK])
            parts.append(torch.cat([F.adaptive_avg_pool2d(_as_map(each), 2).flatten(1) for each in maps], 1))
        return torch.cat(parts)

    def _grid_samples(self, net: Generator) -> Tensor:
        return self._drawn(net, GRID, (self._job.spec.classes or GRID_COLUMNS) * GRID_ROWS)

    @torch.no_grad()
    def _drawn(self, net: Generator, stream: int, count: int) -> Tensor:
        """Samples (count, C, S, S) in [-1, 1], normalised by their own batches as in training."""
        job = self._job
        z_NZ = draw_batch_z(job.spec, job.seed, stream, count).to(job.runtime.device)
        label_N = classes_in_turn(job.spec, count, job.runtime.device)
        drawn = []
        with batch_statistics(net):
            for part in balanced(count, -(-count // _CHUNK)):  # of equal size: none of one or two images
                few = slice(part.start, part.stop)
                drawn.append(net(z_NZ[few], None if label_N is None else label_N[few]))
        return _centred(torch.cat(drawn).float(), job)


def _centred(images_NCHW: Tensor, job: Job) -> Tensor:
    """Images in the net's own range as [-1, 1]."""
    black, white = job.spec.data_range
    return (images_NCHW - black) * (2 / (white - black)) - 1


def _as_map(values: Tensor) -> Tensor:
    """Dense layers have maps of one pixel."""
    return values if values.ndim == 4 else values[:, :, None, None]
