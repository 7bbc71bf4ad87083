"""The stage `features`: what D, and D before training, see in the images of every labelled set."""

from __future__ import annotations

import io
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from dcgan_core.artifacts import Manifest, PartFile, Receipt, fingerprint_of, read_part
from dcgan_core.config import EvaluateConfig, Json, LabelledSet
from dcgan_core.errors import FeaturesNotFinite
from dcgan_core.place import processors
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, sha256_of_file

if TYPE_CHECKING:
    from dcgan_core.evaluate.datasets import Drawn, Labelled
    from dcgan_core.models.dcgan import Discriminator

TRAINED, UNTRAINED = "discriminator", "untrained discriminator"
_ROWS = 8192
"""Rows of a part: half a gigabyte of the widest features, in float16."""
CALIBRATION = 12_800
"""Training images whose batches give batch norm its statistics."""
OF_IMAGES = ("max_train", "max_test", "test_share")
"""Fields that decide which images of a set are used."""
_LOADED: dict[tuple[object, ...], Labelled] = {}
_PREPARED: dict[tuple[str, ...], Discriminator] = {}
"""The set and the net that this process used last: reading and statistics take as long as some parts."""


@dataclass(frozen=True)
class OverSets(Stage):
    """A stage about the labelled sets of the configuration."""

    flow: ClassVar[str] = "evaluate"

    config: EvaluateConfig
    size: int
    """Side in pixels at which D sees the images."""
    gpus: int = -1
    """0: no GPU, even where there is one."""

    def source(self) -> dict[str, Json]:
        return cast("dict[str, Json]", self.identities)

    @cached_property
    def identities(self) -> dict[str, dict[str, str]]:
        """What each set holds, by hashes."""
        from dcgan_core.evaluate.datasets import identity

        return {spec.name: {"kind": spec.kind, **identity(spec)} for spec in self.config.sets}

    def drawn(self, spec: LabelledSet) -> Drawn:
        """The labelled set as the features see it, its images unread."""
        from dcgan_core.evaluate.datasets import draw

        config = self.config
        return draw(
            spec,
            size=self.size,
            test_share=config.test_share,
            max_train=config.max_train,
            max_test=config.max_test,
            seed=self.seed,
        )

    def halves(self) -> list[tuple[LabelledSet, dict[str, int]]]:
        """Every set and the images of its halves, `train` and `test`, of which labels alone are read.

        ConfigError where a set has too few for its protocol.
        """
        from dcgan_core.evaluate.enough import check_enough

        found = []
        for spec in self.config.sets:
            drawn = self.drawn(spec)
            check_enough(spec, self.config, drawn.counts)
            found.append((spec, {"train": len(drawn.train), "test": len(drawn.test)}))
        return found

    def load(self, spec: LabelledSet) -> Labelled:
        """The same in memory; kept, as one worker does several parts of it."""
        about = self.config.identity(*OF_IMAGES)
        key = (repr(self.identities[spec.name]), self.size, repr(about), self.seed)
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = self.drawn(spec).read()
        return _LOADED[key]

    def key_of(self, *what: Any) -> str:
        """A part's key: not of the whole configuration, so that another baseline leaves the others alone."""
        return fingerprint_of([self.artifact, self.version, self.seed, *what], length=32)

    @property
    def device(self) -> str:
        """Where this process computes."""
        from dcgan_core.models.sampling import chosen_device

        return chosen_device("auto", self.gpus)

    @property
    def machine(self) -> str:
        """What this process computes on, in words."""
        import torch

        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return f"{processors()} cores ({platform.processor() or platform.machine()}), no GPU"


class _Wanted(NamedTuple):
    """One part: rows of one half of a set, as one net sees them."""

    spec: LabelledSet
    net: str
    half: Literal["train", "test"]
    rows: range


@dataclass(frozen=True)
class Features(OverSets):
    """Features of every labelled set, training and test images apart, in stretches of rows."""

    artifact: ClassVar[str] = "features"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "images"

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*OF_IMAGES, "batch_norm", "feature_type")

    def source(self) -> dict[str, Json]:
        """The sets, and whether the untrained net is wanted: not a setting, so that parts are taken over."""
        judged = [spec.name for spec in self.config.sets if spec.protocol != "mnist-nn"]
        identities: dict[str, Json] = {name: {**self.identities[name]} for name in judged}
        return {**identities, "untrained": "untrained" in self.config.baselines}

    def plan(self, store: Store) -> Sequence[Part]:
        from dcgan_core.evaluate.rows import row_ranges

        content = self.input_manifest(store, "train").content
        fields = self.settings()
        nets = (TRAINED, UNTRAINED) if "untrained" in self.config.baselines else (TRAINED,)
        parts: list[Part] = []
        for spec, counts in self.halves():
            if spec.protocol == "mnist-nn":  # judges samples, not features
                continue
            for net in nets:
                for half, count in counts.items():
                    for rows in row_ranges(count, math.ceil(count / _ROWS)):
                        place = (net, half, rows.start, count)
                        what = (spec.name, self.identities[spec.name], self.size, *place)
                        wanted = _Wanted(spec, net, cast("Literal['train', 'test']", half), rows)
                        key = self.key_of(fields, content, *what)
                        parts.append(Part(len(parts), key, wanted, len(rows)))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.evaluate.feature_files import create, fill
        from dcgan_core.evaluate.features import feature_width

        wanted: _Wanted = part.payload
        data = self.load(wanted.spec)
        net = self._prepared(store, wanted)
        images = data.train_images_NHW3 if wanted.half == "train" else data.test_images_NHW3
        name = f"features-{part.index:05d}.npy"
        width = feature_width(net, self.size)
        with store.writing(self.address.part_path(name)) as path:
            file = create(path, len(wanted.rows), width, self.config.feature_type)
            try:
                fill(file, net, images, device=self.device, rows=wanted.rows, first=0, progress=progress)
            except FeaturesNotFinite as error:
                of = self._named(wanted, error.row)
                raise FeaturesNotFinite(error.row, error.others, error.dtype, of) from None
            size, sha256 = path.stat().st_size, sha256_of_file(path)
        record = PartFile(name=name, bytes=size, sha256=sha256, rows=len(wanted.rows))
        place = {"set": wanted.spec.name, "net": wanted.net, "half": wanted.half, "first": wanted.rows.start}
        metrics = {**place, "width": width, "spec": net.spec.to_json()}
        return Receipt(
            part=part.index,
            key=part.key,
            files=(record,),
            counts={"images": len(wanted.rows)},
            metrics=metrics,
        )

    def _named(self, wanted: _Wanted, row: int) -> str:
        """A part in words, with where the set has the image in a row of its half."""
        drawn = self.drawn(wanted.spec)
        images = drawn.train if wanted.half == "train" else drawn.test
        place = f"image {row} is row {images.rows_N[row]} of {images.part.source}"
        return f"labelled set {wanted.spec.name}, {wanted.half} images, {wanted.net} ({place})"

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts: dict[str, int] = {}
        for receipt in receipts:
            if receipt.metrics["net"] == TRAINED:
                name = f"{receipt.metrics['set']} {receipt.metrics['half']}"
                counts[name] = counts.get(name, 0) + receipt.counts["images"]
        return Summary(counts=counts, metrics={"features": receipts[0].metrics["width"] if receipts else 0})

    def _prepared(self, store: Store, wanted: _Wanted) -> Discriminator:
        """A net in eval mode with the wanted statistics of batch norm, from training images alone."""
        from dcgan_core.evaluate.features import batch_norm_mode, calibration_batches
        from dcgan_core.models.dcgan import build
        from dcgan_core.models.weights import load_trained

        manifest = self.input_manifest(store, "train")
        key = (str(self.address), manifest.content, wanted.spec.name, wanted.net)
        if key not in _PREPARED:
            model = load_trained(store, manifest)
            net = model.discriminator if wanted.net == TRAINED else build(model.spec, self.seed)[1]
            images_NHW3 = self.load(wanted.spec).train_images_NHW3[:CALIBRATION]
            batches = calibration_batches(net, images_NHW3)
            _PREPARED.clear()
            mode = self.config.batch_norm
            if wanted.net == UNTRAINED and mode == "running":
                mode = "recalibrated"  # it has no running averages yet
            _PREPARED[key] = cast("Discriminator", batch_norm_mode(net.to(self.device), mode, batches))
        return _PREPARED[key]


@contextmanager
def features_of(
    store: Store, manifest: Manifest, name: str, net: str
) -> Iterator[dict[str, NDArray[np.floating]]]:
    """Features (N, F) of a set's halves, `train` and `test`, memory-mapped on the local disk while within.

    By the set's name: sets may stand in another order than when the features were made.
    """
    from dcgan_core.evaluate.feature_files import create

    mine = [part for part in manifest.parts if (part.metrics["set"], part.metrics["net"]) == (name, net)]
    with TemporaryDirectory(prefix="dcgan-features-") as folder:
        halves = {}
        for half in ("train", "test"):
            stretches = [part for part in mine if part.metrics["half"] == half]
            rows = sum(part.counts["images"] for part in stretches)
            width, kept = stretches[0].metrics["width"], manifest.config["feature_type"]
            file = create(Path(folder) / f"{half}.npy", rows, width, kept)
            whole_NF = np.load(file.path, mmap_mode="r+")
            for part in stretches:
                first = part.metrics["first"]
                content = read_part(store, manifest.address, part.files[0])
                whole_NF[first : first + part.counts["images"]] = np.load(io.BytesIO(content))
            whole_NF.flush()
            halves[half] = file.open()
        yield halves
