"""The stage `quality`: what the generator's samples are worth beside real images.

Two waves: a classifier is trained and real images are gone through with each net, which other runs on the
same images take over; then each measure draws the same samples and compares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from dcgan_core import images
from dcgan_core.artifacts import PartFile, Receipt, read_part, read_receipt, write_part
from dcgan_core.config import Json, LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.stage import OF_IMAGES, OverSets
from dcgan_core.held_out import below_of
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Summary
from dcgan_core.storage import Store

if TYPE_CHECKING:
    from torch import Tensor

    from dcgan_core.evaluate.classifier import ClassifierFeatures
    from dcgan_core.evaluate.inception import Inception
    from dcgan_core.evaluate.quality import Measured
    from dcgan_core.evaluate.summary import Summary as Features
    from dcgan_core.models.weights import Model
    from dcgan_core.shard.reader import Shards

_CLASSIFIER, _REAL_INCEPTION = "trained classifier", "real images in Inception"
_MOST_TRAINING = 50_000
"""Training images, drawn by seed, that the nearest one of a sample is sought among."""
_EPOCHS, _LEAST_STEPS = 10, 300
"""Of the classifier; small sets are gone through more often."""
_SHOWN = 12
_CACHE = Path("~/.cache/dcgan/weights")
_DRAWS = {"classifier": 4, "inception": 5}
"""What else than the samples is random in a measure, as a part of its seed: not its place among others."""


class _Wanted(NamedTuple):
    """One part: what is done, and the part whose files it reads, if any."""

    what: str
    classifier: int | None = None
    inception: int | None = None


@dataclass(frozen=True)
class Quality(OverSets):
    """Measures of the generator, a part for each."""

    artifact: ClassVar[str] = "quality"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "measures"
    whole_machine: ClassVar[bool] = True

    holds_out: bool = False
    """Whether training has kept some images of the shards out."""

    def settings(self) -> dict[str, Json]:
        return self.config.identity("quality_samples")

    def source(self) -> dict[str, Json]:
        """What is asked of which images: no settings, so that parts are taken over."""
        if "memorisation" in self.config.quality and not (self.config.quality_set or self.holds_out):
            raise ConfigError(
                "evaluate.quality has `memorisation`, which needs images that the generator has not seen: "
                "name a labelled set in evaluate.quality_set, or hold some out (train.held_out=0.05)"
            )
        return {
            "measures": list(self.config.quality),
            "set": self._of_set,
            "inception_sha256": self._inception_sha256,
        }

    def plan(self, store: Store) -> Sequence[Part]:
        train, shards = (self.input_manifest(store, name) for name in ("train", "shards"))
        # Real images turn grey where the net is: the net that is judged says no more to these two.
        seen = (self.settings(), self.size, train.config["spec"]["channels"])
        below = below_of(train) or 0  # as keys have it where nothing is held out
        parts: list[Part] = []
        classifier = inception = None
        if "classifier" in self.config.quality:
            classifier = len(parts)
            parts.append(
                Part(classifier, self.key_of(_CLASSIFIER, *seen, self._of_set), _Wanted(_CLASSIFIER))
            )
        if "inception" in self.config.quality:
            inception = len(parts)
            about = (shards.content, below, self._inception_sha256)
            key = self.key_of(_REAL_INCEPTION, *seen, *about)
            parts.append(Part(inception, key, _Wanted(_REAL_INCEPTION)))
        before = len(parts)
        images = (shards.content, below, self._of_set)
        for measure in self.config.quality:
            in_classifier = measure in ("classifier", "memorisation")
            read = (classifier if in_classifier else None, inception if measure == "inception" else None)
            about = images if measure in ("pixels", "memorisation") else ()
            keys = [parts[at].key for at in read if at is not None]
            key = self.key_of(measure, train.content, *seen, *about, keys)
            parts.append(Part(len(parts), key, _Wanted(measure, *read), wave=1 if before else 0))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        wanted: _Wanted = part.payload

        def told(done: float, total: float, note: str) -> None:
            progress(done, total, f"{wanted.what}: {note}")

        if wanted.what == _CLASSIFIER:
            return self._train_classifier(store, part, told)
        if wanted.what == _REAL_INCEPTION:
            return self._real_inception(store, part, told)
        return self._measure(store, part, wanted, told)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        measures = [receipt for receipt in receipts if "values" in receipt.metrics]
        values = {name: value for receipt in measures for name, value in receipt.metrics["values"].items()}
        return Summary(counts={"measures": len(measures)}, metrics=values)

    @property
    def _set(self) -> LabelledSet | None:
        return next((spec for spec in self.config.sets if spec.name == self.config.quality_set), None)

    @property
    def _of_set(self) -> Json:
        """The named set and which of its images are used; None where none is named."""
        from dcgan_core.evaluate.datasets import identity

        spec = self._set
        return (
            None
            if spec is None
            else [{"kind": spec.kind, **identity(spec)}, self.config.identity(*OF_IMAGES)]
        )

    @property
    def _inception_sha256(self) -> str | None:
        """Of the weights as they are, or as they must be; a url is not fetched for it."""
        if "inception" not in self.config.quality:
            return None
        from dcgan_core.evaluate.inception import weights_sha256

        return weights_sha256(self.config.inception_weights or "", self.config.inception_weights_sha256)

    def _measure(self, store: Store, part: Part, wanted: _Wanted, progress: Progress) -> Receipt:
        model = self._model(store)
        samples = self._samples(model, progress)  # the same for all measures
        measures = {
            "pixels": self._pixels,
            "memorisation": self._memorisation,
            "classifier": self._in_classifier,
            "inception": self._in_inception,
        }
        found, more = measures[wanted.what](store, part, model, samples, progress)
        return self._receipt(store, part, wanted.what, found, more)

    def _pixels(
        self, store: Store, part: Part, model: Model, samples: Tensor, progress: Progress
    ) -> tuple[Measured, list[PartFile]]:
        from dcgan_core.evaluate import quality

        many, unseen = len(samples), self._unseen(store, model)
        training = self._training(store, model, many)
        real = training[:many] if unseen is None else unseen[:many]
        hoped = None if unseen is None else training
        return quality.pixels(samples, real, hoped, device=self.device, progress=progress), []

    def _memorisation(
        self, store: Store, part: Part, model: Model, samples: Tensor, progress: Progress
    ) -> tuple[Measured, list[PartFile]]:
        from dcgan_core.evaluate import quality

        unseen, training = self._unseen(store, model), self._training(store, model, _MOST_TRAINING)
        assert unseen is not None  # the address could not have been made
        at: int | None = part.payload.classifier
        net = None if at is None else self._classifier(store, at)[0]
        features = None if net is None else (lambda pixels: quality.features_of(net, pixels))
        unseen = unseen[: self.config.quality_samples]
        found = quality.copying(samples, training, unseen, features, device=self.device, progress=progress)
        return found, [self._closest(store, part.index, found, samples, training)]

    def _in_classifier(
        self, store: Store, part: Part, model: Model, samples: Tensor, progress: Progress
    ) -> tuple[Measured, list[PartFile]]:
        from dcgan_core.evaluate import quality

        net, real, accuracy = self._classifier(store, part.payload.classifier)
        batches = _told(samples.split(256), len(samples), progress)
        return quality.in_classifier(net, batches, real, accuracy, self._random("classifier")), []

    def _in_inception(
        self, store: Store, part: Part, model: Model, samples: Tensor, progress: Progress
    ) -> tuple[Measured, list[PartFile]]:
        from dcgan_core.evaluate import quality

        real = self._features(store, part.payload.inception, _REAL_INCEPTION)
        batches = _told(samples.split(64), len(samples), progress)
        return quality.in_inception(self._inception(), batches, real, self._random("inception")), []

    def _random(self, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, _DRAWS[what]])

    def _receipt(
        self, store: Store, part: Part, what: str, found: Measured, more: Sequence[PartFile]
    ) -> Receipt:
        body = {
            "measure": what,
            "images": found.images,
            "unseen": self.config.quality_set or ("train.held_out" if self.holds_out else ""),
            "values": [value.to_json() for value in found.values],
        }
        name = f"quality-{part.index:05d}.json"
        file = write_part(store, self.address, name, (json.dumps(body, indent=1) + "\n").encode())
        values = {value.name: round(value.value, 6) for value in found.values}
        metrics = {"measure": what, "values": values, "machine": self.machine}
        return Receipt(
            part=part.index, key=part.key, files=(file, *more), counts={"measures": 1}, metrics=metrics
        )

    def _train_classifier(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from safetensors.torch import save

        from dcgan_core.evaluate.classifier import (
            classifier_features,
            classifier_logits,
            trained_classifier,
        )
        from dcgan_core.evaluate.quality import summary_of

        spec = self._set
        assert spec is not None  # the configuration says so
        data = self.load(spec)
        channels = self.input_manifest(store, "train").config["spec"]["channels"]
        net = trained_classifier(
            _as_seen(data.train_images_NHW3, channels),
            data.train_labels_N,
            seed=self.seed,
            epochs=max(_EPOCHS, -(-_LEAST_STEPS // max(1, len(data.train_labels_N) // 128))),
            device=self.device,
            progress=progress,
        )
        test = _as_seen(data.test_images_NHW3[: self.config.quality_samples], channels)
        said = classifier_logits(net, test).argmax(1).cpu().numpy()
        accuracy = float((said == data.test_labels_N[: len(test)]).mean())
        real = summary_of([test], lambda images: classifier_features(net, images), "test images")
        tensors = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
        facts = {"size": net.size, "classes": len(data.classes), "accuracy": accuracy}
        number = f"{part.index:05d}"
        files = (
            write_part(store, self.address, f"classifier-{number}.safetensors", save(tensors), is_data=False),
            write_part(store, self.address, f"real-{number}.npz", real.to_bytes(), is_data=False),
        )
        return Receipt(part=part.index, key=part.key, files=files, counts={}, metrics=facts)

    def _classifier(self, store: Store, at: int) -> tuple[ClassifierFeatures, Features, float]:
        from safetensors.torch import load

        from dcgan_core.evaluate.classifier import ClassifierFeatures

        receipt = read_receipt(store, self.address, at)
        net = ClassifierFeatures(receipt.metrics["size"], receipt.metrics["classes"])
        net.load_state_dict(load(read_part(store, self.address, receipt.files[0])))
        return (
            net.eval().to(self.device),
            self._features(store, at, "test images"),
            receipt.metrics["accuracy"],
        )

    def _real_inception(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.evaluate.quality import summary_of

        net = self._inception()
        training = self._training(store, self._model(store), self.config.quality_samples)
        batches = _told(training.split(64), len(training), progress)
        real = summary_of(batches, lambda batch: net(batch.expand(-1, 3, -1, -1))[0], "real images")
        name = f"real-{part.index:05d}.npz"
        file = write_part(store, self.address, name, real.to_bytes(), is_data=False)
        return Receipt(part=part.index, key=part.key, files=(file,), counts={})

    def _features(self, store: Store, at: int, what: str) -> Features:
        """What an earlier part has kept of real images."""
        from dcgan_core.evaluate.summary import Summary

        (file,) = (file for file in read_receipt(store, self.address, at).files if file.name.endswith(".npz"))
        return Summary.from_bytes(read_part(store, self.address, file), what)

    def _inception(self) -> Inception:
        from dcgan_core.evaluate.inception import load_inception

        config = self.config
        where = config.inception_weights or ""
        return load_inception(where, self._inception_sha256, _CACHE.expanduser(), device=self.device)

    def _model(self, store: Store) -> Model:
        from dcgan_core.models.weights import load_trained

        return load_trained(store, self.input_manifest(store, "train"))

    def _samples(self, model: Model, progress: Progress) -> Tensor:
        """All samples, uint8 (N, C, S, S), on the processor."""
        import torch

        from dcgan_core.models.sampling import chosen_weights, pixels_in_batches

        many, drawn = self.config.quality_samples, []
        weights = chosen_weights(model, None)
        for pixels, _ in pixels_in_batches(model, many, seed=self.seed, weights=weights, device=self.device):
            drawn.append(pixels.cpu())
            progress(sum(map(len, drawn)), many, "drawing samples")
        return torch.cat(drawn)

    def _training(self, store: Store, model: Model, most: int) -> Tensor:
        """Training images by seed, uint8 (N, C, S, S); none of those that were held out."""
        shards = self._shards(store)
        seen_N = np.flatnonzero(~shards.is_held_N)
        rng = np.random.default_rng([self.seed, 1])
        drawn = np.sort(rng.choice(len(seen_N), min(most, len(seen_N)), replace=False))
        return _as_drawn(shards.pixels(seen_N[drawn]), model.spec.channels)

    def _unseen(self, store: Store, model: Model) -> Tensor | None:
        """Images that the generator has not seen, uint8 (N, C, S, S), where there are any."""
        spec = self._set
        if spec is not None:
            return _as_drawn(self.load(spec).test_images_NHW3.transpose(0, 3, 1, 2), model.spec.channels)
        if not self.holds_out:
            return None
        shards = self._shards(store)
        return _as_drawn(shards.pixels(np.flatnonzero(shards.is_held_N)), model.spec.channels)

    def _shards(self, store: Store) -> Shards:
        """The images, told apart by the threshold that the training was made with."""
        from dcgan_core.shard.reader import open_shards

        train, shards = (self.input_manifest(store, name) for name in ("train", "shards"))
        return open_shards(store, shards, self.size, held_below=below_of(train))

    def _closest(
        self, store: Store, index: int, found: Measured, samples: Tensor, training: Tensor
    ) -> PartFile:
        """The samples that lie nearest to a training image, each beside it."""
        assert found.nearest is not None
        closest = np.argsort(found.nearest.distance_M, kind="stable")[:_SHOWN]
        pairs = [
            tile
            for row in closest.tolist()
            for tile in (samples[row], training[int(found.nearest.nearest_M[row])])
        ]
        tiles = np.stack([pair.expand(3, -1, -1).permute(1, 2, 0).numpy() for pair in pairs])
        picture = images.encode_png(images.grid(tiles, columns=6))
        return write_part(store, self.address, f"closest-{index:05d}.png", picture, is_data=False)


def _as_drawn(pixels_N3SS: np.ndarray, channels: int) -> Tensor:
    """As the generator draws: grey where it has one channel."""
    import torch

    from dcgan_core.models.inputs import grey_bytes

    return grey_bytes(torch.from_numpy(np.ascontiguousarray(pixels_N3SS)), channels)


def _as_seen(images_NHW3: np.ndarray, channels: int) -> np.ndarray:
    """Images for the classifier: all three channels the same where the generator draws grey."""
    if channels != 1:
        return images_NHW3
    grey_N1HW = _as_drawn(images_NHW3.transpose(0, 3, 1, 2), 1)
    return grey_N1HW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _told(batches: Any, total: int, progress: Progress) -> Any:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total, f"{done:,} images of {total:,}")
