"""Curves and grids for TensorBoard, where it is installed: event files beside the artifact's own files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from dcgan_core import images
from dcgan_core.artifacts import Address
from dcgan_core.storage import Store

FOLDER = "tensorboard"
Points = tuple[list[tuple[str, float, int]], list[tuple[str, bytes, int]]]
"""Numbers and pictures: name, value, step."""


class Curves:
    """Points that are kept until they are written, whole, as one more event file named by its step.

    TensorBoard's own writer appends from a thread, which object stores and full disks do not take.
    """

    def __init__(self, store: Store, address: Address, step: int) -> None:
        """``step``: what an earlier life has written beyond it is deleted."""
        self._store, self._path = store, f"{address.path}/{FOLDER}"
        self._installed = find_spec("tensorboard") is not None
        self._numbers: list[tuple[str, float, int]] = []
        self._pictures: list[tuple[str, bytes, int]] = []
        for name in store.names(self._path):
            if name > _file_of(step):
                store.delete(f"{self._path}/{name}")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        self._numbers += [(name, value, step) for name, value in values.items()] if self._installed else []

    def picture(self, step: int, name: str, png: bytes) -> None:
        """One picture of a series."""
        self._pictures += [(f"samples/{name}", png, step)] if self._installed else []

    def take(self) -> Points:
        """What has come since the last time."""
        points = (self._numbers, self._pictures)
        self._numbers, self._pictures = [], []
        return points

    def write(self, step: int, points: Points) -> None:
        """Let others see it."""
        numbers, pictures = points
        if not (numbers or pictures):
            return
        from torch.utils.tensorboard import SummaryWriter

        with tempfile.TemporaryDirectory(prefix="dcgan-curves-") as folder:
            with SummaryWriter(folder) as writer:
                for name, value, at in numbers:
                    writer.add_scalar(name, value, at)
                for name, png, at in pictures:
                    pixels = images.decode_rgb(png, max_pixels=2**24)
                    writer.add_image(name, pixels, at, dataformats="HWC")
            (file,) = Path(folder).iterdir()
            self._store.write_bytes(f"{self._path}/{_file_of(step)}", file.read_bytes())


def _file_of(step: int) -> str:
    return f"events.out.tfevents.{step:08d}"
