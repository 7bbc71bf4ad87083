"""Trained models as files: safetensors plus a JSON description, never pickled code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.errors import ConfigError
from dcgan_core.models.dcgan import Discriminator, Generator, classes_in_turn
from dcgan_core.models.specs import NetSpec, net_spec, spec_from_json
from dcgan_core.storage import Store, open_location, read_whole


@dataclass(frozen=True)
class Model:
    """A trained pair (and the moving average of G, where one was kept), ready to draw and to judge."""

    spec: NetSpec
    generator: Generator
    discriminator: Discriminator
    ema: Generator | None

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        ema: bool = False,
        device: str = "cpu",
        label: int | None = None,
    ) -> Tensor:
        """``n`` images (n, C, S, S) float32 in the net's range from z drawn by seed.

        A net with classes draws them in turn, or ``label`` alone. ConfigError for one that it does not have.
        """
        if label is not None and not 0 <= label < self.spec.classes:
            has = f"classes 0 to {self.spec.classes - 1}" if self.spec.classes else "no classes"
            raise ConfigError(f"{self.spec.name} cannot draw class {label}: it has {has}")
        z_NZ = draw_z(self.spec, n, np.random.default_rng(seed))
        y_N = None if label is None else torch.full((n,), label)
        return self.draw(z_NZ, y_N, ema=ema, device=device)

    def draw(
        self, z_NZ: Tensor, y_N: Tensor | None = None, *, ema: bool = False, device: str = "cpu"
    ) -> Tensor:
        """The images (N, C, S, S) float32 in the net's range of given z, and of classes (N,) int64 (None: in
        turn) for a net that has some.

        The nets carry batch norm statistics re-estimated at the end of training, so an image depends on its
        own z alone, not on the batch size. ConfigError where ``ema`` is wanted and there is none.
        """
        if ema and self.ema is None:
            raise ConfigError("this model has no moving average of G (train.ema was 0)")
        net = cast("Generator", self.ema if ema else self.generator).to(device).eval()
        y_N = classes_in_turn(self.spec, len(z_NZ)) if y_N is None else y_N
        chunks = zip(z_NZ.split(256), repeat(None) if y_N is None else y_N.split(256), strict=False)
        with torch.inference_mode():
            drawn = [net(z.to(device), None if y is None else y.to(device)).float().cpu() for z, y in chunks]
            return torch.cat(drawn)


def draw_z(spec: NetSpec, n: int, random: np.random.Generator) -> Tensor:
    """z (n, Z) float32 from the net's own distribution."""
    shape = (n, spec.z_size)
    if spec.z_kind == "uniform":
        return torch.from_numpy(random.uniform(-1.0, 1.0, shape).astype(np.float32))
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def to_uint8(images_NCHW: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """Images (N, C, H, W) as uint8 (N, H, W, 3); ``data_range``: black and white (``NetSpec.data_range``)."""
    black, white = data_range
    scaled = (images_NCHW.clamp(black, white) - black) * (255 / (white - black))
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().cpu().numpy()


def net_bytes(net: nn.Module) -> bytes:
    """Parameters and buffers as safetensors."""
    return save_tensors({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()})


def load_net(net: nn.Module, data: bytes) -> None:
    """Fill a net with what ``net_bytes`` wrote."""
    net.load_state_dict(load_tensors(data))


def describe_model(spec: NetSpec, facts: dict[str, Any]) -> bytes:
    """``model.json``: everything needed to rebuild the nets."""
    return (json.dumps({"format": 1, "spec": spec.to_json(), **facts}, indent=1) + "\n").encode()


def load_model(folder: str | Path, options: dict[str, Any] | None = None) -> Model:
    """A trained model from a train artifact's folder (or any with its ``model.json``), by path or fsspec url.

    ``options`` go to fsspec. ConfigError where the folder is not one.
    """
    fs, top = open_location(str(folder), "model", **(options or {}))
    if not fs.exists(f"{top}/model.json") and fs.exists(f"{top}/parts/model.json"):
        top = f"{top}/parts"
    if not fs.exists(f"{top}/model.json"):
        raise ConfigError(
            f"{folder} holds no model.json; give the folder of a train artifact (dcgan list artifacts)"
        )
    has_average = fs.exists(f"{top}/ema.safetensors")
    return _rebuilt(lambda name: read_whole(fs, f"{top}/{name}"), has_average)


def load_trained(store: Store, manifest: Manifest) -> Model:
    """The model of a train artifact, every file checked against its manifest.

    Raises CorruptArtifact where one differs, ConfigError where the artifact is of another kind.
    """
    files = {file.name: file for file in manifest.files}
    if "model.json" not in files:
        raise ConfigError(f"{manifest.address} is not a trained model (dcgan list artifacts)")
    has_average = "ema.safetensors" in files
    return _rebuilt(lambda name: read_part(store, manifest.address, files[name]), has_average)


def load_authors_svhn(path: Path) -> tuple[Generator, Discriminator]:
    """The authors' own SVHN nets (Newmu/dcgan_code, MIT) from the npz of their parameters.

    Their kernels were used as true convolutions, so they are flipped in both spatial axes here. Use
    ``batch_statistics``: they kept no running averages.
    """
    spec = net_spec("svhn32")
    generator, discriminator = Generator(spec), Discriminator(spec)
    with np.load(path, allow_pickle=False) as arrays:
        g = [torch.from_numpy(arrays[f"gen_params_{i:02d}"].astype(np.float32)) for i in range(1, 11)]
        d = [torch.from_numpy(arrays[f"discrim_params_{i:02d}"].astype(np.float32)) for i in range(1, 9)]
    with torch.no_grad():
        generator.project.weight.copy_(g[0].T)
        _fill_norm(generator.project_norm, g[1], g[2])
        convs = [layer for layer in generator.layers if isinstance(layer, nn.ConvTranspose2d)]
        norms = [layer for layer in generator.layers if isinstance(layer, nn.BatchNorm2d)]
        for conv, kernel in zip(convs, (g[3], g[6], g[9]), strict=True):
            conv.weight.copy_(kernel.flip(2, 3))
        for norm, gain, bias in zip(norms, (g[4], g[7]), (g[5], g[8]), strict=True):
            _fill_norm(norm, gain, bias)
        blocks = [cast("nn.Sequential", block) for block in discriminator.blocks]
        for block, kernel in zip(blocks, (d[0], d[1], d[4]), strict=True):
            cast("nn.Conv2d", block[0]).weight.copy_(kernel.flip(2, 3))
        _fill_norm(blocks[1][1], d[2], d[3])
        _fill_norm(blocks[2][1], d[5], d[6])
        discriminator.logit.weight.copy_(d[7].T)
    return generator, discriminator


def _rebuilt(read: Callable[[str], bytes], has_average: bool) -> Model:
    spec = spec_from_json(json.loads(read("model.json"))["spec"])
    generator, discriminator = Generator(spec), Discriminator(spec)
    load_net(generator, read("generator.safetensors"))
    load_net(discriminator, read("discriminator.safetensors"))
    ema = Generator(spec) if has_average else None
    if ema is not None:
        load_net(ema, read("ema.safetensors"))
    return Model(spec, generator.eval(), discriminator.eval(), ema)


def _fill_norm(norm: nn.Module, gain: Tensor, bias: Tensor) -> None:
    cast("nn.BatchNorm2d", norm).weight.copy_(gain)
    cast("nn.BatchNorm2d", norm).bias.copy_(bias)
