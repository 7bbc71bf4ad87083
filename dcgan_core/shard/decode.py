"""Encoded training images to pixels, as fast as they can be decoded."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.errors import DecodeError


def decode_into(data: bytes, out_SS3: NDArray[np.uint8]) -> None:
    """Decode one square image into ``out_SS3`` (S, S, 3) uint8, equal to what ``images.decode_rgb`` gives.

    JPEGs go through libjpeg-turbo without a lock held, so threads decode side by side; everything else, and
    JPEGs that something is wrong with, through Pillow. Raises DecodeError, also for an image of another size.
    """
    if data[:3] == b"\xff\xd8\xff" and b"Exif\0" not in data[:512]:
        try:
            rgb = simplejpeg.decode_jpeg(data, buffer=out_SS3)
        except ValueError:  # damaged, larger than the buffer, or of a kind that it does not read
            pass
        else:
            _check_size(rgb, out_SS3)
            return
    rgb = images.decode_rgb(data, max_pixels=2**31)
    _check_size(rgb, out_SS3)
    out_SS3[:] = rgb


def _check_size(rgb: NDArray[np.uint8], out_SS3: NDArray[np.uint8]) -> None:
    if rgb.shape != out_SS3.shape:
        wanted = f"{out_SS3.shape[1]}x{out_SS3.shape[0]}"
        raise DecodeError("wrong_size", f"it is {rgb.shape[1]}x{rgb.shape[0]}, not {wanted}")
