"""From pictures to binary codes: thumbnails, code-layer activations, thresholds and packed bits."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_core.dedup.autoencoder import CONTRAST_FLOOR, PIXELS, SIDE, Autoencoder
from dcgan_core.dedup.neighbours import hamming
from dcgan_core.dedup.similarity import SIDE as LUMA_SIDE
from dcgan_core.dedup.similarity import alike

_ROWS_PER_BLOCK = 1024
_STATISTICS_BLOCK = 65_536
_FRACTION_BITS = 24
"""Weights are rounded to this many binary places: sums of 3072 products with bytes then stay below 2^53."""


@dataclass(frozen=True)
class BitStatistics:
    """How much the bits of a set of codes say: share of ones per bit, and how alike two bits are."""

    mean_B: NDArray[np.float64]
    mean_absolute_correlation: float
    """Over all pairs of bits that vary; 0 when fewer than two do."""


def thumbnail(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The centre square of an RGB picture (H, W, 3) as a (3, 32, 32) thumbnail, averaged over areas."""
    height, width = rgb_HW3.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(rgb_HW3[top : top + side, left : left + side])
    small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.uint8)


def luma(thumb_3HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness (256,) of a (3, 32, 32) thumbnail, 16x16: what pairs of near codes are verified by.

    Coarser than the code's input, so that JPEG blocks and blur do not count, and in whole numbers.
    """
    weighted_HW = np.tensordot(np.array([299, 587, 114]), thumb_3HW.astype(np.int64), 1)
    sum_HW = weighted_HW.reshape(LUMA_SIDE, 2, LUMA_SIDE, 2).sum((1, 3))
    return ((sum_HW + 2000) // 4000).astype(np.uint8).ravel()


def verified_distances(
    one_QX: NDArray[np.uint8],
    other_NX: NDArray[np.uint8],
    *,
    code_bytes: int,
    verify: float,
    verify_step: float,
    limit: int,
) -> NDArray[np.uint16]:
    """Hamming distances (Q, N) of rows that hold a code and behind it its picture's ``luma``.

    Where it is at most ``limit`` but the lumas are less similar than needed, the distance is 65535.
    """
    far_QN = hamming(one_QX[:, :code_bytes], other_NX[:, :code_bytes]).astype(np.uint16)
    q, n = np.nonzero(far_QN <= limit)
    for start in range(0, len(q), _STATISTICS_BLOCK):
        block = slice(start, start + _STATISTICS_BLOCK)
        same = alike(
            one_QX[q[block], code_bytes:],
            other_NX[n[block], code_bytes:],
            far_QN[q[block], n[block]],
            verify,
            verify_step,
        )
        far_QN[q[block][~same], n[block][~same]] = 2**16 - 1
    return far_QN


def activations(model: Autoencoder, thumbs_N3HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Code-layer values (N, bits) before the ReLU of uint8 thumbnails (N, 3, 32, 32).

    Weights are taken as integers times 2^-24, so that every sum is exact: a thumbnail's values do not
    depend on the batch it comes in, the number of threads or the processor.
    """
    scale = 2.0**_FRACTION_BITS
    weight_PB = np.rint(model.encoder.weight.detach().numpy().T.astype(np.float64) * scale)
    weight_sum_B = weight_PB.sum(0)
    bias_B = model.encoder.bias.detach().numpy().astype(np.float64)
    values_NB = np.empty((len(thumbs_N3HW), len(bias_B)))
    for start in range(0, len(thumbs_N3HW), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        pixels_NP = thumbs_N3HW[block].reshape(-1, PIXELS).astype(np.float64)
        mean_N1 = pixels_NP.sum(1, keepdims=True) / PIXELS
        square_N1 = np.einsum("np,np->n", pixels_NP, pixels_NP)[:, None] / PIXELS
        contrast_N1 = np.sqrt(np.maximum(square_N1 - mean_N1**2, 0) + (255 * CONTRAST_FLOOR) ** 2)
        values_NB[block] = (pixels_NP @ weight_PB - mean_N1 * weight_sum_B) / (scale * contrast_N1) + bias_B
    return values_NB


def median_thresholds(activations_NB: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds (bits,) that each splits these activations (N, bits), N >= 1, in halves."""
    return np.median(activations_NB, axis=0)


def encode(
    model: Autoencoder, thumbs_N3HW: NDArray[np.uint8], thresholds_B: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Packed codes (N, bits / 8): a bit is set where its unit is above its threshold (all 0: the ReLU's)."""
    codes = [
        np.packbits(activations(model, thumbs_N3HW[start : start + _STATISTICS_BLOCK]) > thresholds_B, axis=1)
        for start in range(0, len(thumbs_N3HW), _STATISTICS_BLOCK)
    ]
    return np.concatenate(codes) if codes else np.empty((0, len(thresholds_B) // 8), np.uint8)


def bit_statistics(codes_NB: NDArray[np.uint8]) -> BitStatistics:
    """Share of ones of each bit and mean absolute correlation between bits of packed codes, N >= 1."""
    return statistics_of(bit_counts(codes_NB), len(codes_NB))


def bit_counts(codes_NB: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many codes have both of two bits set: (bits, bits); on the diagonal, how many have the one."""
    bits = codes_NB.shape[1] * 8
    both_BB = np.zeros((bits, bits), np.int64)
    for start in range(0, len(codes_NB), _STATISTICS_BLOCK):
        bits_NB = np.unpackbits(codes_NB[start : start + _STATISTICS_BLOCK], axis=1).astype(np.float32)
        both_BB += np.rint(bits_NB.T @ bits_NB).astype(np.int64)  # below 2^24, so exact
    return both_BB


def statistics_of(both_BB: NDArray[np.int64], n: int) -> BitStatistics:
    """The statistics of n >= 1 codes from their ``bit_counts``, which may be sums over parts."""
    mean_B = np.diag(both_BB) / n
    varies = (mean_B > 0) & (mean_B < 1)
    deviation = np.sqrt(mean_B * (1 - mean_B))[varies]
    covariance = (both_BB / n - np.outer(mean_B, mean_B))[np.ix_(varies, varies)]
    correlation = np.abs(covariance / np.outer(deviation, deviation))
    other = ~np.eye(len(deviation), dtype=bool)
    return BitStatistics(mean_B, float(correlation[other].mean()) if other.any() else 0.0)
