"""How alike two small grey pictures are, wherever they differ and however little one of them was cropped.

The contrast-structure term of the structural similarity index (SSIM; Wang et al. 2004): windows are compared
one by one, so that a horizon or a frame that two pictures share does not outweigh what they show, as it does
in a correlation of the whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 16
"""Pictures are 16x16."""
SURE_BITS = 12
"""Up to so many differing bits of 128, chance pairs are rare."""

_WINDOW = 5
_STABILITY = 0.05
"""The index's constant, for pictures of variance 1: flat windows count as equal."""
_FLATTEST = 4.0
"""Grey levels: what varies less is not stretched to a variance of 1."""
_ZOOMS = (15.5, 15.0, 14.5)
"""Sides of the central parts that one picture is compared by as well: crops of up to about 5 % a side."""
_PAIRS_PER_BLOCK = 4096
_DECIMALS = 6

_Pictures = NDArray[np.float64]


def similarity(one_PX: NDArray[np.uint8], other_PX: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Similarity (P,) of grey pictures (P, 256) and others, -1 to 1; of equal ones it is 1.

    Brightness and contrast of the whole do not count. It is symmetric, and the largest over a few central
    parts of either picture. Rounded to six decimals, so that the last bit of a sum decides nothing.
    """
    found = [np.empty(0)]
    for start in range(0, len(one_PX), _PAIRS_PER_BLOCK):
        one, other = (
            each[start : start + _PAIRS_PER_BLOCK].reshape(-1, SIDE, SIDE).astype(np.float64)
            for each in (one_PX, other_PX)
        )
        plain_one, plain_other = _equalised(one), _equalised(other)
        best = _structure(plain_one, plain_other)
        for side in _ZOOMS:
            best = np.maximum(best, _structure(_equalised(_centre(one, side)), plain_other))
            best = np.maximum(best, _structure(plain_one, _equalised(_centre(other, side))))
        found.append(best)
    return np.round(np.concatenate(found), _DECIMALS)


def needed_similarity(
    distance_P: NDArray[np.integer], verify: float, verify_step: float
) -> NDArray[np.float64]:
    """Similarity (P,) that pictures need for their codes to count as near: ``verify``, and ``verify_step``
    more for every bit beyond ``SURE_BITS`` in which the codes differ."""
    return np.round(verify + verify_step * np.maximum(0, distance_P.astype(np.int64) - SURE_BITS), _DECIMALS)


def alike(
    one_PX: NDArray[np.uint8],
    other_PX: NDArray[np.uint8],
    distance_P: NDArray[np.integer],
    verify: float,
    verify_step: float,
) -> NDArray[np.bool_]:
    """Whether pictures whose codes differ in so many bits are as similar as they need to be: (P,).

    Equal codes are not asked about: they are the paper's rule.
    """
    needed_P = needed_similarity(distance_P, verify, verify_step)
    found_P = distance_P == 0
    possible = np.flatnonzero(~found_P & (needed_P <= 1))
    found_P[possible] = similarity(one_PX[possible], other_PX[possible]) >= needed_P[possible]
    return found_P


def _equalised(pictures_PHW: _Pictures) -> _Pictures:
    """Mean 0, and variance 1 where a picture is not flat."""
    mean = pictures_PHW.mean((1, 2), keepdims=True)
    return (pictures_PHW - mean) / np.maximum(_FLATTEST, pictures_PHW.std((1, 2), keepdims=True))


def _structure(one_PHW: _Pictures, other_PHW: _Pictures) -> NDArray[np.float64]:
    """Mean over windows of the contrast-structure term."""
    mean_one, mean_other = _windows(one_PHW), _windows(other_PHW)
    variance_one = np.maximum(0, _windows(one_PHW * one_PHW) - mean_one**2)
    variance_other = np.maximum(0, _windows(other_PHW * other_PHW) - mean_other**2)
    covariance = _windows(one_PHW * other_PHW) - mean_one * mean_other
    term = (2 * covariance + _STABILITY) / (variance_one + variance_other + _STABILITY)
    return term.mean((1, 2))


def _windows(pictures_PHW: _Pictures) -> _Pictures:
    """Means over all windows."""
    sums = np.pad(pictures_PHW.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    w = _WINDOW
    return (sums[:, w:, w:] - sums[:, :-w, w:] - sums[:, w:, :-w] + sums[:, :-w, :-w]) / w**2


def _centre(pictures_PHW: _Pictures, side: float) -> _Pictures:
    """The central part of so many pixels, enlarged to the whole (bilinear)."""
    places = (SIDE - side) / 2 + (np.arange(SIDE) + 0.5) * side / SIDE - 0.5
    low = np.clip(np.floor(places).astype(np.int64), 0, SIDE - 2)
    share = places - low
    rows = pictures_PHW[:, low] * (1 - share)[:, None] + pictures_PHW[:, low + 1] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
