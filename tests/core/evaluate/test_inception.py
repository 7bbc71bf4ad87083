"""Inception comes from the user's file alone, and its distances are those of torch-fidelity.

No weights can be had in tests: the net is torch-fidelity's with random weights, saved in its own format.
"""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.distances import inception_distances
from dcgan_core.evaluate.frechet import frechet_distance
from dcgan_core.evaluate.inception import Inception, load_inception
from dcgan_core.evaluate.inception_score import inception_score
from dcgan_core.evaluate.kernel import squared_mmd
from dcgan_core.evaluate.moments import Moments
from dcgan_core.evaluate.summary import Summary
from dcgan_core.storage import sha256_of_file
from tests.core.evaluate.sets import images


@pytest.fixture(scope="module")
def inception(inception_weights: Path) -> Inception:
    cache = inception_weights.parent / "cache"
    return load_inception(str(inception_weights), sha256_of_file(inception_weights), cache)


def test_distances_are_those_of_torch_fidelity(inception_weights: Path, inception: Inception) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    sets = [torch.from_numpy(images(12, 4, seed)).permute(0, 3, 1, 2) for seed in (1, 2)]
    sets[1] = sets[1] // 3
    peer = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(inception_weights),
    )
    theirs = [peer(each) for each in sets]
    summaries, logits = [], []
    for each in sets:
        summaries.append(Summary("images"))
        for batch in each.split(5):
            features_BF, logits_BK = inception(batch)
            summaries[-1].update(features_BF)
            logits.append(logits_BK)
    for summary, (features, _) in zip(summaries, theirs, strict=True):
        torch.testing.assert_close(summary.kept_NF, features, rtol=1e-3, atol=1e-3)
    real, generated = (features for features, _ in theirs)
    found = inception_distances(summaries[0], summaries[1], torch.cat(logits[3:]), np.random.default_rng(0))
    # torch-fidelity's eigenvalues of all 2,048 features take a minute here: theirs of the first 100.
    one, other = (fid_features_to_statistics(each[:, :100].double()) for each in (real, generated))
    fid = fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]
    some = [moments_of(each.kept_NF[:, :100]) for each in summaries]
    assert frechet_distance(*some) == pytest.approx(fid, rel=1e-3)
    assert found["fid"] == frechet_distance(*(each.seen for each in summaries)) > fid
    kid = kid_features_to_metric(real, generated, kid_subsets=1, kid_subset_size=12, verbose=False)
    ours = squared_mmd(summaries[0].kept_NF, summaries[1].kept_NF)
    assert ours == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3)
    prc = prc_features_to_metric(generated, real, verbose=False)
    assert (found["precision"], found["recall"]) == pytest.approx((prc["precision"], prc["recall"]), abs=0.1)
    # A random net is sure of nothing; sharpened logits make scores that differ from 1.
    isc = isc_features_to_metric(100 * theirs[1][1], splits=1, shuffle=False)
    one_part = inception_score(100 * torch.cat(logits[3:]), splits=1).mean
    assert one_part == pytest.approx(isc["inception_score_mean"], rel=1e-3) and one_part > 1.001


def moments_of(features: torch.Tensor) -> Moments:
    found = Moments.empty(features.shape[1])
    found.update(features)
    return found


def test_it_says_which_weights_it_has_and_takes_bytes_only(
    inception_weights: Path, inception: Inception
) -> None:
    assert inception.sha256 == sha256_of_file(inception_weights)
    with pytest.raises(ConfigError, match=r"takes uint8 images \(N, 3, H, W\), not torch.float32"):
        inception(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"\(1, 8, 8, 3\)"):
        inception(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of the file has run')",))


@pytest.mark.parametrize(
    "content", [b"no weights", {"trap": Trap()}, {"a": torch.zeros(2)}, [torch.zeros(1)]]
)
def test_other_files_are_refused_and_none_of_their_code_runs(tmp_path: Path, content: object) -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    path = tmp_path / "other.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"is not the Inception net of FID .* weights-inception-2015-12-05"):
        load_inception(str(path), None, tmp_path)


def test_nothing_is_fetched_that_was_not_named(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    with pytest.raises(ConfigError, match=r"evaluate.inception_weights is empty: set it to torch-fidelity's"):
        load_inception("", None, tmp_path)


def test_without_torch_fidelity_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("torch_fidelity"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'dcgan\[quality\]'"):
        load_inception("weights.pth", None, tmp_path)
