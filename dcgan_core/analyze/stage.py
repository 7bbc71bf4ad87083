"""The stage `analyze`: figures of a trained model, each with the seeds it can be redrawn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from dcgan_core import images
from dcgan_core.artifacts import PartFile, Receipt, write_part
from dcgan_core.config import AnalyzeConfig, Json
from dcgan_core.held_out import below_of
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows

if TYPE_CHECKING:
    from dcgan_core.models.weights import Model

NEIGHBOURS = pa.schema(
    [
        ("sample", pa.int32()),
        ("rank", pa.int32()),
        ("key", pa.string()),
        ("distance", pa.float32()),
    ]
)
"""Euclidean distance in pixels scaled to [-1, 1]."""

FIGURES = {
    "samples": ("Samples", "Random draws of the generator: nothing is chosen by hand."),
    "walk": ("A walk through latent space", "Straight lines between random points (paper, section 6.1)."),
    "neighbours": (
        "Samples beside their nearest training images",
        "Left a sample, then the training images nearest to it in pixel space. A near copy would point to "
        "memorisation; its absence proves little.",
    ),
}


@dataclass(frozen=True)
class Analyze(Stage):
    """One part per figure."""

    artifact: ClassVar[str] = "figures"
    flow: ClassVar[str] = "analyze"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "figures"

    config: AnalyzeConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity()

    def plan(self, store: Store) -> Sequence[Part]:
        content = [self.input_manifest(store, name).content for name in ("train", "shards")]
        return [Part(index, self.part_key(content, name), name) for index, name in enumerate(FIGURES)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.models.weights import load_trained

        model = load_trained(store, self.input_manifest(store, "train"))
        seed = self.seed + part.index
        name: str = part.payload
        draw = {"samples": self._samples, "walk": self._walk, "neighbours": self._neighbours}[name]
        picture, more = draw(store, model, seed, part.index)
        title, caption = FIGURES[name]
        weights = "ema" if model.ema is not None else "generator"
        about = {"figure": name, "title": title, "caption": caption, "seed": seed, "weights": weights}
        files = (
            write_part(store, self.address, f"{name}-{part.index:05d}.png", picture),
            write_part(
                store, self.address, f"{name}-{part.index:05d}.json", (json.dumps(about) + "\n").encode()
            ),
            *more,
        )
        return Receipt(part=part.index, key=part.key, files=files, counts={"figures": 1})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts={"figures": len(receipts)})

    def _samples(self, store: Store, model: Model, seed: int, index: int) -> tuple[bytes, list[PartFile]]:
        from dcgan_core.models.weights import to_uint8

        drawn = model.sample(self.config.grid, seed=seed, ema=model.ema is not None)
        return images.encode_png(images.grid(to_uint8(drawn, model.spec.data_range))), []

    def _walk(self, store: Store, model: Model, seed: int, index: int) -> tuple[bytes, list[PartFile]]:
        import numpy as np
        import torch

        from dcgan_core.analyze.latent import walk
        from dcgan_core.models.dcgan import classes_in_turn
        from dcgan_core.models.weights import draw_z, to_uint8

        points = draw_z(model.spec, self.config.walk_points, np.random.default_rng(seed))
        lines = [walk(torch.stack(ends), self.config.walk_steps) for ends in pairwise(points)]
        classes = classes_in_turn(model.spec, len(lines))  # one a line
        y_N = None if classes is None else classes.repeat_interleave(len(lines[0]))
        drawn = to_uint8(model.draw(torch.cat(lines), y_N, ema=model.ema is not None), model.spec.data_range)
        return images.encode_png(images.grid(drawn, columns=self.config.walk_steps + 1)), []

    def _neighbours(self, store: Store, model: Model, seed: int, index: int) -> tuple[bytes, list[PartFile]]:
        import numpy as np

        from dcgan_core.analyze.neighbours import nearest
        from dcgan_core.models.weights import to_uint8
        from dcgan_core.shard.reader import read_images

        train, shards = (self.input_manifest(store, name) for name in ("train", "shards"))
        data = read_images(store, shards, model.spec.size, held_below=below_of(train))
        samples = model.sample(self.config.neighbours, seed=seed, ema=model.ema is not None)
        drawn = to_uint8(samples, model.spec.data_range)
        pool = data.pixels_N3SS.transpose(0, 2, 3, 1)
        flat = [array.reshape(len(array), -1).astype(np.float32) / 127.5 - 1 for array in (drawn, pool)]
        found, distances = nearest(flat[0], flat[1], self.config.nearest)
        tiles = [image for row, sample in zip(found, drawn, strict=True) for image in (sample, *pool[row])]
        rows = [
            {"sample": sample, "rank": rank, "key": data.keys[found[sample, rank]], "distance": distance}
            for sample in range(len(drawn))
            for rank, distance in enumerate(distances[sample].tolist())
        ]
        file = write_rows(store, self.address, f"neighbours-{index:05d}.parquet", rows, NEIGHBOURS)
        picture = images.grid(np.stack(tiles), columns=1 + found.shape[1])
        return images.encode_png(picture), [file]
