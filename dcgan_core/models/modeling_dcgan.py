"""Draws images from an exported DCGAN: a file on its own, which needs only torch, safetensors and numpy.

    python modeling_dcgan.py --n 64 --seed 1 --to samples.png

or, from Python, in the folder that holds config.json and model.safetensors:

    from modeling_dcgan import draw, draw_z, load
    generator = load(".")
    images = draw(generator, draw_z(generator.config, 64, seed=1))  # (64, C, S, S) float32 in [-1, 1]
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Generator(nn.Module):
    """z (N, Z), and classes (N,) int64 where there are some, to images (N, C, S, S) in ``data_range``."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.classes, self.start = config.get("classes", 0), config.get("start", 4)
        self.by_units = config["project_norm"] == "units"
        self.is_bounded_by_tanh = config.get("output", "tanh") == "tanh"
        norms = {"eps": config["bn_eps"], "affine": config.get("affine", True)}
        units, filters = config["z_size"], config["project"]
        self.dense = nn.ModuleList()
        for wanted in config.get("dense", ()):
            linear = nn.Linear(units + self.classes, wanted, bias=False)
            self.dense.append(nn.Sequential(linear, nn.BatchNorm1d(wanted, **norms), nn.ReLU(inplace=True)))
            units = wanted
        projected = filters * self.start**2
        self.project = nn.Linear(units + self.classes, projected, bias=False)
        self.project_norm: nn.Module = (
            nn.BatchNorm1d(projected, **norms) if self.by_units else nn.BatchNorm2d(filters, **norms)
        )
        layers: list[nn.Module] = []
        for conv in config["generator"]:
            kernel, stride = conv["kernel"], conv["stride"]
            pad = (kernel - 1) // 2
            more = stride - kernel + 2 * pad  # so that the side is exactly stride times larger
            wide = filters + self.classes
            layers.append(nn.ConvTranspose2d(wide, conv["filters"], kernel, stride, pad, more, bias=False))
            filters = conv["filters"]
            if conv["norm"]:
                layers += [nn.BatchNorm2d(filters, **norms), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    @property
    def data_range(self) -> tuple[float, float]:
        """Black and white."""
        return (-1.0, 1.0) if self.is_bounded_by_tanh else (0.0, 1.0)

    def forward(self, z_NZ: Tensor, y_N: Tensor | None = None) -> Tensor:
        h = z_NZ
        for layer in self.dense:
            h = layer(self._joined(h, y_N))
        h = self.project(self._joined(h, y_N))
        shape = (-1, self.config["project"], self.start, self.start)
        h = self.project_norm(h).view(shape) if self.by_units else self.project_norm(h.view(shape))
        h = torch.relu(h)
        for layer in self.layers:
            h = layer(self._joined(h, y_N) if isinstance(layer, nn.ConvTranspose2d) else h)
        return torch.tanh(h) if self.is_bounded_by_tanh else torch.sigmoid(h)

    def _joined(self, h: Tensor, y_N: Tensor | None) -> Tensor:
        """Units or maps with the one-hot class beside them, for nets that have classes."""
        if not self.classes:
            return h
        if y_N is None:
            raise ValueError(f"say which class to draw, 0 to {self.classes - 1}, for each image")
        one_hot = nn.functional.one_hot(y_N, self.classes).to(h.dtype)
        if h.ndim == 4:
            one_hot = one_hot[:, :, None, None].expand(-1, -1, *h.shape[2:])
        return torch.cat([h, one_hot], dim=1)


def load(folder: str | Path = ".") -> Generator:
    """The generator of ``config.json`` with the weights of ``model.safetensors``, ready to draw."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    generator = Generator(config)
    generator.load_state_dict(load_file(folder / "model.safetensors"))
    return generator.eval()


def draw_z(config: dict[str, Any], n: int, seed: int) -> Tensor:
    """z (n, Z) float32 from U(-1, 1) or N(0, 1), the same as dcgan draws by that seed."""
    random = np.random.default_rng(seed)
    shape = (n, config["z_size"])
    z_NZ = (
        random.uniform(-1.0, 1.0, shape) if config["z_kind"] == "uniform" else random.standard_normal(shape)
    )
    return torch.from_numpy(z_NZ.astype(np.float32))


def draw(generator: Generator, z_NZ: Tensor, y_N: Tensor | None = None, batch_size: int = 256) -> Tensor:
    """The images (N, C, S, S) float32 of given z; of a net with classes, these in turn unless given."""
    if generator.classes and y_N is None:
        y_N = torch.arange(len(z_NZ)) % generator.classes
    with torch.inference_mode():
        return torch.cat(
            [
                generator(z_NZ[i : i + batch_size], y_N[i : i + batch_size] if y_N is not None else None)
                for i in range(0, len(z_NZ), batch_size)
            ]
        )


def write_png(images_NCHW: Tensor, data_range: tuple[float, float], path: str | Path, pad: int = 2) -> None:
    """All images on one white sheet, near square; ``data_range``: black and white."""
    black, white = data_range
    levels = ((images_NCHW.clamp(black, white) - black) * (255 / (white - black))).round().to(torch.uint8)
    tiles = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    count, side = tiles.shape[:2]
    columns = math.ceil(math.sqrt(count))
    step = side + pad
    height, width = math.ceil(count / columns) * step + pad, columns * step + pad
    sheet = np.full((height, width, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = pad + index // columns * step, pad + index % columns * step
        sheet[top : top + side, left : left + side] = tile
    rows = b"".join(b"\0" + row.tobytes() for row in sheet)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw images from the DCGAN in this folder.")
    parser.add_argument("--n", type=int, default=64, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="seed of z")
    parser.add_argument("--to", default="samples.png", help="PNG file")
    arguments = parser.parse_args()
    generator = load(Path(__file__).parent)
    z_NZ = draw_z(generator.config, arguments.n, arguments.seed)
    write_png(draw(generator, z_NZ), generator.data_range, arguments.to)
    print(f"{arguments.n} images in {arguments.to}")


if __name__ == "__main__":
    main()
