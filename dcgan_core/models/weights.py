"""Trained models as files: safetensors plus a JSON description, never pickled code."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dcgan_core.artifacts import Manifest, read_part
from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.models.dcgan import Discriminator, Generator, classes_in_turn
from dcgan_core.models.norms import Net, recalibrated
from dcgan_core.models.specs import NetSpec, net_spec, spec_from_json
from dcgan_core.storage import Store, open_location, read_whole, sha256_hex

METADATA_KEY = "dcgan"
"""What describes the net in a file's metadata. One key only: safetensors writes several in no order."""
FILES = {
    "generator": "generator.safetensors",
    "discriminator": "discriminator.safetensors",
    "ema": "ema.safetensors",
}
"""Where a model's weights lie, unless its ``model.json`` says otherwise under ``files``."""

_RECALIBRATION_BATCHES, _RECALIBRATION_SEED = 32, 2**41
_NETS: dict[str, type[Generator] | type[Discriminator]] = {
    "generator": Generator,
    "discriminator": Discriminator,
}


@dataclass(frozen=True)
class Model:
    """A trained pair (and the moving average of G, where one was kept), ready to draw and to judge."""

    spec: NetSpec
    generator: Generator
    judge: Discriminator | None
    """None where a single file of a generator was loaded."""
    ema: Generator | None

    @property
    def discriminator(self) -> Discriminator:
        """The trained D; ConfigError where only a generator was loaded."""
        if self.judge is None:
            raise ConfigError("a generator's file alone holds no discriminator; load the folder it lies in")
        return self.judge

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
        z_NZ = draw_z(self.spec, n, np.random.default_rng(seed))
        y_N = self.classes(n, label)
        return self.draw(z_NZ, y_N, ema=ema, device=device)

    def classes(self, n: int, label: int | None = None) -> Tensor | None:
        """Classes (n,) int64 of images to draw: ``label`` alone, or in turn; None for nets without classes.

        ConfigError for a class that the net does not have.
        """
        if label is None:
            return classes_in_turn(self.spec, n)
        if not 0 <= label < self.spec.classes:
            has = f"classes 0 to {self.spec.classes - 1}" if self.spec.classes else "no classes"
            raise ConfigError(f"{self.spec.name} cannot draw class {label}: it has {has}")
        return torch.full((n,), label)

    def draw(
        self,
        z_NZ: Tensor,
        y_N: Tensor | None = None,
        *,
        ema: bool = False,
        device: str = "cpu",
        batch_size: int = 256,
    ) -> Tensor:
        """The images (N, C, S, S) float32 in the net's range of given z, and of classes (N,) int64 (None: in
        turn) for a net that has some; ``batch_size`` at once.

        The nets carry batch norm statistics re-estimated at the end of training, so an image depends on its
        own z alone, not on the batch size. ConfigError where ``ema`` is wanted and there is none.
        """
        if ema and self.ema is None:
            raise ConfigError(
                "this model has no moving average of G (train.ema was 0, or a single file was loaded)"
            )
        net = cast("Generator", self.ema if ema else self.generator).to(device).eval()
        y_N = classes_in_turn(self.spec, len(z_NZ)) if y_N is None else y_N
        chunks = zip(
            z_NZ.split(batch_size), repeat(None) if y_N is None else y_N.split(batch_size), strict=False
        )
        with torch.inference_mode():
            drawn = [net(z.to(device), None if y is None else y.to(device)).float().cpu() for z, y in chunks]
            return torch.cat(drawn)


def draw_z(spec: NetSpec, n: int, random: np.random.Generator) -> Tensor:
    """z (n, Z) float32 from the net's own distribution.

    Drawn one after another, so that the i-th follows from the generator's seed and i alone, however many are
    drawn and in however many calls.
    """
    shape = (n, spec.z_size)
    if spec.z_kind == "uniform":
        return torch.from_numpy(random.uniform(-1.0, 1.0, shape).astype(np.float32))
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def to_bytes(images_NCHW: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images (N, C, H, W) as uint8, on their device; ``data_range``: black and white."""
    black, white = data_range
    scaled = (images_NCHW.clamp(black, white) - black) * (255 / (white - black))
    return scaled.round().to(torch.uint8)


def to_uint8(images_NCHW: Tensor, data_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """Images (N, C, H, W) as uint8 (N, H, W, 3); ``data_range``: black and white (``NetSpec.data_range``)."""
    pixels_NCHW = to_bytes(images_NCHW, data_range)
    return pixels_NCHW.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous().cpu().numpy()


def net_bytes(net: nn.Module) -> bytes:
    """Parameters and buffers as safetensors, with what it takes to rebuild the net in the metadata.

    The same bytes for the same weights.
    """
    kind = next((kind for kind, of_kind in _NETS.items() if isinstance(net, of_kind)), None)
    metadata = None
    if kind is not None:
        about = {"format": 1, "net": kind, "spec": cast("Generator", net).spec.to_json()}
        metadata = {METADATA_KEY: json.dumps(about, sort_keys=True, separators=(",", ":"))}
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    return save_tensors(tensors, metadata)


def load_net(net: nn.Module, data: bytes) -> None:
    """Fill a net with what ``net_bytes`` wrote."""
    net.load_state_dict(load_tensors(data))


def description(data: bytes) -> dict[str, Any] | None:
    """What a weights file says of its net (``format``, ``net``, ``spec``); None where it says nothing.

    Raises ValueError where the bytes are not safetensors.
    """
    if len(data) < 8:
        raise ValueError("it is too short")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise ValueError("it does not begin with a header")
    header = json.loads(data[8 : 8 + length])
    text = (header.get("__metadata__") or {}).get(METADATA_KEY) if isinstance(header, dict) else None
    return json.loads(text) if text else None


def describe_model(spec: NetSpec, facts: dict[str, Any]) -> bytes:
    """``model.json``: everything needed to rebuild the nets."""
    return (json.dumps({"format": 1, "spec": spec.to_json(), **facts}, indent=1) + "\n").encode()


def load_model(folder: str | Path, options: dict[str, Any] | None = None) -> Model:
    """A trained model by path or fsspec url: a folder with its ``model.json``, a checkpoint, or one file.

    - the folder of a train artifact, or one that ``dcgan export --format huggingface`` wrote;
    - a checkpoint's folder (``checkpoints/step-...``), whose batch norm statistics are re-estimated here;
    - a generator's file (``ema.safetensors``); the model then has neither a discriminator nor an average.

    ``options`` go to fsspec. ConfigError where it is none of these, CorruptArtifact where a checkpoint is
    damaged.
    """
    fs, top = open_location(str(folder), "model", **(options or {}))
    top = top.rstrip("/")
    if fs.isfile(top):
        return _of_file(fs, top)
    if not fs.exists(f"{top}/model.json") and fs.exists(f"{top}/parts/model.json"):
        top = f"{top}/parts"
    if fs.exists(f"{top}/model.json"):
        about = json.loads(read_whole(fs, f"{top}/model.json"))
        names = about.get("files", FILES)
        has_average = "ema" in names and fs.exists(f"{top}/{names['ema']}")

        def read(name: str) -> bytes:
            try:
                return read_whole(fs, f"{top}/{name}")
            except FileNotFoundError:
                raise ConfigError(f"{top}/{name} is missing; copy the whole folder again") from None

        return _rebuilt(read, has_average)
    if fs.exists(f"{top}/state.json"):
        return _of_checkpoint(fs, top)
    raise ConfigError(
        f"{folder} holds no model.json; give the folder of a train artifact (dcgan list artifacts), a "
        "checkpoint's folder, or the file of a generator's weights (ema.safetensors)"
    )


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
    about = json.loads(read("model.json"))
    spec, names = _spec(about["spec"], "model.json"), about.get("files", FILES)

    def filled(net: Net, kind: str) -> Net:
        return _filled(net, read(names[kind]), names[kind])

    ema = filled(Generator(spec), "ema") if has_average else None
    judge = filled(Discriminator(spec), "discriminator") if "discriminator" in names else None
    return Model(spec, filled(Generator(spec), "generator"), judge, ema)


def _of_file(fs: fsspec.AbstractFileSystem, path: str) -> Model:
    """The generator in one file, which says itself what it is, or has a ``model.json`` beside it."""
    folder, _, name = path.rpartition("/")
    data = read_whole(fs, path)
    try:
        about = description(data)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a safetensors file ({error}); give ema.safetensors or generator.safetensors"
        ) from None
    if about is None and fs.exists(f"{folder}/model.json"):  # written before files described themselves
        kind = "discriminator" if name.startswith("discriminator") else "generator"
        about = {"net": kind, "spec": json.loads(read_whole(fs, f"{folder}/model.json"))["spec"]}
    if about is None and fs.exists(f"{folder}/state.json"):
        raise ConfigError(
            f"{path} belongs to a checkpoint, whose batch norm statistics are not for drawing; give the "
            f"folder, so that they are re-estimated: {folder}"
        )
    if about is None:
        raise ConfigError(
            f"{path} does not say which net it holds, and there is no model.json beside it; put the run's "
            "model.json there"
        )
    if about["net"] != "generator":
        raise ConfigError(f"{path} holds a {about['net']}, which draws nothing; give a generator's file")
    spec = _spec(about["spec"], path)
    return Model(spec, _filled(Generator(spec), data, path), None, None)


def _spec(values: dict[str, Any], path: str) -> NetSpec:
    try:
        return spec_from_json(values)
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} describes nets that this version of dcgan does not know ({error}); use the version they "
            "were made with, or a later one"
        ) from None


def _filled(net: Net, data: bytes, path: str) -> Net:
    try:
        load_net(net, data)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path} is damaged, or of another net: {reason}; copy it again") from None
    return net.eval()


def _of_checkpoint(fs: fsspec.AbstractFileSystem, top: str) -> Model:
    """The nets of a checkpoint, the generators' batch norm statistics re-estimated as at the end of training.

    Nets are described by ``state.json`` or by the finished run's ``model.json`` two folders up.
    """
    state = json.loads(read_whole(fs, f"{top}/state.json"))
    above = f"{top.rpartition('/')[0].rpartition('/')[0]}/model.json"
    about = json.loads(read_whole(fs, above)) if fs.exists(above) else {}
    if "spec" not in state | about:
        raise ConfigError(
            f"{top} does not say which nets it holds, and there is no {above} yet; wait for the end "
            "of the run, or look at the grids it draws as it goes (samples/)"
        )
    spec = _spec((about | state)["spec"], top)
    batch_size = int({**about.get("config", {}), **state.get("settings", {})}.get("batch_size", 128))
    hashes = {file["name"].rpartition("/")[2]: file["sha256"] for file in state["files"]}

    def filled(net: Net, kind: str) -> Net:
        path = f"{top}/{FILES[kind]}"
        data = read_whole(fs, path)
        if sha256_hex(data) != hashes[FILES[kind]]:
            raise CorruptArtifact(path, "its sha256 differs from that in state.json")
        return _filled(net, data, path)

    def drawing(kind: str) -> Generator:
        random = np.random.default_rng(_RECALIBRATION_SEED)
        batches = [draw_z(spec, batch_size, random) for _ in range(_RECALIBRATION_BATCHES)]
        net = filled(Generator(spec), kind)
        return recalibrated(net, batches, lambda net, z_NZ: net(z_NZ, classes_in_turn(spec, len(z_NZ))))

    ema = drawing("ema") if FILES["ema"] in hashes else None
    return Model(spec, drawing("generator"), filled(Discriminator(spec), "discriminator"), ema)


def _fill_norm(norm: nn.Module, gain: Tensor, bias: Tensor) -> None:
    cast("nn.BatchNorm2d", norm).weight.copy_(gain)
    cast("nn.BatchNorm2d", norm).bias.copy_(bias)
