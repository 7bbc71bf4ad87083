"""The stage `evaluate`: D's features of labelled sets, then the accuracy of a linear SVM on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pyarrow as pa

from dcgan_core.artifacts import Manifest, Receipt, read_part, write_part
from dcgan_core.config import EvaluateConfig, Json, LabelledSet
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows

if TYPE_CHECKING:
    from dcgan_core.evaluate.datasets import Labelled

PREDICTIONS = pa.schema(
    [("features", pa.string()), ("row", pa.int32()), ("label", pa.int32()), ("predicted", pa.int32())]
)
TRAINED, UNTRAINED, PIXELS = "discriminator", "untrained discriminator", "raw pixels"
"""Kinds of features: what training gave, and the two baselines that cost nothing."""

_FEATURE_FIELDS = ("max_train", "max_test", "test_share", "batch_norm")


@dataclass(frozen=True)
class _OverSets(Stage):
    """A stage with one part per labelled set."""

    flow: ClassVar[str] = "evaluate"
    unit: ClassVar[str] = "sets"

    config: EvaluateConfig
    size: int
    """Side in pixels at which D sees the images."""

    def source(self) -> dict[str, Json]:
        return cast("dict[str, Json]", self._sets)

    @cached_property
    def _sets(self) -> dict[str, dict[str, str]]:
        from dcgan_core.evaluate.datasets import identity

        return {spec.name: {"kind": spec.kind, **identity(spec)} for spec in self.config.sets}

    def load(self, spec: LabelledSet) -> Labelled:
        """The labelled set as the features see it."""
        from dcgan_core.evaluate.datasets import load

        return load(
            spec,
            size=self.size,
            test_share=self.config.test_share,
            max_train=self.config.max_train,
            max_test=self.config.max_test,
            seed=self.seed,
        )

    def parts(self, content: str) -> list[Part]:
        """A part per set; its key names the input's content and the set's."""
        return [
            Part(index, self.part_key(content, spec.name, self._sets[spec.name], self.size), spec)
            for index, spec in enumerate(self.config.sets)
        ]


@dataclass(frozen=True)
class Features(_OverSets):
    """Features of every labelled set, training and test part apart."""

    artifact: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_FEATURE_FIELDS)

    def plan(self, store: Store) -> Sequence[Part]:
        return self.parts(self.input_manifest(store, "train").content)

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from safetensors.numpy import save

        from dcgan_core.evaluate.features import batch_norm_mode, calibration_batches, extract
        from dcgan_core.models.dcgan import build
        from dcgan_core.models.weights import load_trained

        spec: LabelledSet = part.payload
        data = self.load(spec)
        model = load_trained(store, self.input_manifest(store, "train"))
        _, untrained = build(model.spec, self.seed)
        pixels = {"train": data.train_images_NHW3, "test": data.test_images_NHW3}
        tensors = {}
        for done, (name, discriminator) in enumerate(
            {TRAINED: model.discriminator, UNTRAINED: untrained}.items()
        ):
            progress(done, 2, f"{spec.name}: features of the {name}")
            batches = calibration_batches(discriminator, pixels["train"])
            net = batch_norm_mode(discriminator, self.config.batch_norm, batches)
            for split, images_NHW3 in pixels.items():
                tensors[f"{name} {split}"] = extract(net, images_NHW3, device="cpu")
        tensors |= {"train labels": data.train_labels_N, "test labels": data.test_labels_N}
        width = tensors[f"{TRAINED} train"].shape[1]
        file = write_part(store, self.address, f"features-{part.index:05d}.safetensors", save(tensors))
        counts = {"train": len(data.train_labels_N), "test": len(data.test_labels_N)}
        metrics = {"set": spec.name, "features": int(width)}
        return Receipt(part=part.index, key=part.key, files=(file,), counts=counts, metrics=metrics)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = {
            f"{receipt.metrics['set']} {name}": count
            for receipt in receipts
            for name, count in receipt.counts.items()
        }
        width = receipts[0].metrics["features"] if receipts else 0
        return Summary(counts=counts, metrics={"features": width})


@dataclass(frozen=True)
class Scores(_OverSets):
    """Accuracy of an L2-SVM on D's features of each set, beside the same classifier on raw pixels."""

    artifact: ClassVar[str] = "scores"
    version: ClassVar[int] = 1

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_FEATURE_FIELDS, "svm_c")

    def plan(self, store: Store) -> Sequence[Part]:
        return self.parts(self.input_manifest(store, "features").content)

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from safetensors.numpy import load as load_arrays

        from dcgan_core.evaluate.protocol import judge, pixel_features

        spec: LabelledSet = part.payload
        data = self.load(spec)
        features = load_arrays(_features_of(store, self.input_manifest(store, "features"), spec.name))
        candidates = {
            name: (features[f"{name} train"], features[f"{name} test"]) for name in (TRAINED, UNTRAINED)
        }
        candidates[PIXELS] = (pixel_features(data.train_images_NHW3), pixel_features(data.test_images_NHW3))
        rows: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        for done, (name, (train, test)) in enumerate(candidates.items()):
            progress(done, len(candidates), f"{spec.name}: SVM on {name}")
            verdict = judge(
                train,
                data.train_labels_N,
                test,
                data.test_labels_N,
                svm_c=self.config.svm_c,
                seed=self.seed,
                validation_share=self.config.test_share,
            )
            rows.append(
                {
                    "features": name,
                    "width": int(train.shape[1]),
                    "accuracy": verdict.accuracy,
                    "ci95": [verdict.ci95_low, verdict.ci95_high],
                    "c": verdict.chosen_c,
                    "converged": verdict.converged,
                    "trials": [vars(trial) for trial in verdict.trials],
                    "confusion": verdict.confusion_CC.tolist(),
                }
            )
            predictions += [
                {"features": name, "row": row, "label": int(label), "predicted": int(said)}
                for row, (label, said) in enumerate(
                    zip(data.test_labels_N, verdict.predictions_N, strict=True)
                )
            ]
        score = {
            "set": spec.name,
            "source": data.source,
            "classes": list(data.classes),
            "train": len(data.train_labels_N),
            "test": len(data.test_labels_N),
            "rows": rows,
        }
        name = f"scores-{part.index:05d}.json"
        files = (
            write_part(store, self.address, name, (json.dumps(score, indent=1) + "\n").encode()),
            write_rows(
                store, self.address, f"predictions-{part.index:05d}.parquet", predictions, PREDICTIONS
            ),
        )
        brief = {row["features"]: round(row["accuracy"], 4) for row in rows}
        metrics = {"set": spec.name, "accuracy": brief}
        counts = {"test": score["test"]}
        return Receipt(part=part.index, key=part.key, files=files, counts=counts, metrics=metrics)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        accuracy = {receipt.metrics["set"]: receipt.metrics["accuracy"] for receipt in receipts}
        counts = {f"{receipt.metrics['set']} test": receipt.counts["test"] for receipt in receipts}
        return Summary(counts=counts, metrics={"accuracy": accuracy})


def _features_of(store: Store, manifest: Manifest, name: str) -> bytes:
    """By the set's name: the sets may stand in another order than when the features were made."""
    (receipt,) = (receipt for receipt in manifest.parts if receipt.metrics["set"] == name)
    return read_part(store, manifest.address, receipt.files[0])
