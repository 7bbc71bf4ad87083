"""A discriminator from a file as a feature extractor: a fixed point that others can check.

python -m benchmarks.extractor WEIGHTS --train PARQUET --test PARQUET [--name cifar10] [--protocol cifar10]
    [--batch-norm recalibrated] [--size N] [--device auto] [--max-train N] [--trained-on TEXT]
    [--images-seen N] [--updates TEXT] [--record FOLDER] [--note TEXT]

WEIGHTS: `dcgan-svhn-authors.npz`, the parameters of the paper's authors (Newmu/dcgan_code), or a
discriminator's safetensors of ours. Features, draws, choice of C and classifier are those of `dcgan run
evaluate`; --record keeps the outcome beside its records, from which `dcgan results` writes the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import command, machine, print_result
from dcgan_core.artifacts import now
from dcgan_core.config import EvaluateConfig, LabelledSet
from dcgan_core.evaluate.contest import Svm, outcomes
from dcgan_core.evaluate.datasets import draw
from dcgan_core.evaluate.enough import check_enough
from dcgan_core.evaluate.feature_files import create, fill
from dcgan_core.evaluate.features import batch_norm_mode, calibration_batches, feature_width
from dcgan_core.evaluate.protocols import Outcome, Split, row_of
from dcgan_core.evaluate.records import keep, without_details
from dcgan_core.evaluate.results import Record
from dcgan_core.evaluate.stage import CALIBRATION
from dcgan_core.models.dcgan import Discriminator
from dcgan_core.models.sampling import chosen_device
from dcgan_core.models.specs import spec_from_json
from dcgan_core.models.weights import description, load_authors_svhn, load_net
from dcgan_core.storage import sha256_of_file
from dcgan_core.terminal import LogLines

_UNSAID = ("--record", "--note", "--trained-on", "--images-seen", "--updates")


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--name", default="cifar10")
    parser.add_argument("--protocol", choices=("labelled", "cifar10"), default="cifar10")
    parser.add_argument("--batch-norm", choices=("recalibrated", "running", "batch"), default="recalibrated")
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the net's)")
    parser.add_argument("--max-train", type=int, default=60_000)
    parser.add_argument("--labels-per-class", type=int, nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--trained-on", default="what its file does not say")
    parser.add_argument("--images-seen", type=int)
    parser.add_argument("--updates", default="")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    started = time.monotonic()
    spec = LabelledSet(
        name=options.name,
        kind="parquet",
        protocol=options.protocol,
        train=str(options.train),
        test=str(options.test),
    )
    config = EvaluateConfig(
        sets=(spec,),
        max_train=options.max_train,
        labels_per_class=tuple(options.labels_per_class),
        quality=(),
    )
    net, about = opened(options.weights)
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        found, facts = judged(net, spec, config, options, Path(folder))
    seconds = round(time.monotonic() - started)
    sha256 = sha256_of_file(options.weights)
    facts |= {"net": net.spec.name, "sha256": sha256, "batch_norm": options.batch_norm}
    if options.record:
        record = Record(
            set=options.name,
            protocol=options.protocol,
            source=facts["source"],
            classes=facts["classes"],
            train=facts["train"],
            test=facts["test"],
            rows=tuple(row(outcome, facts["width"]) for outcome in found),
            net=f"{net.spec.name}, from {options.weights.name}, sha256 {sha256[:16]}",
            trained_on=options.trained_on,
            images_seen=options.images_seen or about.get("images_seen"),
            updates=options.updates,
            machine=facts["device"],
            date=now()[:10],
            command=command("benchmarks.extractor", sys.argv[1:], _UNSAID),
            note=options.note,
        )
        keep(options.record, {f"{options.name}-{options.weights.stem}-{options.batch_norm}": record})
    print_result(
        f"extractor: {options.weights.name} on {options.name}",
        [100 * found[0].accuracy],
        "% of the test images",
        accuracies={each.protocol: round(100 * each.accuracy, 2) for each in found},
        sd={each.protocol: round(100 * each.sd, 2) for each in found if each.sd is not None},
        seconds=seconds,
        **facts,
    )


def opened(path: Path) -> tuple[Discriminator, dict[str, Any]]:
    """The discriminator, in float32, and what its file says of it."""
    if path.suffix == ".npz":
        return load_authors_svhn(path)[1], {}
    data = path.read_bytes()
    about = description(data)
    if about is None:
        raise SystemExit(
            f"{path} does not say which net it holds: give a discriminator's safetensors of ours"
        )
    net = Discriminator(spec_from_json(about["spec"]))
    load_net(net, data)
    return net.float(), about


def judged(
    net: Discriminator, spec: LabelledSet, config: EvaluateConfig, options: argparse.Namespace, folder: Path
) -> tuple[list[Outcome], dict[str, Any]]:
    """Features of both halves, float16 on the disk, then the protocols."""
    device = chosen_device(options.device)
    drawn = draw(
        spec,
        size=options.size or net.spec.size,
        test_share=config.test_share,
        max_train=config.max_train,
        max_test=config.max_test,
        seed=options.seed,
    )
    check_enough(spec, config, drawn.counts)
    data = drawn.read()
    images = {"train": data.train_images_NHW3, "test": data.test_images_NHW3}
    net.to(device)
    with torch.no_grad():
        batches = calibration_batches(net, images["train"][:CALIBRATION])
        ready = batch_norm_mode(net, options.batch_norm, batches)
    width = feature_width(ready, images["train"].shape[1])
    files = {}
    for half, pixels in images.items():
        files[half] = create(folder / f"{half}.npy", len(pixels), width, config.feature_type)
        fill(files[half], ready, pixels, device=device)
    split = Split(files["train"].open(), data.train_labels_N, files["test"].open(), data.test_labels_N)
    found = outcomes(
        spec,
        config,
        split,
        Svm(device),
        seed=options.seed,
        progress=LogLines(spec.name, "sets", partial(print, flush=True)),
    )
    return found, {
        "source": data.source,
        "classes": len(data.classes),
        "train": len(data.train_labels_N),
        "test": len(data.test_labels_N),
        "width": width,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else machine(),
        "c": {each.protocol: list(dict.fromkeys(each.chosen_c)) for each in found},
        "converged": all(each.converged for each in found),
    }


def row(outcome: Outcome, width: int) -> dict[str, Any]:
    """As records keep it."""
    about = {"kind": "discriminator", "features": "discriminator", "width": width}
    return {**about, **without_details(row_of(outcome))}


if __name__ == "__main__":
    main()
