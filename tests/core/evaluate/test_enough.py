"""A set with too few images for its protocol is refused with the setting that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcgan_core.config import EvaluateConfig, LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import balanced_draw
from dcgan_core.evaluate.enough import Counts, check_enough
from dcgan_core.evaluate.protocols import OneByOne, Split, folds, repeated_draws

CLASSES = ("cat", "dog", "ship")


def check(
    available: list[int], protocol: str = "labelled", used: list[int] | None = None, **changes: Any
) -> None:
    """Judge numbers of images of each class, all of them used where nothing else is said."""
    spec = LabelledSet.model_validate({"name": "pets", "kind": "digits", "protocol": protocol})
    counts = Counts(CLASSES, np.array(used or available), np.array(available))
    check_enough(spec, EvaluateConfig(**changes), counts)


def complaint(*arguments: Any, **changes: Any) -> str:
    with pytest.raises(ConfigError, match="labelled set pets: ") as raised:
        check(*arguments, **changes)
    return str(raised.value)


def test_the_cifar10_protocol_says_how_many_training_images_it_needs() -> None:
    check([4000, 4000, 5000], "cifar10")
    said = complaint([5000, 5000, 5000], "cifar10", [3334, 3333, 3333])
    assert "needs 4,000 images of each class (400 labels in each of evaluate.folds = 10)" in said
    assert "class dog has 3,333" in said
    assert "set evaluate.max_train to 12000 or more (it is 10000, and the training part has 15,000" in said


def test_where_the_set_has_no_more_another_setting_is_named() -> None:
    said = complaint([5000, 5000, 2100], "cifar10")
    assert (
        "class ship has 2,100; set evaluate.folds to 5 at most, or give the set the protocol labelled" in said
    )
    assert "evaluate.folds to" not in complaint([5000, 5000, 799], "cifar10")
    few = complaint([50, 50, 41], labels_per_class=(4, 10, 20), folds=5)
    assert "needs 50 images" in few
    assert "evaluate.folds to 4 at most, or have no more than 8 in evaluate.labels_per_class" in few
    check([50, 50, 41], labels_per_class=(8,), folds=5)
    check([50, 50, 41], labels_per_class=(10,), folds=4)
    assert "leave 4 out of evaluate.labels_per_class" in complaint([50, 50, 15], labels_per_class=(4,))


def test_a_class_of_one_image_can_not_choose_c() -> None:
    check([2, 9, 9])
    assert "class cat has 1; set evaluate.max_train to 6 or more" in complaint([9, 9, 9], used=[1, 1, 2])
    assert "class dog has 1; add images, or leave it out" in complaint([9, 1, 9])


def test_the_svhn_protocol_needs_labels_beside_those_that_choose_c() -> None:
    check([3434, 3434, 3434], "svhn")
    said = complaint([4000, 4000, 4000], "svhn", [3334, 3333, 3333])
    assert "10,000 training images are used; set evaluate.max_train to 10302 or more" in said
    assert "training part's 9,000 are too few; give" in complaint([3000, 3000, 3000], "svhn")
    # A rare class loses its own share: there only the whole set may do.
    assert "set evaluate.max_train to 50200 or more" in complaint(
        [200, 25000, 25000], "svhn", [200, 5000, 5000]
    )
    assert "training part's 50,100 are too few" in complaint([100, 25000, 25000], "svhn")


@pytest.mark.parametrize("sizes", [[300, 300, 300], [80, 300, 300]])
def test_what_the_check_lets_pass_is_drawn_and_what_it_advises_is_enough(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocols themselves agree with the check at every size; with smaller numbers than the paper's."""
    for name, value in (("SVHN_VALIDATION", 200), ("SVHN_LABELS", 20), ("CIFAR_LABELS", 10)):
        monkeypatch.setattr(f"dcgan_core.evaluate.enough.{name}", value)
    labels_N = np.repeat(np.arange(3), sizes)
    for protocol in ("svhn", "cifar10"):
        outcomes = []
        for most in range(10, len(labels_N) + 1, 10):
            drawn_N = labels_N[balanced_draw(labels_N, most, np.random.default_rng(most))]
            used = np.bincount(drawn_N, minlength=3).tolist()
            try:
                check(sizes, protocol, used, folds=5)
            except ConfigError as error:
                outcomes.append(False)
                advised = int(str(error).partition("evaluate.max_train to ")[2].split()[0])
                labels = balanced_draw(labels_N, advised, np.random.default_rng(0))
                judge(protocol, labels_N[labels], most)
                assert advised > most
                continue
            outcomes.append(True)
            judge(protocol, drawn_N, most)
        assert not outcomes[0]
        assert outcomes[-1]
        assert outcomes == sorted(outcomes)  # more images never make it worse


class Guess(OneByOne):
    """Learns nothing, at once."""

    converged = True

    def path(self, features_NF: Any, labels_N: Any, values: Any, **_: Any) -> list[Guess]:
        return [self for _ in values]

    def predict(self, features_NF: Any) -> NDArray[np.int64]:
        return np.zeros(len(features_NF), np.int64)


def judge(protocol: str, labels_N: NDArray[np.int64], seed: int) -> None:
    data = Split(labels_N[:, None], labels_N, labels_N[:5, None], labels_N[:5])
    if protocol == "cifar10":
        folds(data, Guess(), per_class=10, count=5, svm_c=[1.0], seed=seed)
    else:
        repeated_draws(
            data, Guess(), per_class=20, validation=200, choosing=1, judging=5, svm_c=[1.0], seed=seed
        )
