"""The Inception net of FID, from a file that the user gives: torch-fidelity's, which equals the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcgan_core.errors import ConfigError
from dcgan_core.storage import sha256_of_file
from dcgan_core.weights_file import weights_file

_SETTING = "evaluate.inception_weights"
_FILE = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth (of its releases)"


@dataclass(frozen=True, eq=False)
class Inception:
    """Inception V3 of 2015-12-05 as the TensorFlow original computes it, resize included."""

    net: nn.Module
    device: torch.device
    sha256: str
    """Of the weights; belongs to the key of whatever is kept of its features."""

    @torch.inference_mode()
    def __call__(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and ``logits_unbiased`` (N, 1008), float32, of uint8 RGB images of any size."""
        if images_N3HW.dtype != torch.uint8 or images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3:
            shape = tuple(images_N3HW.shape)
            raise ConfigError(f"Inception takes uint8 images (N, 3, H, W), not {images_N3HW.dtype} {shape}")
        features_NF, logits_NK = self.net(images_N3HW.to(self.device))
        return features_NF, logits_NK


def load_inception(
    location: str, sha256: str | None, cache: Path, *, device: torch.device | str = "cpu"
) -> Inception:
    """The net with the weights at a path or url (``weights_file``); nothing is fetched that is not named.

    The file is a state dict in torch-fidelity's format and is read without running code from it. Raises
    ConfigError where torch-fidelity is not installed, where there is no such file, for another hash, and
    for a file of another format.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ConfigError(
            "FID, IS and KID need torch-fidelity; install it (pip install 'dcgan[quality]'), or unset "
            f"{_SETTING} and use the distances that need no weights"
        ) from None
    path = weights_file(location, sha256, cache, setting=_SETTING, what=_FILE)
    _require_state(path)
    try:
        net: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except RuntimeError as error:  # other names or shapes of tensors
        raise ConfigError(_wrong(location, str(error).partition("\n")[0])) from None
    return Inception(net.to(device), torch.device(device), sha256_of_file(path))


def weights_sha256(location: str, sha256: str | None) -> str:
    """Of the weights that are named, without fetching them. ConfigError for a missing or another file."""
    wanted = sha256.strip().lower() if sha256 else None
    if wanted and "://" in location:
        return wanted
    # A url without a hash is refused here too, before it is asked for anything.
    return sha256_of_file(weights_file(location, wanted, Path(), setting=_SETTING, what=_FILE))


def _require_state(path: Path) -> None:
    """torch-fidelity unpickles its file, code and all, so it gets none that holds more than tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling makes of a file of another kind
        raise ConfigError(_wrong(str(path), str(error).partition("\n")[0])) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(_wrong(str(path), "it holds no state dict"))


def _wrong(location: str, why: str) -> str:
    return f"{location} is not the Inception net of FID ({why}); set {_SETTING} to {_FILE}"
