"""Finding the near duplicates in a folder of files: time and memory beside imagededup's phash.

python -m benchmarks.dedup_peer --peer PYTHON [--photos FOLDER] [--counts 10000 50000] [--windows 3]

FOLDER (default $DCGAN_TEST_DATA) holds cifar10-train.parquet, whose first pictures are written out as files.
Both sides read the same files and end with the list of what to leave out: ours decodes, makes codes with an
encoder trained before (training is timed on its own), finds neighbours at the defaults of `dedup`, verifies
and groups; imagededup hashes and calls find_duplicates_to_remove at radius 7, its radius for a precision of
0.99 on this set (`dedup_quality`). Each window is two fresh processes, one after the other, on one thread;
imagededup works without processes of its own. Memory is the peak of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import alone, peak_gib, print_result

PEER = """
import json, re, sys, time
started = time.perf_counter()
from imagededup.methods import PHash
method = PHash(verbose=False)
gone = method.find_duplicates_to_remove(
    image_dir=sys.argv[1], max_distance_threshold=7, num_enc_workers=0, num_dist_workers=0
)
seconds = time.perf_counter() - started
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read()).group(1)) / 2**20
print(json.dumps({"seconds": seconds, "peak_gib": peak, "left_out": len(gone)}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, help="python of a virtual environment with imagededup")
    parser.add_argument("--photos", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(Path(options.one[0]), Path(options.one[1]))))
        return
    if options.peer is None or options.photos is None:
        parser.error("give --peer, and --photos or DCGAN_TEST_DATA")
    table: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.counts:
            files, encoder = Path(folder) / f"{count}", Path(folder) / f"{count}.safetensors"
            seconds = prepare(options.photos, files, encoder, count)
            sides: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
            for _ in range(options.windows):
                command = [sys.executable, "-m", "benchmarks.dedup_peer", "--one", str(files), str(encoder)]
                sides["ours"].append(measured(command))
                sides["peer"].append(measured([str(options.peer), "-c", PEER, str(files)]))
                print(count, sides["ours"][-1], sides["peer"][-1], flush=True)
            table[count] = {
                "training_seconds": round(seconds, 1),
                **{
                    f"ratio_of_{what}": round(
                        statistics.median(
                            one[what] / other[what]
                            for one, other in zip(sides["ours"], sides["peer"], strict=True)
                        ),
                        3,
                    )
                    for what in ("seconds", "peak_gib")
                },
                **sides,
            }
    last = table[max(table)]
    print_result(
        f"dedup_peer: {max(table):,} files to the list of what to leave out",
        [run["seconds"] for run in last["ours"]],
        "s",
        peer="imagededup phash",
        peer_values=[run["seconds"] for run in last["peer"]],
        by_count=table,
    )


def measured(command: list[str]) -> dict[str, float]:
    """The JSON that a fresh process prints last."""
    return {name: round(value, 3) for name, value in alone(*command).items()}


def prepare(photos: Path, files: Path, encoder: Path, count: int) -> float:
    """Write pictures as files and train an encoder on them; seconds of the training."""
    from safetensors.torch import save_file

    from dcgan_core import images
    from dcgan_core.config import DedupConfig
    from dcgan_core.dedup.codes import activations, median_thresholds, thumbnail
    from dcgan_core.dedup.stage import fit_as

    files.mkdir()
    table = pq.read_table(photos / "cifar10-train.parquet", columns=["image"]).slice(0, count)
    thumbs = []
    for number, data in enumerate(table["image"].to_pylist()):
        (files / f"{number:06d}.png").write_bytes(data)
        thumbs.append(thumbnail(images.decode_rgb(data, max_pixels=10**7)))
    pictures = np.stack(thumbs)
    started = time.perf_counter()
    model = fit_as(DedupConfig(), pictures, seed=0).model
    seconds = time.perf_counter() - started
    import torch

    median = torch.from_numpy(median_thresholds(activations(model, pictures)))
    save_file({**model.state_dict(), "median": median}, encoder)
    return seconds


def ours(files: Path, encoder: Path) -> dict[str, float]:
    """The same work as the stages `codes` and `dedup` do on crops."""
    started = time.perf_counter()
    import cv2
    import torch
    from safetensors.torch import load_file

    from dcgan_core import images
    from dcgan_core.config import DedupConfig
    from dcgan_core.dedup.autoencoder import Autoencoder
    from dcgan_core.dedup.codes import encode, luma, thumbnail
    from dcgan_core.dedup.groups import group
    from dcgan_core.dedup.neighbours import distances, links_within
    from dcgan_core.dedup.similarity import alike

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    config = DedupConfig()
    tensors = load_file(encoder)
    median = tensors.pop("median").numpy()
    model = Autoencoder(len(median))
    model.load_state_dict(tensors)
    codes, lumas, block = [], [], []
    paths = sorted(files.iterdir())
    for number, path in enumerate(paths, 1):
        block.append(thumbnail(images.decode_rgb(path.read_bytes(), max_pixels=10**8)))
        lumas.append(luma(block[-1]))
        if len(block) == 4096 or number == len(paths):
            codes.append(encode(model, np.stack(block), median))
            block = []
    packed, grey = np.concatenate(codes), np.stack(lumas)
    groups = group(
        packed,
        links_within(packed, config.radius),
        np.arange(len(packed)),
        2 * config.radius,
        lambda pairs: alike(
            grey[pairs[:, 0]],
            grey[pairs[:, 1]],
            distances(packed, pairs),
            config.verify,
            config.verify_step,
        ),
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_gib": peak_gib(), "left_out": int((~groups.kept_N).sum())}


if __name__ == "__main__":
    main()
