"""A classifier trained on the set at hand learns, follows from its seed, and judges an image by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dcgan_core.errors import ConfigError, TrainingDiverged
from dcgan_core.evaluate.classifier import (
    ClassifierFeatures,
    classifier_features,
    classifier_logits,
    trained_classifier,
)
from tests.core.evaluate.sets import images


def stripes(n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise with stripes across or along, 16 px."""
    labels = np.arange(n) % 2
    noise = images(n, 16, seed).astype(np.int64) // 2
    wave = 100 * (np.arange(16) // 2 % 2)
    noise[labels == 0] += wave[None, :, None, None]
    noise[labels == 1] += wave[None, None, :, None]
    return noise.astype(np.uint8), labels


@pytest.fixture(scope="module")
def net() -> ClassifierFeatures:
    return trained_classifier(*stripes(256, 1), seed=3, epochs=4, width=8, batch_size=32)


def test_it_learns_what_the_labels_say(net: ClassifierFeatures) -> None:
    x, y = stripes(100, 2)
    assert (classifier_logits(net, x).argmax(1).numpy() == y).mean() > 0.95
    assert not net.training


def test_it_follows_from_the_seed_and_nothing_else(net: ClassifierFeatures) -> None:
    torch.manual_seed(123)
    again = trained_classifier(*stripes(256, 1), seed=3, epochs=4, width=8, batch_size=32)
    other = trained_classifier(*stripes(256, 1), seed=4, epochs=4, width=8, batch_size=32)
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert not torch.equal(other.logits.weight, net.logits.weight)


def test_features_are_the_layer_before_the_softmax_an_image_at_a_time(net: ClassifierFeatures) -> None:
    x, _ = stripes(11, 5)
    found = classifier_features(net, x, batch_size=4)
    assert found.shape == (11, 16) and found.dtype == torch.float32
    with torch.inference_mode():
        logits = net.logits(found)
    torch.testing.assert_close(logits, classifier_logits(net, x), rtol=1e-4, atol=1e-4)
    alone = torch.cat([classifier_features(net, x[row : row + 1]) for row in range(11)])
    torch.testing.assert_close(alone, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "features"), [(8, 4), (28, 16), (32, 16), (64, 32)])
def test_any_size_and_as_many_layers_as_it_takes(size: int, features: int) -> None:
    net = ClassifierFeatures(size, 3, width=4)
    assert classifier_features(net, images(2, size)).shape == (2, features)
    strides = [module.stride for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(strides) == {8: 1, 28: 3, 32: 3, 64: 4}[size] and set(strides) == {(2, 2)}


def test_what_it_cannot_learn_from_is_refused(net: ClassifierFeatures) -> None:
    x, y = stripes(8, 1)
    with pytest.raises(ConfigError, match="8 images of 1 classes"):
        trained_classifier(x, np.zeros_like(y), seed=0)
    with pytest.raises(ConfigError, match="takes squares"):
        trained_classifier(x[:, :8], y, seed=0)
    with pytest.raises(ConfigError, match="for a classifier of 16 px"):
        classifier_features(net, images(2, 8))
    with pytest.raises(TrainingDiverged, match="the classifier's loss is not finite"):
        trained_classifier(x, y, seed=0, epochs=9, width=4, learning_rate=float("inf"))
