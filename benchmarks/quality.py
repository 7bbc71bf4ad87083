"""Distances of two sets of features: ours beside torch-fidelity's functions on the same features.

python -m benchmarks.quality [--peer PYTHON] [--count 10000] [--features 2048] [--windows 3] [--threads N]

The features are random (correlated, with a long tail of small directions as Inception's have, not below 0);
the network's own time is not in it. Ours: `statistics`, streamed in batches of 64 rows, both sides, and
`frechet`; the value is their sum. Beside it: KID over 100 subsets of 1,000, precision and recall with
3 neighbours. PYTHON is one with torch-fidelity installed, which gets the same features from a file. Each
window is a fresh process of each side, one after the other, on as many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import peak_gib, print_result

BATCH = 64
SUBSET = 1000

PEER = """
import json, re, sys, time
import numpy as np, torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
folder, subset = sys.argv[1], int(sys.argv[2])
real, generated = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in ("real", "generated"))
seconds, started = {}, time.perf_counter()
def lap(name):
    global started
    seconds[name], started = time.perf_counter() - started, time.perf_counter()
both = [fid_features_to_statistics(each) for each in (real, generated)]
lap("statistics")
values = {"frechet": fid_statistics_to_metric(*both, False)["frechet_inception_distance"]}
lap("frechet")
kid = kid_features_to_metric(real, generated, kid_subset_size=subset, verbose=False)
values["kernel"] = kid["kernel_inception_distance_mean"]
lap("kernel")
prc = prc_features_to_metric(generated, real, save_cpu_ram=False, verbose=False)
values["precision"], values["recall"] = prc["precision"], prc["recall"]
lap("manifold")
peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read()).group(1)) / 2**20
print(json.dumps({"seconds": seconds, "values": values, "peak_gib": peak}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, help="python of a virtual environment with torch-fidelity")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    subset = min(SUBSET, options.count // 2)
    if options.one:
        print(json.dumps(ours(options.one, subset)))
        return
    mine, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.count, options.features)
        for _ in range(options.windows):
            own = [sys.executable, "-m", "benchmarks.quality", "--one", folder, "--count", str(options.count)]
            mine.append(measured(own, options.threads))
            print("ours", mine[-1], flush=True)
            if options.peer:
                peer = [str(options.peer), "-c", PEER, folder, str(subset)]
                theirs.append(measured(peer, options.threads))
                print("peer", theirs[-1], flush=True)
    print_result(
        f"quality: statistics and Frechet distance, {options.count:,} against {options.count:,} rows of "
        f"{options.features:,} features",
        [both_parts(each) for each in mine],
        "s",
        peer="torch-fidelity" if theirs else None,
        peer_values=[both_parts(each) for each in theirs],
        threads=options.threads,
        ours=medians(mine),
        theirs=medians(theirs) if theirs else None,
    )


def measured(command: list[str], threads: int) -> dict[str, Any]:
    """The JSON that a fresh process prints last."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def both_parts(run: dict[str, Any]) -> float:
    return run["seconds"]["statistics"] + run["seconds"]["frechet"]


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of each part, the peak of memory, and the values, which are the same in all windows."""
    parts = {
        part: round(statistics.median(run["seconds"][part] for run in runs), 3) for part in runs[0]["seconds"]
    }
    peak = round(max(run["peak_gib"] for run in runs), 2)
    values = {name: float(f"{value:.6g}") for name, value in runs[0]["values"].items()}
    return {"seconds": parts, "peak_gib": peak, "values": values}


def prepare(folder: Path, count: int, features: int) -> None:
    """Two sets of float32 rows (count, features) whose distributions differ a little."""
    rng = np.random.default_rng(0)
    sizes = (np.arange(1, features + 1) ** -0.5).astype(np.float32)
    mixing = rng.normal(size=(features, features)).astype(np.float32) * sizes[:, None]
    for name, shift in (("real", 0.4), ("generated", 0.45)):
        drawn = rng.normal(size=(count, features)).astype(np.float32)
        np.save(folder / f"{name}.npy", np.maximum(0, shift + 0.3 * drawn @ mixing))


def ours(folder: Path, subset: int) -> dict[str, Any]:
    """Seconds and values of each part, here."""
    import torch

    from dcgan_core.evaluate.frechet import frechet_distance
    from dcgan_core.evaluate.kernel import kernel_distance
    from dcgan_core.evaluate.manifold import precision_recall
    from dcgan_core.evaluate.moments import Moments

    real, generated = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("real", "generated"))
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - started
        return result

    def streamed(features_NF: torch.Tensor) -> Moments:
        moments = Moments.empty(features_NF.shape[1])
        for batch_BF in features_NF.split(BATCH):
            moments.update(batch_BF)
        return moments

    both = timed("statistics", lambda: [streamed(each) for each in (real, generated)])
    distance = timed("frechet", lambda: frechet_distance(*both))
    rng = np.random.default_rng(0)
    kernel = timed("kernel", lambda: kernel_distance(real, generated, rng, subset_size=subset))
    manifold = timed("manifold", lambda: precision_recall(real, generated))
    values = {
        "frechet": distance,
        "kernel": kernel.mean,
        "precision": manifold.precision,
        "recall": manifold.recall,
    }
    return {"seconds": seconds, "values": values, "peak_gib": peak_gib()}


if __name__ == "__main__":
    main()
