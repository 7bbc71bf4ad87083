"""Trained nets for other programs: ONNX files, each checked against torch before it is kept."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from dcgan_core.errors import ConfigError, ExportDiffers
from dcgan_core.models.dcgan import Generator
from dcgan_core.models.sampling import Weights
from dcgan_core.models.weights import Model, draw_z

TOLERANCE = 1e-4
"""Largest difference allowed: of pixels in [-1, 1], and of logits relative to the largest, if beyond 1."""

_CHECKED_BATCHES = (1, 2, 7, 64)
_CHECK_SEED = 20151119
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def export_onnx(model: Model, to: Path, weights: Weights, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Write ``generator.onnx`` (z to images), ``discriminator.onnx`` (images to logits) and ``export.json``.

    Both take batches of any size (and ``classes``, int64, of nets that have some), and use stored batch norm
    statistics. onnxruntime runs each on several batch sizes, and the largest difference from torch, by file,
    is returned and noted in ``export.json``.

    Raises ConfigError where packages are missing or ``to`` is not empty; ExportDiffers, with nothing
    written, where a difference exceeds the tolerance.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"ONNX needs {', '.join(missing)}: pip install 'dcgan[export]'")
    generator = generator_of(model, weights)
    z_NZ = draw_z(model.spec, sum(_CHECKED_BATCHES), np.random.default_rng(_CHECK_SEED))
    y_N = model.classes(len(z_NZ))
    with torch.inference_mode():
        drawn_NCHW = generator(z_NZ, y_N)
    classes = {} if y_N is None else {"classes": y_N}
    nets: dict[str, tuple[nn.Module, dict[str, Tensor], str]] = {
        "generator.onnx": (generator, {"z": z_NZ, **classes}, "images")
    }
    if model.judge is not None:
        judge = model.judge.float().cpu().eval()
        nets["discriminator.onnx"] = (judge, {"images": drawn_NCHW.clone(), **classes}, "logits")
    differences = {}
    with new_folder(to) as folder:
        for name, (net, inputs, gives) in nets.items():
            _write_graph(net, inputs, folder / name, gives)
            differences[name] = _difference(net, inputs, folder / name)
            if not differences[name] <= tolerance:  # NaN is no agreement either
                raise ExportDiffers(name, differences[name], tolerance)
        check = {
            "weights": weights,
            "spec": model.spec.to_json(),
            "largest_difference_from_torch": differences,
            "tolerance": tolerance,
            "batches": _CHECKED_BATCHES,
            "opset": {name: _opset(folder / name) for name in nets},
            "packages": {name: version(name) for name in ("torch", *_PACKAGES)},
        }
        (folder / "export.json").write_text(json.dumps(check, indent=1) + "\n")
    return differences


def generator_of(model: Model, weights: Weights) -> Generator:
    """The G that draws, on the processor, in float32, with stored batch norm statistics."""
    chosen = cast("Generator", model.ema if weights == "ema" else model.generator)
    return chosen.float().cpu().eval()


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``to`` at the end of the block, nothing if the block raises.

    Raises ConfigError where ``to`` is there and not empty.
    """
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise ConfigError(f"{to} is there already; give --to a directory that is new or empty")
    to.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's is for its owner alone
        folder.replace(to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_graph(net: nn.Module, inputs: dict[str, Tensor], path: Path, gives: str) -> None:
    """By torch.export, the exporter that is kept up (that by TorchScript is deprecated); its own opset."""
    batch = torch.export.Dim("batch", min=1)
    talkative = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in talkative]
    for logger in talkative:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own internals
            torch.onnx.export(
                net,
                tuple(values[:2] for values in inputs.values()),
                path,
                input_names=list(inputs),
                output_names=[gives],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)


def _difference(net: nn.Module, inputs: dict[str, Tensor], path: Path) -> float:
    """Largest difference of onnxruntime's outputs from torch's, over batches of several sizes.

    Of outputs beyond 1 (logits), relative to the largest.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in zip(*(values.split(list(_CHECKED_BATCHES)) for values in inputs.values()), strict=True):
        with torch.inference_mode():
            expected = net(*batch).numpy()
        feed = {name: values.numpy() for name, values in zip(inputs, batch, strict=True)}
        got = np.asarray(session.run(None, feed)[0])
        if got.shape != expected.shape:
            return float("inf")
        worst = float(np.maximum(worst, np.abs(got - expected).max() / max(1.0, np.abs(expected).max())))
    return worst


def _opset(path: Path) -> int:
    import onnx

    return int(onnx.load(path).opset_import[0].version)
