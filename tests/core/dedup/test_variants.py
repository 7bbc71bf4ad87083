"""Generated near duplicates: the same for the same seed, other bytes, and the picture still to be seen."""

from __future__ import annotations

import numpy as np
import pytest

from dcgan_core.dedup.codes import thumbnail
from dcgan_core.dedup.variants import KINDS, MIRRORED, make_variant
from dcgan_core.errors import ConfigError
from dcgan_core.images import Rgb


def picture(height: int = 96, width: int = 80) -> Rgb:
    """A smooth scene with an edge."""
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    rgb = np.stack([x, y, np.sin(5 * x + 3 * y) / 2 + 0.5], 2)
    rgb[height // 3 : height // 2, width // 4 :] *= 0.4
    return (40 + 170 * np.clip(rgb, 0, 1)).astype(np.uint8)


def alike(one: Rgb, other: Rgb) -> float:
    return float(np.corrcoef(thumbnail(one).ravel(), thumbnail(other).ravel())[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_is_another_picture_of_the_same(kind: str) -> None:
    original = picture()
    before = original.copy()
    variant = make_variant(original, kind, [1, 2])
    assert variant.dtype == np.uint8
    assert np.array_equal(variant, make_variant(original, kind, [1, 2]))
    assert np.array_equal(original, before)
    assert variant.shape != original.shape or not np.array_equal(variant, original)
    if kind != MIRRORED:
        assert alike(original, variant) > 0.85
    else:
        assert np.array_equal(variant[:, ::-1], original)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (7, 120)])
def test_pictures_of_any_shape_have_variants(kind: str, size: tuple[int, int]) -> None:
    assert make_variant(picture(*size), kind, [0]).size > 0


def test_chance_differs_between_seeds_and_kinds_keep_their_size() -> None:
    original = picture()
    for kind in ("crop-5", "overlay"):
        first, second = (make_variant(original, kind, [seed]) for seed in (0, 1))
        assert not np.array_equal(first, second)
        assert first.shape == original.shape
    assert make_variant(original, "scale-0.5", [0]).shape == (48, 40, 3)


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no variant 'rotate'.*jpeg-90"):
        make_variant(picture(), "rotate", [0])
