"""The file of YuNet's weights that a configuration names."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dcgan_core.config import CropConfig
from dcgan_core.weights_file import weights_file


def yunet_weights(config: CropConfig) -> Path:
    """A local path of `crop.weights`; a url is fetched once a machine. Errors as of ``weights_file``."""
    cache = Path(tempfile.gettempdir()) / "dcgan-weights"
    return weights_file(
        config.weights or "", config.weights_sha256, cache, setting="crop.weights", what="the YuNet ONNX file"
    )
