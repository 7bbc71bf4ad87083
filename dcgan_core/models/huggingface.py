"""A trained model as a folder in the style of Hugging Face: weights, configuration, code, samples, card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from dcgan_core.errors import ConfigError, ExportDiffers
from dcgan_core.models import modeling_dcgan
from dcgan_core.models.card import write_card
from dcgan_core.models.export import TOLERANCE, generator_of, new_folder
from dcgan_core.models.opening import Opened
from dcgan_core.models.sampling import Weights, drawn_in_batches, write_sheet
from dcgan_core.models.weights import describe_model, net_bytes

SAMPLES, SAMPLES_SEED = 64, 1
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def export_huggingface(opened: Opened, to: Path, weights: Weights, licence: str) -> dict[str, float]:
    """Write the folder; returns the largest difference of what its own code draws from what dcgan draws.

    ``model.safetensors`` is the G that draws; the other G, if any, and D are beside it, and ``load_model``
    reads the folder. No training image is in it. Raises ConfigError where ``to`` is not empty or the licence
    is no identifier; ExportDiffers, with nothing written, where the code in the folder draws otherwise.
    """
    if not _LICENCE.fullmatch(licence):
        raise ConfigError(f"--license {licence!r}: give an identifier such as cc-by-4.0, mit or other")
    model = opened.model
    nets: dict[str, torch.nn.Module] = {"model.safetensors": generator_of(model, weights)}
    files = {"ema" if weights == "ema" else "generator": "model.safetensors"}
    if weights == "ema":
        nets["generator-plain.safetensors"] = model.generator
        files["generator"] = "generator-plain.safetensors"
    elif model.ema is not None:
        nets["generator-ema.safetensors"] = model.ema
        files["ema"] = "generator-ema.safetensors"
    if model.judge is not None:
        nets["discriminator.safetensors"] = model.judge
        files["discriminator"] = "discriminator.safetensors"
    with new_folder(to) as folder:
        for name, net in nets.items():
            (folder / name).write_bytes(net_bytes(net))
        facts = {**opened.facts, "weights": weights, "files": files}
        (folder / "model.json").write_bytes(describe_model(model.spec, facts))
        (folder / "config.json").write_text(_config(opened, weights))
        code = Path(modeling_dcgan.__file__).read_text("utf-8")
        (folder / "modeling_dcgan.py").write_text(code, "utf-8")
        batches = drawn_in_batches(model, SAMPLES, seed=SAMPLES_SEED, weights=weights)
        write_sheet(batches, folder / "samples.png", SAMPLES)
        write_card(opened, weights, licence, folder / "README.md", SAMPLES, SAMPLES_SEED)
        difference = _difference(opened, weights, folder)
        if not difference <= TOLERANCE:
            raise ExportDiffers("model.safetensors", difference, TOLERANCE)
    return {"model.safetensors with modeling_dcgan.py": difference}


def _config(opened: Opened, weights: Weights) -> str:
    """What ``modeling_dcgan.py`` rebuilds G from."""
    of_discriminator = ("discriminator", "leak", "d_activation", "spectral_norm")
    spec = {
        name: value for name, value in opened.model.spec.to_json().items() if name not in of_discriminator
    }
    about = {"model_type": "dcgan", "architectures": ["Generator"], "weights": weights, "dtype": "float32"}
    return json.dumps({**about, **spec}, indent=1) + "\n"


def _difference(opened: Opened, weights: Weights, folder: Path) -> float:
    """Of the images of the folder's own code from ours, both drawn from its own z."""
    generator = modeling_dcgan.load(folder)
    z_NZ: Tensor = modeling_dcgan.draw_z(generator.config, SAMPLES, SAMPLES_SEED)
    ours = opened.model.draw(z_NZ, ema=weights == "ema")
    return float((modeling_dcgan.draw(generator, z_NZ) - ours).abs().max())
