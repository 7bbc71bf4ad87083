"""Both sides of a comparison are streamed, merged and kept in a file; figures carry their net's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcgan_core.errors import CorruptArtifact, FeaturesUnusable
from dcgan_core.evaluate.distances import classifier_distances, inception_distances
from dcgan_core.evaluate.frechet import frechet_distance
from dcgan_core.evaluate.kernel import kernel_distance
from dcgan_core.evaluate.manifold import precision_recall
from dcgan_core.evaluate.summary import Summary
from tests.core.evaluate.sets import features


def summary(x: torch.Tensor, keep: int = 10_000, batch: int = 16) -> Summary:
    found = Summary("images", keep)
    for rows in x.split(batch):
        found.update(rows)
    return found


def test_all_count_for_the_moments_and_the_first_are_kept() -> None:
    x = features(100, 5)
    found = summary(x, keep=41)
    assert found.seen.count == 100 and torch.equal(found.kept_NF, x[:41])


@pytest.mark.parametrize("keep", [20, 41, 200])
def test_merged_halves_are_the_whole(keep: int) -> None:
    x = features(100, 5)
    halves, whole = summary(x[:37], keep), summary(x, keep)
    halves.merge(summary(x[37:], keep))
    halves.merge(Summary("nothing yet"))
    from_nothing = Summary("images", keep)
    from_nothing.merge(whole)
    for found in (halves, from_nothing):
        assert torch.equal(found.kept_NF, whole.kept_NF) and found.seen.count == 100
        torch.testing.assert_close(found.seen.covariance_FF, whole.seen.covariance_FF)


def test_a_file_brings_it_back_and_goes_on() -> None:
    x = features(60, 5).float()
    again = Summary.from_bytes(summary(x[:30]).to_bytes(), "real images")
    again.update(x[30:])
    whole = summary(x)
    assert torch.equal(again.kept_NF, whole.kept_NF)
    torch.testing.assert_close(again.seen.covariance_FF, whole.seen.covariance_FF)


def test_damaged_files_and_empty_sides_are_refused_by_name() -> None:
    data = summary(features(9, 3)).to_bytes()
    for damaged in (data[:100], b"", data.replace(b"scatter_FF", b"scatter_GG")):
        with pytest.raises(CorruptArtifact, match="real images"):
            Summary.from_bytes(damaged, "real images")
    with pytest.raises(FeaturesUnusable, match="generated images: no features came"):
        _ = Summary("generated images").seen


def test_a_batch_that_is_not_finite_leaves_nothing_behind() -> None:
    found = summary(features(9, 3))
    with pytest.raises(FeaturesUnusable, match="images: row 1"):
        found.update(torch.tensor([[1.0, 2, 3], [torch.nan, 0, 0]]))
    assert found.seen.count == 9 and len(found.kept_NF) == 9


def test_figures_are_those_of_their_functions_and_never_called_fid_for_a_classifier() -> None:
    x, y = features(50, 6), features(70, 6, seed=1, shift=0.3)
    real, generated = summary(x), summary(y)
    found = classifier_distances(real, generated, np.random.default_rng(4))
    kernel = kernel_distance(x, y, np.random.default_rng(4))
    manifold = precision_recall(x, y[:50])
    assert found["classifier_frechet_distance"] == frechet_distance(real.seen, generated.seen)
    assert found["classifier_kernel_distance"] == kernel.mean
    assert found["classifier_kernel_distance_sd"] == kernel.sd
    assert found["classifier_precision"] == manifold.precision
    assert found["classifier_recall"] == manifold.recall
    assert all(name.startswith("classifier_") for name in found)
    assert not any(word in name for name in found for word in ("fid", "kid", "inception"))
    of_inception = inception_distances(real, generated, 3 * features(70, 4), np.random.default_rng(4))
    assert of_inception["fid"] == found["classifier_frechet_distance"]
    assert (of_inception["fid_real_images"], of_inception["fid_generated_images"]) == (50, 70)
    assert 1 < of_inception["inception_score"] < 4
