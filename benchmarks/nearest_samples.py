"""The protocol `mnist-nn` for a generator from a file: test images by the label of the nearest sample.

python -m benchmarks.nearest_samples GENERATOR --test PARQUET [--train PARQUET] [--counts 10000 50000]
    [--device auto] [--trained-on TEXT] [--record FOLDER] [--note TEXT]

GENERATOR: `ema.safetensors` or `generator.safetensors` of a conditional net. With --train as many real
images answer beside them. --record keeps the outcome for `dcgan results`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import command, machine, print_result
from benchmarks.extractor import row
from dcgan_core.artifacts import now
from dcgan_core.config import LabelledSet
from dcgan_core.evaluate.datasets import load
from dcgan_core.evaluate.records import keep
from dcgan_core.evaluate.results import Record
from dcgan_core.evaluate.sample_neighbours import of_images, of_samples
from dcgan_core.models.sampling import chosen_device
from dcgan_core.models.weights import load_model
from dcgan_core.storage import sha256_of_file

_UNSAID = ("--record", "--note", "--trained-on", "--images-seen")


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("generator", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--name", default="mnist-nn")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--trained-on", default="what its file does not say")
    parser.add_argument("--images-seen", type=int)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    started = time.monotonic()
    device = chosen_device(options.device)
    model = load_model(options.generator)
    given = str(options.train or options.test)  # without real images the test part stands in, unused
    spec = LabelledSet(name=options.name, kind="parquet", train=given, test=str(options.test))
    size = model.spec.size
    data = load(spec, size=size, test_share=0.5, max_train=10**9, max_test=10**9, seed=options.seed)

    def said(done: float, total: float, note: str) -> None:
        if done % 500_000 < 5_000:
            print(note, flush=True)

    found = of_samples(
        model, data, options.counts, seed=options.seed, weights="plain", device=device, progress=said
    )
    rows = [{**row(each, 0), "kind": "samples", "features": "samples"} for each in found]
    if options.train:
        real = of_images(data, options.counts, channels=model.spec.channels, device=device)
        rows += [{**row(each, 0), "kind": "images", "features": "training images"} for each in real]
    where = torch.cuda.get_device_name() if device.startswith("cuda") else machine()
    sha256 = sha256_of_file(options.generator)
    if options.record:
        record = Record(
            set=options.name,
            protocol="mnist-nn",
            source=data.source,
            classes=len(data.classes),
            train=len(data.train_labels_N) if options.train else 0,
            test=len(data.test_labels_N),
            rows=tuple(rows),
            net=f"{model.spec.name}, from {options.generator.name}, sha256 {sha256[:16]}",
            trained_on=options.trained_on,
            images_seen=options.images_seen,
            updates="",
            machine=where,
            date=now()[:10],
            command=command("benchmarks.nearest_samples", sys.argv[1:], _UNSAID),
            note=options.note,
        )
        keep(options.record, {f"{options.name}-{sha256[:8]}-{max(options.counts)}": record})
    errors = {
        f"{each['features']}, {each['protocol']}": round(100 - 100 * each["accuracy"], 2) for each in rows
    }
    print_result(
        f"nearest samples: {options.generator.name} on {options.name}",
        [100 - 100 * found[-1].accuracy],
        "% errors",
        errors=errors,
        seconds=round(time.monotonic() - started, 1),
        device=where,
        sha256=sha256,
    )


if __name__ == "__main__":
    main()
