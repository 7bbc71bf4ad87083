"""The stage `scores`: every labelled set judged by its protocols, on D's features and on each baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dcgan_core.artifacts import PartFile, Receipt, write_part
from dcgan_core.config import Json, LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.stage import OF_IMAGES, TRAINED, UNTRAINED, OverSets, features_of
from dcgan_core.progress import Progress, share_of
from dcgan_core.stage import Part, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows

if TYPE_CHECKING:
    from dcgan_core.evaluate.protocols import Outcome, Split
    from dcgan_core.evaluate.supervised import SearchTrial

PREDICTIONS = pa.schema(
    [
        ("features", pa.string()),
        ("protocol", pa.string()),
        ("row", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
    ]
)
NAMES = {
    "untrained": UNTRAINED,
    "pixels": "raw pixels",
    "knn": "nearest neighbours in pixels",
    "kmeans": "K-means",
    "supervised": "supervised CNN",
    "samples": "samples",
    "images": "training images",
}
"""What is judged beside D's features, by its name in the configuration and in tables."""
_NEIGHBOURS = ("samples", "images")
"""What the protocol `mnist-nn` judges instead of features."""
_OWN_FEATURES = 0.5
"""Share of a part, as it is reported, that K-means takes before anything learns from its features."""
_FITTED = ("validation_share", "svm_c", "knn_k", "labels_per_class", "folds", "draws")
_FIELDS = {
    "kmeans": ("kmeans_units",),
    "supervised": ("supervised_trials", "supervised_epochs"),
    "samples": ("nn_samples",),
    "images": ("nn_samples",),
}


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a part found."""

    outcomes: Sequence[Outcome]
    width: int
    """Of the features; 0 where there are none."""
    search: Sequence[dict[str, Any]] = ()
    """Trials of a random search, those that failed among them."""


@dataclass(frozen=True)
class Scores(OverSets):
    """Accuracy of an L2-SVM on D's features of each set, beside the baselines; a part for each of both."""

    artifact: ClassVar[str] = "scores"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "classifiers"
    whole_machine: ClassVar[bool] = True
    """50,000 images in the widest features are 3 GB, and solvers use every processor."""

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*OF_IMAGES)

    def source(self) -> dict[str, Json]:
        """The sets with their protocols, and what is asked of them: no settings, so that parts whose keys are
        as before are taken over where another baseline or protocol is wanted."""
        kinds = dict.fromkeys(kind for spec in self.config.sets for kind in self._kinds(spec))
        extra = dict.fromkeys(name for kind in kinds for name in _FIELDS.get(kind, ()))
        return {
            **super().source(),
            "protocols": {spec.name: spec.protocol for spec in self.config.sets},
            "asked": self.config.identity("baselines", *_FITTED, *extra),
        }

    def plan(self, store: Store) -> Sequence[Part]:
        manifest, train = (self.input_manifest(store, name) for name in ("features", "train"))
        self.halves()  # raises where images are too few: features may have been made for other protocols
        parts: list[Part] = []
        for spec in self.config.sets:
            for kind in self._kinds(spec):
                about = (spec.name, self.identities[spec.name], spec.protocol, self.size, kind)
                fitted = () if kind in _NEIGHBOURS else _FITTED
                fields = self.config.identity(*OF_IMAGES, *fitted, *_FIELDS.get(kind, ()))
                learned = [  # of this set and net alone: others beside them change nothing
                    part.key
                    for part in manifest.parts
                    if (part.metrics["set"], part.metrics["net"]) == (spec.name, NAMES.get(kind, kind))
                ]
                built = train.config["spec"]
                nets = {"supervised": built, "samples": train.content, "images": built["channels"]}
                net = nets.get(kind)
                key = self.key_of(*about, fields, learned, net)
                parts.append(Part(len(parts), key, (spec, kind)))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.evaluate.protocols import row_of

        spec, kind = part.payload
        name = NAMES.get(kind, kind)
        data = self.load(spec)

        def told(done: float, total: float, note: str) -> None:
            progress(done, total, f"{name}: {note} ({spec.name})")

        try:
            judged = self._judged(store, spec, kind, told)
        except ConfigError as error:
            raise ConfigError(f"labelled set {spec.name}, {name}: {error}") from None
        found = judged.outcomes
        score = {
            "set": spec.name,
            "source": data.source,
            "classes": list(data.classes),
            "protocol": spec.protocol,
            "train": len(data.train_labels_N),
            "test": len(data.test_labels_N),
            "features": name,
            "kind": kind,
            "width": judged.width,
            "rows": [{"features": name, "width": judged.width, **row_of(outcome)} for outcome in found],
            "search": judged.search,
        }
        rows = [
            {
                "features": name,
                "protocol": outcome.protocol,
                "row": row,
                "label": int(label),
                "predicted": int(said),
            }
            for outcome in found
            for row, (label, said) in enumerate(zip(data.test_labels_N, outcome.predictions_M, strict=True))
        ]
        number = f"{part.index:05d}"
        files = (
            write_part(
                store, self.address, f"scores-{number}.json", (json.dumps(score, indent=1) + "\n").encode()
            ),
            write_rows(store, self.address, f"predictions-{number}.parquet", rows, PREDICTIONS),
            *self._pictures(store, number, f"{spec.name}, {name}", data.classes, found),
        )
        metrics = {
            "set": spec.name,
            "features": name,
            "accuracy": {each.protocol: round(each.accuracy, 4) for each in found},
            "machine": self.machine,
        }
        return Receipt(
            part=part.index, key=part.key, files=files, counts={"test": score["test"]}, metrics=metrics
        )

    def _kinds(self, spec: LabelledSet) -> Sequence[str]:
        """What a set is judged on: D's features and the baselines, or samples and real images beside them."""
        return _NEIGHBOURS if spec.protocol == "mnist-nn" else (TRAINED, *self.config.baselines)

    def _pictures(
        self, store: Store, number: str, about: str, classes: Sequence[str], found: Sequence[Outcome]
    ) -> Iterator[PartFile]:
        from dcgan_core.evaluate.pictures import confusion_png

        for place, outcome in enumerate(found):
            draws = len(outcome.accuracies)
            title = f"{about}, {outcome.protocol}" + (f", sum of {draws} draws" if draws > 1 else "")
            picture = confusion_png(outcome.confusion_CC, classes, title)
            name = f"confusion-{number}-{place}.png"
            yield write_part(store, self.address, name, picture, is_data=False)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        accuracy: dict[str, dict[str, Any]] = {}
        counts = {}
        for receipt in receipts:
            facts = receipt.metrics
            accuracy.setdefault(facts["set"], {})[facts["features"]] = facts["accuracy"]
            counts[f"{facts['set']} test"] = receipt.counts["test"]
        return Summary(counts=counts, metrics={"accuracy": accuracy})

    def _judged(self, store: Store, spec: LabelledSet, kind: str, progress: Progress) -> _Judged:
        from dcgan_core.evaluate.contest import Neighbours, Svm, outcomes, supervised
        from dcgan_core.models.specs import spec_from_json

        if kind in _NEIGHBOURS:
            return _Judged(self._of_neighbours(store, spec, kind, progress), 0)
        if kind == "supervised":
            net = spec_from_json(self.input_manifest(store, "train").config["spec"])
            found, search = supervised(
                spec, self.config, self.load(spec), net, seed=self.seed, device=self.device, progress=progress
            )
            return _Judged([found], 0, [_trial(each) for each in search])
        machine = Neighbours(self.device) if kind == "knn" else Svm(self.device)
        made = _OWN_FEATURES if kind == "kmeans" else 0.0
        with self._split(store, spec, kind, share_of(progress, 0, made)) as split:
            judging = share_of(progress, made, 1)
            found = outcomes(spec, self.config, split, machine, seed=self.seed, progress=judging)
            return _Judged(found, int(split.train_NF.shape[1]))

    def _of_neighbours(
        self, store: Store, spec: LabelledSet, kind: str, progress: Progress
    ) -> Sequence[Outcome]:
        from dcgan_core.evaluate.sample_neighbours import of_images, of_samples
        from dcgan_core.models.sampling import chosen_weights
        from dcgan_core.models.specs import spec_from_json
        from dcgan_core.models.weights import load_trained

        data, counts = self.load(spec), self.config.nn_samples
        train = self.input_manifest(store, "train")
        if kind == "images":
            channels = spec_from_json(train.config["spec"]).channels
            return of_images(data, counts, channels=channels, device=self.device, progress=progress)
        model = load_trained(store, train)
        return of_samples(
            model,
            data,
            counts,
            seed=self.seed,
            weights=chosen_weights(model, None),
            device=self.device,
            progress=progress,
        )

    @contextmanager
    def _split(self, store: Store, spec: LabelledSet, kind: str, progress: Progress) -> Iterator[Split]:
        from dcgan_core.evaluate.features import pixel_features
        from dcgan_core.evaluate.kmeans import kmeans_features
        from dcgan_core.evaluate.protocols import Split

        data = self.load(spec)
        train, test = data.train_images_NHW3, data.test_images_NHW3
        labels = data.train_labels_N, data.test_labels_N
        if kind in (TRAINED, "untrained"):
            name = UNTRAINED if kind == "untrained" else TRAINED
            with features_of(store, self.input_manifest(store, "features"), spec.name, name) as halves:
                yield Split(halves["train"], labels[0], halves["test"], labels[1])
            return
        if kind == "kmeans":
            train_NF, test_MF = kmeans_features(
                train,
                test,
                centroids=self.config.kmeans_units,
                seed=self.seed,
                device=self.device,
                progress=progress,
            )
        elif kind == "knn":  # whole numbers: distances, and with them ties, are exact
            train_NF, test_MF = train.reshape(len(train), -1), test.reshape(len(test), -1)
        else:
            train_NF, test_MF = pixel_features(train), pixel_features(test)
        yield Split(train_NF, labels[0], test_MF, labels[1])


def _trial(trial: SearchTrial) -> dict[str, Any]:
    return {**asdict(trial), "settings": asdict(trial.settings)}
