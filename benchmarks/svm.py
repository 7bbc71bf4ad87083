"""The L2-SVM on features of a discriminator's size, beside LinearSVC.

python -m benchmarks.svm compare  [--windows 1]   10,000 x 28,672, 10 classes, one C: time, memory of both
python -m benchmarks.svm large                    50,000 x 28,672 ours alone; a quarter's columns for both
python -m benchmarks.svm protocol [--windows 1]   1,000 labels: 10 draws x 7 C judged on 10,000
                                                  rows, 100 fresh draws on 26,032
    [--c 1e-3] [--scale 1.0] [--features NPY --labels NPY] [--dtype float16] [--device cpu] [--folder DIR]

Features are made up (correlated, non-negative, many zero, as max-pooled activations) or the rows of NPY,
(N, F) of any float type; they lie in a file that each side maps. Each fit is a process of its own with all
cores. LinearSVC gets the tolerances 0.1, 0.01, 1e-3, 1e-4 in turn until its objective is within 1e-4 of ours,
and the first that is there counts: ours stays at its defaults, which prove 1e-5. `--scale` shrinks both sides
of every matrix, to try it out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import peak_gib, print_result
from benchmarks.training import child

CLASSES = 10
_SVHN_TRAIN, _SVHN_TEST = 30_000, 26_032  # training rows: 10,000 held back, the others to draw from
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
COMPARABLE = 1e-4
BLOCK = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("figure", choices=["compare", "large", "protocol", "one"])
    parser.add_argument("--c", type=float, default=1e-3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--features", type=Path, help="an .npy file (N, F) instead of made-up features")
    parser.add_argument("--labels", type=Path, help="its labels, an .npy file (N,)")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of `large`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the made-up features go for the while")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.figure == "one":
        print(json.dumps(_ONE[json.loads(options.one)["side"]](json.loads(options.one))))
        return
    if (options.features is None) != (options.labels is None):
        parser.error("give both --features and --labels, or neither")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        {"compare": compare, "large": large, "protocol": protocol}[options.figure](options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Both sides on the same rows, window by window."""
    task = data_task(options, folder, 10_000, 28_672, "float32")
    ours, theirs = [], []
    for _ in range(options.windows):
        ours.append(fitted(task, "ours"))
        theirs.append(comparable(task, ours[-1]["objective"]))
        print(ours[-1], theirs[-1], flush=True)
    print_result(
        f"svm compare: {task['rows']:,} x {task['columns']:,}, {CLASSES} classes, C = {task['c']:g}",
        [each["seconds"] for each in ours],
        "s",
        peer="LinearSVC",
        peer_values=[each["seconds"] for each in theirs],
        times_faster=round(theirs[-1]["seconds"] / ours[-1]["seconds"], 2),
        share_of_memory=round(ours[-1]["peak_gib"] / theirs[-1]["peak_gib"], 3),
        equal_predictions=agreement(ours[-1], theirs[-1]),
        ours=brief(ours[-1]),
        theirs=brief(theirs[-1]),
        device=options.device,
        data=task["data"],
    )


def large(options: argparse.Namespace, folder: Path) -> None:
    """Ours on all columns; both on a quarter of them."""
    task = data_task(options, folder, 50_000, 28_672, options.dtype)
    alone = fitted(task, "ours")
    print(alone, flush=True)
    part = task | {"columns": task["columns"] // 4}
    ours = fitted(part, "ours")
    theirs = fitted(part, "theirs", tolerance=TOLERANCES[-1])
    print_result(
        f"svm large: {task['rows']:,} x {task['columns']:,}, {CLASSES} classes, C = {task['c']:g}",
        [alone["seconds"]],
        "s",
        ours=brief(alone),
        quarter={
            "columns": part["columns"],
            "ours": brief(ours),
            "LinearSVC": brief(theirs),
            "objectives": round(ours["objective"] / theirs["objective"], 7),
            "equal_predictions": agreement(ours, theirs),
        },
        dtype=str(np.load(task["features"], mmap_mode="r").dtype),
        device=options.device,
        data=task["data"],
    )


def protocol(options: argparse.Namespace, folder: Path) -> None:
    """The 1,000-label protocol on 7,168 features, predictions included."""
    task = data_task(options, folder, _SVHN_TRAIN + _SVHN_TEST, 7_168, "float16")
    runs = [fitted(task, "draws") for _ in range(options.windows)]
    print_result(
        f"svm protocol: {runs[-1]['fits']} fits of {runs[-1]['labels']:,} x {task['columns']:,}",
        [each["seconds"] for each in runs],
        "s",
        runs=runs,
        device=options.device,
        data=task["data"],
    )


def fitted(task: dict[str, Any], side: str, **more: Any) -> dict[str, Any]:
    """One side in a process of its own."""
    return child("benchmarks.svm", "one", "--one", json.dumps(task | {"side": side} | more))


def comparable(task: dict[str, Any], objective: float) -> dict[str, Any]:
    """LinearSVC at the loosest tolerance that comes within a share of 1e-4 of an objective."""
    run: dict[str, Any] = {}
    for tolerance in TOLERANCES:
        run = fitted(task, "theirs", tolerance=tolerance) | {"tolerance": tolerance}
        print(run, flush=True)
        if run["objective"] <= objective * (1 + COMPARABLE):
            break
    return run


def agreement(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Share of held-out rows that both give the same class."""
    return round(float(np.mean(np.array(one["predictions"]) == np.array(other["predictions"]))), 5)


def brief(run: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in run.items()
        if name != "predictions"
    }


def data_task(
    options: argparse.Namespace, folder: Path, rows: int, columns: int, dtype: str
) -> dict[str, Any]:
    """What the processes need to know; a tenth more rows are held out."""
    rows, columns = round(rows * options.scale), round(columns * options.scale)
    task = {"c": options.c, "device": options.device, "rows": rows, "columns": columns}
    if options.features is None:
        features, labels = folder / "x.npy", folder / "y.npy"
        make(features, labels, rows + rows // 10, columns, dtype)
        return task | {"features": str(features), "labels": str(labels), "data": "made up"}
    there = np.load(options.features, mmap_mode="r").shape
    task |= {"rows": min(rows, there[0] * 10 // 11), "columns": min(columns, there[1])}
    return task | {
        "features": str(options.features),
        "labels": str(options.labels),
        "data": options.features.name,
    }


def make(features: Path, labels: Path, rows: int, columns: int, dtype: str) -> None:
    """Rectified mixtures of hidden factors whose weight falls as 1 / rank, the larger of two looks each."""
    rng = np.random.default_rng(0)
    factors = 256
    mixed = rng.normal(size=(factors, columns)) / np.arange(1, factors + 1)[:, None] ** 0.5
    mixed, shift = mixed.astype(np.float32), rng.normal(-0.8, 0.5, columns).astype(np.float32)
    centres = 0.35 * rng.normal(size=(CLASSES, factors))
    y_N = rng.integers(0, CLASSES, rows)
    x_NF = np.lib.format.open_memmap(features, "w+", np.dtype(dtype), (rows, columns))
    for start in range(0, rows, BLOCK):
        y_B = y_N[start : start + BLOCK]
        hidden = centres[y_B] + rng.normal(size=(len(y_B), factors))
        looks = [hidden + 0.5 * rng.normal(size=hidden.shape) for _ in range(2)]
        first, second = (look.astype(np.float32) @ mixed / 2 + shift for look in looks)
        x_NF[start : start + BLOCK] = np.maximum(np.maximum(first, second), 0)
    x_NF.flush()
    np.save(labels, y_N)


def read(task: dict[str, Any]) -> tuple[Any, NDArray[np.int64], Any]:
    """(training features, their labels, held-out features), mapped; columns left out are cut by a view."""
    x_NF, y_N = np.load(task["features"], mmap_mode="r"), np.load(task["labels"]).astype(np.int64)
    rows, columns = task["rows"], task["columns"]
    return x_NF[:rows, :columns], y_N[:rows], x_NF[rows : rows + rows // 10, :columns]


def ours(task: dict[str, Any]) -> dict[str, Any]:
    """Our fit, its evidence and what it predicts."""
    from dcgan_core.evaluate.svm import L2SVM

    x_NF, y_N, held_MF = read(task)
    started = time.perf_counter()
    model = L2SVM(C=task["c"], device=task["device"]).fit(x_NF, y_N)
    seconds, peak = time.perf_counter() - started, peak_gib()
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "objective": objective(x_NF, y_N, model, task["c"]),
        "relative_gradient": model.gradient_norm_,
        "gap": model.gap_,
        "steps": model.n_iter_,
        "converged": model.converged_,
        "train_accuracy": float(np.mean(model.predict(x_NF) == y_N)),
        "predictions": model.predict(held_MF).tolist(),
    }


def theirs(task: dict[str, Any]) -> dict[str, Any]:
    """LinearSVC's fit as anybody would call it: `dual` left to it."""
    from sklearn.svm import LinearSVC

    x_NF, y_N, held_MF = read(task)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = LinearSVC(C=task["c"], tol=task["tolerance"], max_iter=10_000, dual="auto", random_state=0)
        model.fit(x_NF, y_N)
    seconds, peak = time.perf_counter() - started, peak_gib()
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "objective": objective(x_NF, y_N, model, task["c"]),
        "steps": int(model.n_iter_),
        "converged": not caught,
        "predictions": np.asarray(model.predict(np.asarray(held_MF, np.float64))).tolist(),
    }


def draws(task: dict[str, Any]) -> dict[str, Any]:
    """The protocol itself: 10 draws to choose C on 10,000 rows, 100 fresh draws to judge on 26,032."""
    from dcgan_core.evaluate.contest import Svm
    from dcgan_core.evaluate.protocols import Split, repeated_draws

    x_NF, y_N, _ = read(task)
    train = len(x_NF) - round(len(x_NF) * _SVHN_TEST / (_SVHN_TRAIN + _SVHN_TEST))
    validation = train // 3
    per_class = min(100, (train - validation) // (4 * CLASSES))
    started = time.perf_counter()
    outcome = repeated_draws(
        Split(x_NF[:train], y_N[:train], x_NF[train:], y_N[train:]),
        Svm(task["device"]),
        per_class=per_class,
        validation=validation,
        seed=0,
    )
    return {
        "seconds": time.perf_counter() - started,
        "fits": sum(trial.draws for trial in outcome.trials) + len(outcome.accuracies),
        "labels": outcome.train,
        "chosen_c": outcome.chosen_c[0],
        "accuracy": outcome.accuracy,
        "converged": outcome.converged,
        "predicted": {"choosing": validation, "judging": outcome.test},
        "peak_gib": peak_gib(),
    }


def objective(x_NF: Any, y_N: NDArray[np.int64], model: Any, c: float) -> float:
    """The sum of all classes' objectives as they are written down, in float64, block by block."""
    total = (np.sum(model.coef_**2) + np.sum(model.intercept_**2)) / 2
    for start in range(0, len(y_N), BLOCK):
        rows = slice(start, start + BLOCK)
        signs = np.where(y_N[rows, None] == model.classes_, 1.0, -1.0)
        decided = np.asarray(x_NF[rows], np.float64) @ model.coef_.T + model.intercept_
        total += c * np.sum(np.maximum(0, 1 - signs * decided) ** 2)
    return float(total)


_ONE = {"ours": ours, "theirs": theirs, "draws": draws}

if __name__ == "__main__":
    main()
