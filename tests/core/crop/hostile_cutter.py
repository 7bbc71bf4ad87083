"""The configured cutter with a decoder that certain photos take down; named by tests, run in the child."""

from __future__ import annotations

from typing import Any

from dcgan_core import images
from dcgan_core.config import CropConfig
from dcgan_core.crop.cutters import Cutter, open_cutter
from dcgan_core.crop.photo import Photo
from tests.core.hostile import do

DEED_OF_WIDTH = {66: "segfault", 67: "hang"}


def open_hostile(config: CropConfig) -> Cutter:
    """Crashes on photos 66 pixels wide and never comes back from those of 67."""
    cutter = open_cutter(config)

    def rows(photo: Photo) -> list[dict[str, Any]]:
        do(DEED_OF_WIDTH.get(images.read_header(photo.data, 10**8).width), "")
        return cutter(photo)

    return rows
