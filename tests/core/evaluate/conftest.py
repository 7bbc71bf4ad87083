"""What tests of `evaluate` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Inception net with random weights, in the format that torch-fidelity reads."""
    peer = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed"
    )

    class Untrained(peer.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the weights it was made with."""

    folder = tmp_path_factory.mktemp("weights")
    torch.save({}, folder / "none.pth")
    net = Untrained("untrained", ["2048"], feature_extractor_weights_path=str(folder / "none.pth"))
    random = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=random)
    torch.save(net.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"
