"""Random numbers of training as functions of (seed, stream, step, global sample index): no state to store."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcgan_core.models.specs import NetSpec

# Streams beside that of the training steps; a step's number never reaches them.
GRID, RECALIBRATION, SCORE = 2**40, 2**41, 2**42
AUGMENT_REAL, AUGMENT_FAKE, AUGMENT_ANSWER = (2**60 + number * 2**50 for number in range(3))
"""Augmentation of real images, of fakes that D learns on, and of fakes that G learns on."""


def draw_batch_z(spec: NetSpec, seed: int, step: int, batch_size: int) -> Tensor:
    """z (batch_size, Z) float32 of the whole global batch.

    Every rank draws all and takes its stretch, so any number of ranks sees the same z.
    """
    random = _stream(seed, step)
    shape = (batch_size, spec.z_size)
    if spec.z_kind == "uniform":
        return torch.from_numpy(random.random(shape, dtype=np.float32) * 2 - 1)
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def draw_uniform(seed: int, stream: int, batch_size: int, columns: int) -> Tensor:
    """(batch_size, columns) float32 in [0, 1), for augmentation."""
    return torch.from_numpy(_stream(seed, stream).random((batch_size, columns), dtype=np.float32))


def salted(seed: int, attempt: int) -> int:
    """The seed of noise after ``attempt`` rollbacks that asked for another one; at first the seed itself."""
    return seed + attempt * 2**32  # seeds end at 2^31


def _stream(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
