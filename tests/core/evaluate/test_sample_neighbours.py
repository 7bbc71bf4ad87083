"""The protocol `mnist-nn`: samples answer for test images by the label they were drawn with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.datasets import Labelled
from dcgan_core.evaluate.sample_neighbours import of_images, of_samples
from dcgan_core.models.dcgan import build
from dcgan_core.models.sampling import drawn_in_batches, pixels_in_batches
from dcgan_core.models.specs import net_spec
from dcgan_core.models.weights import Model


def conditional(width: int = 8) -> Model:
    spec = net_spec("mnist28", size=14, width=width)
    generator, discriminator = build(spec, 3)
    return Model(spec, generator.eval(), discriminator, None)


def labelled(model: Model, test: int = 60) -> Labelled:
    """Images that the generator drew, with grey noise: some answers are wrong, most are not chance."""
    rng = np.random.default_rng(5)
    drawn = np.concatenate(list(drawn_in_batches(model, 200 + test, seed=9, weights="plain")))
    noise = rng.integers(-40, 40, (len(drawn), *drawn.shape[1:3], 1))
    images = np.clip(drawn.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    labels = np.arange(len(drawn)) % 10
    names = tuple("0123456789")
    return Labelled(images[:200], labels[:200], images[200:], labels[200:], names, "drawn digits")


def test_the_pixels_on_the_device_are_those_of_a_picture() -> None:
    model = conditional()
    pictures = np.concatenate(list(drawn_in_batches(model, 30, seed=4, weights="plain", batch_size=8)))
    batches = list(pixels_in_batches(model, 30, seed=4, weights="plain", batch_size=13))
    pixels = np.concatenate([each.numpy() for each, _ in batches])
    assert pixels.shape == (30, 1, 14, 14)
    assert np.abs(pixels[:, 0].astype(int) - pictures[..., 0].astype(int)).max() <= 1
    assert np.concatenate([y.numpy() for _, y in batches if y is not None]).tolist() == [
        i % 10 for i in range(30)
    ]


def test_samples_answer_as_scikit_learns_nearest_neighbour_does() -> None:
    model = conditional()
    data = labelled(model)
    few, many = of_samples(model, data, [20, 300], seed=1, weights="plain")
    assert (few.protocol, many.protocol) == ("nearest of 20", "nearest of 300")
    drawn = np.concatenate(
        [each.numpy() for each, _ in pixels_in_batches(model, 300, seed=1, weights="plain", batch_size=300)]
    )
    test = data.test_images_NHW3[..., 0].reshape(60, -1).astype(float)
    for outcome, count in ((few, 20), (many, 300)):
        plain = KNeighborsClassifier(1, algorithm="brute")
        plain.fit(drawn[:count].reshape(count, -1).astype(float), np.arange(count) % 10)
        assert np.array_equal(outcome.predictions_M, plain.predict(test))
        assert outcome.train == count
        assert outcome.confusion_CC.sum() == 60
    assert many.accuracy != few.accuracy


def test_real_images_answer_as_far_as_there_are_so_many() -> None:
    data = labelled(conditional())
    some, every = of_images(data, [50, 200, 5000], channels=1)
    assert (some.train, every.train) == (50, 200)
    plain = KNeighborsClassifier(1, algorithm="brute")
    plain.fit(data.train_images_NHW3[..., 0].reshape(200, -1).astype(float), data.train_labels_N)
    expected = plain.predict(data.test_images_NHW3[..., 0].reshape(60, -1).astype(float))
    assert np.array_equal(every.predictions_M, expected)
    (all_there_is,) = of_images(data, [5000], channels=1)
    assert all_there_is.train == 200


def test_test_labels_judge_and_do_nothing_else() -> None:
    model = conditional()
    data = labelled(model)
    other = replace(data, test_labels_N=(data.test_labels_N + 1) % 10)
    one, two = (of_samples(model, each, [100], seed=1, weights="plain")[0] for each in (data, other))
    assert np.array_equal(one.predictions_M, two.predictions_M)
    assert one.accuracy != two.accuracy


def test_a_net_without_the_sets_classes_is_named() -> None:
    data = labelled(conditional())
    spec = net_spec("svhn32", size=16, width=8)
    model = Model(spec, *build(spec, 0), None)
    with pytest.raises(ConfigError, match=r"mnist-nn needs a generator of the set's 10 classes.*svhn32"):
        of_samples(model, data, [10], seed=0, weights="plain")
