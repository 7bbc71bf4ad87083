"""Drawing many images: from which weights, on which device, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcgan_core import images
from dcgan_core.errors import ConfigError
from dcgan_core.models.weights import Model, draw_z, to_bytes, to_uint8
from dcgan_core.progress import Progress, silent
from dcgan_core.waiting import take_gpu

Weights = Literal["ema", "plain"]

LARGEST_SHEET_PIXELS = 2**28

IN_WORDS: dict[Weights, str] = {"ema": "moving average of G", "plain": "G as trained"}


def chosen_weights(model: Model, ema: bool | None) -> Weights:
    """Which G draws: the moving average where there is one, unless a user says which.

    Raises ConfigError where the average is asked for and there is none.
    """
    if ema and model.ema is None:
        raise ConfigError(
            "--ema: there is no moving average of G here (train.ema was 0, or a single file was given); "
            "leave --ema out"
        )
    return "ema" if model.ema is not None and ema is not False else "plain"


def chosen_device(name: str, gpus: int = -1) -> str:
    """``auto``: a GPU if there is one and it is wanted (``gpus``, DCGAN_GPUS), else the processor.

    Raises ConfigError for a device that is not here. With ``gpus`` 1 waits and raises as ``take_gpu``.
    """
    if name == "auto":
        return "cuda" if take_gpu(gpus, "this command or stage") else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise ConfigError(f"--device {name}: choose auto, cpu or cuda (cuda:1 for the second GPU)")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch finds {torch.cuda.device_count()} GPUs here; use --device cpu, or "
            "install a torch and a driver that fit each other"
        )
    return name


def drawn_in_batches(
    model: Model,
    n: int,
    *,
    seed: int,
    weights: Weights,
    device: str = "cpu",
    batch_size: int = 256,
    label: int | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """``n`` images as uint8 (B, S, S, 3), at most ``batch_size`` at a time.

    A net with classes draws them in turn, or ``label`` alone (ConfigError for one that it does not have).
    z of image i follows from seed and i alone, and batch norm uses stored statistics, so neither ``n`` nor
    ``batch_size`` changes an image, but for float32 rounding (at most one grey level).
    """
    random, y_N = np.random.default_rng(seed), model.classes(n, label)
    for start in range(0, n, batch_size):
        z_NZ = draw_z(model.spec, min(batch_size, n - start), random)
        of_batch = None if y_N is None else y_N[start : start + batch_size]
        drawn = model.draw(z_NZ, of_batch, ema=weights == "ema", device=device, batch_size=batch_size)
        yield to_uint8(drawn, model.spec.data_range)


def pixels_in_batches(
    model: Model,
    n: int,
    *,
    seed: int,
    weights: Weights,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The same images as uint8 (B, C, S, S) that stay on ``device``, with their classes int64 (B,) if any.

    For measures over many samples, which a way through the processor's memory would take most time of.
    """
    random, y_N = np.random.default_rng(seed), model.classes(n)
    net = (model.ema if weights == "ema" and model.ema is not None else model.generator).to(device).eval()
    for start in range(0, n, batch_size):
        z_BZ = draw_z(model.spec, min(batch_size, n - start), random).to(device)
        y_B = None if y_N is None else y_N[start : start + batch_size].to(device)
        with torch.inference_mode():
            pixels_BCSS = to_bytes(net(z_BZ, y_B).float(), model.spec.data_range)
        yield pixels_BCSS, y_B


def write_sheet(
    batches: Iterable[NDArray[np.uint8]],
    to: Path,
    n: int,
    columns: int | None = None,
    progress: Progress = silent,
) -> None:
    """All images (uint8, (B, S, S, 3) a batch) on one PNG, near square where ``columns`` is not given.

    Raises ConfigError for a directory, or more than fits on a sheet.
    """
    if to.is_dir():
        raise ConfigError(f"{to} is a directory; give the name of a file, or draw with --each")
    drawn: list[NDArray[np.uint8]] = []
    for batch in batches:
        if n * batch.shape[1] * batch.shape[2] > LARGEST_SHEET_PIXELS:
            raise ConfigError(f"{n} images of {batch.shape[1]} px are too many for one sheet; use --each")
        drawn.append(batch)
        progress(sum(map(len, drawn)), n, "")
    sheet = images.encode_png(images.grid(np.concatenate(drawn), columns))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(sheet)


def write_each(
    batches: Iterable[NDArray[np.uint8]], folder: Path, n: int, prefix: str, progress: Progress = silent
) -> None:
    """A PNG an image, numbered; no more than one batch is held in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for batch in batches:
        for image in batch:
            (folder / f"{prefix}{written:05d}.png").write_bytes(images.encode_png(image))
            written += 1
        progress(written, n, "")
