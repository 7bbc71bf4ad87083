"""Encoded training images to pixels, as fast as they can be decoded."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.errors import DecodeError


def decode_rgb(data: bytes) -> images.Rgb:
    """Decode an image of any size to uint8 RGB (H, W, 3), equal to what ``images.decode_rgb`` gives.

    JPEGs go through libjpeg-turbo without a lock held, so threads decode side by side; everything else, and
    JPEGs that something is wrong with, through Pillow. Raises DecodeError.
    """
    rgb = _turbo(data, None)
    return images.decode_rgb(data, max_pixels=2**31) if rgb is None else rgb


def decode_into(data: bytes, out_SS3: NDArray[np.uint8]) -> None:
    """The same into ``out_SS3`` (S, S, 3) uint8. Raises DecodeError also for an image of another size."""
    rgb = _turbo(data, out_SS3)
    decoded = images.decode_rgb(data, max_pixels=2**31) if rgb is None else rgb
    if decoded.shape != out_SS3.shape:
        wanted = f"{out_SS3.shape[1]}x{out_SS3.shape[0]}"
        raise DecodeError("wrong_size", f"it is {decoded.shape[1]}x{decoded.shape[0]}, not {wanted}")
    if rgb is None:
        out_SS3[:] = decoded


def _turbo(data: bytes, buffer: NDArray[np.uint8] | None) -> images.Rgb | None:
    """None for what is no JPEG, may have to be turned, or is damaged, too large or of a kind not read."""
    if data[:3] != b"\xff\xd8\xff" or b"Exif\0" in data[:512]:
        return None
    try:
        return simplejpeg.decode_jpeg(data, buffer=buffer)
    except ValueError:
        return None
