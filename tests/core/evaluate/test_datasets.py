"""Labelled sets of every kind come out alike, and what is wrong with one is said by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dcgan_core.config import LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.datasets import Labelled, draw, identity, load

COLOURS = {0: (250, 10, 10), 1: (10, 250, 10), 2: (10, 10, 250)}


def load_all(spec: LabelledSet, **changes: Any) -> Labelled:
    settings: dict[str, Any] = {
        "size": 16,
        "test_share": 0.25,
        "max_train": 10_000,
        "max_test": 10_000,
        "seed": 1,
    }
    return load(spec, **(settings | changes))


def encoded(rgb: tuple[int, int, int], *, height: int = 20, width: int = 30) -> bytes:
    image = np.full((height, width, 3), rgb[::-1], np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def coloured(labels: Sequence[int]) -> list[bytes]:
    return [encoded(COLOURS[label % 3]) for label in labels]


def different(labels: Sequence[int]) -> list[bytes]:
    """Images of the classes' colours, no two with the same bytes."""
    return [encoded(COLOURS[label % 3], width=21 + number) for number, label in enumerate(labels)]


def write_parquet(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> LabelledSet:
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return LabelledSet(name="mine", kind="parquet", train=str(path))


def assert_colours_fit(images: NDArray[np.uint8], labels: NDArray[np.int64], values: Sequence[int]) -> None:
    for image, label in zip(images, labels, strict=True):
        assert np.abs(image.astype(int) - COLOURS[values[label] % 3]).max() <= 2


def test_digits_keep_all_images_and_shares() -> None:
    spec = LabelledSet(name="digits", kind="digits")
    digits = load_all(spec, size=32)
    assert len(digits.train_labels_N) + len(digits.test_labels_N) == 1797
    assert digits.train_images_NHW3.shape[1:] == (32, 32, 3)
    assert digits.train_images_NHW3.dtype == np.uint8
    assert digits.train_images_NHW3.max() == 255
    train, test = np.bincount(digits.train_labels_N), np.bincount(digits.test_labels_N)
    assert np.all(np.abs(test - 0.25 * (train + test)) <= 0.5)
    assert digits.classes == tuple("0123456789")


def test_lfw_has_faces_and_others() -> None:
    pytest.importorskip("skimage", reason="the LFW subset comes inside scikit-image")
    lfw = load_all(LabelledSet(name="lfw", kind="lfw"))
    assert lfw.classes == ("face", "non-face")
    assert np.bincount(lfw.train_labels_N).tolist() == [75, 75]
    assert np.bincount(lfw.test_labels_N).tolist() == [25, 25]


def test_rows_come_in_random_order_and_the_seed_decides() -> None:
    spec = LabelledSet(name="digits", kind="digits")
    one, same, other = (load_all(spec, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.test_images_NHW3, same.test_images_NHW3)
    assert np.array_equal(one.train_labels_N, same.train_labels_N)
    assert not np.array_equal(one.test_labels_N, other.test_labels_N)


def test_training_draws_are_balanced_and_leave_the_test_images_alone(tmp_path: Path) -> None:
    labels = [0] * 40 + [1] * 20 + [2] * 8
    spec = write_parquet(tmp_path / "set.parquet", {"image": different(labels), "label": labels})
    whole, small = load_all(spec), load_all(spec, max_train=12)
    assert np.bincount(small.train_labels_N).tolist() == [4, 4, 4]
    assert np.array_equal(whole.test_labels_N, small.test_labels_N)
    held_K = np.bincount(whole.test_labels_N, minlength=3)
    drawn_K = np.bincount(load_all(spec, max_test=8).test_labels_N, minlength=3)
    assert np.all(np.abs(drawn_K - 8 * held_K / held_K.sum()) <= 1)


@pytest.mark.parametrize("kind", ["parquet", "imagefolder"])
def test_an_image_stays_a_test_image_when_others_come_go_or_change_places(kind: str, tmp_path: Path) -> None:
    first = [(f"{number:03d}", number % 2, image) for number, image in enumerate(different([0] * 120))]
    new = [(f"new-{number}", number % 2, image) for number, image in enumerate(different([1] * 12))]
    weeks = []
    for week, rows in enumerate((first, [*new, *reversed(first[4:])])):
        place = tmp_path / str(week)
        if kind == "parquet":
            spec = write_parquet(
                place, {"image": [row[2] for row in rows], "label": [row[1] for row in rows]}
            )
        else:
            for number, (name, label, image) in enumerate(rows):
                path = place / str(label) / f"{number if week else name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
            spec = LabelledSet(name="mine", kind="imagefolder", train=str(place))
        drawn = draw(spec, size=None, test_share=0.25, max_train=1000, max_test=1000, seed=1)
        halves = [dict(half.part.read(half.rows_N)) for half in (drawn.train, drawn.test)]
        weeks.append([set(half.values()) for half in halves])
    (seen, held), (later_seen, later_held) = weeks
    assert (len(seen) + len(held), len(later_seen) + len(later_held)) == (120, 128)
    assert not held & later_seen
    assert not seen & later_held
    assert 15 < len(held) < 45


def test_parquet_images_keep_their_labels_through_draws(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 3000).tolist()  # more rows than are read at once
    spec = write_parquet(tmp_path / "set.parquet", {"image": coloured(labels), "label": labels})
    found = load_all(spec, max_train=200)
    assert len(found.train_labels_N) == 200
    assert found.train_images_NHW3.shape == (200, 16, 16, 3)
    assert_colours_fit(found.train_images_NHW3, found.train_labels_N, (0, 1, 2))
    assert_colours_fit(found.test_images_NHW3, found.test_labels_N, (0, 1, 2))


def test_parquet_takes_structs_and_gaps_between_labels(tmp_path: Path) -> None:
    labels = [4, 9] * 8
    structs = [{"bytes": image, "path": None} for image in coloured(labels)]
    spec = write_parquet(tmp_path / "set.parquet", {"image": structs, "label": labels})
    found = load_all(spec)
    assert found.classes == ("4", "9")
    assert set(found.train_labels_N.tolist()) == {0, 1}
    assert_colours_fit(found.train_images_NHW3, found.train_labels_N, (4, 9))


@pytest.mark.parametrize(
    ("metadata", "classes"),
    [
        ({"class_names": json.dumps(["red", "green", "blue"])}, ("red", "blue")),
        (
            {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["r", "g", "b"]}}}})},
            ("r", "b"),
        ),
        ({"class_names": json.dumps(["crane", "x", "crane"])}, ("0", "2")),
        ({"class_names": json.dumps(["too few"])}, ("0", "2")),
        ({"class_names": "not json"}, ("0", "2")),
        (None, ("0", "2")),
    ],
)
def test_class_names_come_from_the_schema_where_they_fit(
    tmp_path: Path, metadata: dict[str, str] | None, classes: tuple[str, ...]
) -> None:
    labels = [0, 2] * 4
    spec = write_parquet(tmp_path / "set.parquet", {"image": coloured(labels), "label": labels}, metadata)
    assert load_all(spec).classes == classes


def test_a_test_part_is_used_whole_and_mapped_by_class(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"image": coloured([0, 1, 2]), "label": [0, 1, 2]})
    write_parquet(tmp_path / "test.parquet", {"image": coloured([2, 1]), "label": [2, 1]})
    paths = {part: str(tmp_path / f"{part}.parquet") for part in ("train", "test")}
    found = load_all(LabelledSet(name="mine", kind="parquet", train=paths["train"], test=paths["test"]))
    assert len(found.train_labels_N) == 3
    assert sorted(found.test_labels_N.tolist()) == [1, 2]
    assert_colours_fit(found.test_images_NHW3, found.test_labels_N, (0, 1, 2))


def test_a_class_of_the_test_part_alone_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"image": coloured([0, 1]), "label": [0, 1]})
    write_parquet(tmp_path / "test.parquet", {"image": coloured([2]), "label": [2]})
    paths = {part: str(tmp_path / f"{part}.parquet") for part in ("train", "test")}
    with pytest.raises(ConfigError, match=r"\['2'\] are in the test part only"):
        load_all(LabelledSet(name="mine", kind="parquet", train=paths["train"], test=paths["test"]))


def test_a_folder_gives_a_class_per_directory(tmp_path: Path) -> None:
    spec = write_folder(tmp_path / "set")
    found = load_all(spec)
    assert found.classes == ("blue", "red")
    assert_colours_fit(found.train_images_NHW3, found.train_labels_N, (2, 0))
    assert np.bincount(found.test_labels_N).tolist() == [1, 1]


def test_images_are_cut_to_their_central_square(tmp_path: Path) -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    data = cv2.imencode(".png", image)[1].tobytes()
    spec = write_parquet(tmp_path / "set.parquet", {"image": [data] * 8, "label": [0, 1] * 4})
    for size in (5, 10, 20):
        assert load_all(spec, size=size).train_images_NHW3.min() == 255


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"], "label": [0]}, "no column 'image'; it has picture, label"),
        ({"image": [b"x"]}, "no column 'label'"),
        ({"image": coloured([0, 1]), "label": ["cat", "dog"]}, "labels of type string; integers"),
        ({"image": coloured([0, 1]), "label": [0.0, 1.0]}, "labels of type double; integers"),
        ({"image": coloured([0, 1]), "label": [0, None]}, "1 empty labels"),
        ({"image": coloured([0, 1]), "label": [0, -1]}, "negative labels"),
        ({"image": coloured([0, 0]), "label": [0, 0]}, "of one class"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no rows"),
        ({"image": coloured([0, 1, 1]), "label": [0, 1, 1]}, "labelled set mine: class 0 has a single image"),
        ({"image": [*coloured([0, 0, 1]), b"junk"], "label": [0, 0, 1, 1]}, "row 3 of set.parquet is not"),
        ({"image": [*coloured([0, 0, 1]), None], "label": [0, 0, 1, 1]}, "row 3 of set.parquet is not"),
    ],
)
def test_what_is_wrong_with_a_parquet_set_is_named(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_all(write_parquet(tmp_path / "set.parquet", columns))


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    wrong = [
        ("parquet", "", "its path is empty"),
        ("parquet", tmp_path / "none.parquet", "there is no file"),
        ("parquet", tmp_path / "text.parquet", "not a readable parquet file"),
        ("imagefolder", tmp_path / "none", "there is no directory"),
        ("imagefolder", tmp_path / "empty", "no images in sub-directories"),
    ]
    for kind, path, message in wrong:
        with pytest.raises(ConfigError, match=message):
            load_all(LabelledSet.model_validate({"name": "mine", "kind": kind, "train": str(path)}))


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "one")
    moved = first.model_copy(
        update={"train": shutil.copytree(first.train, tmp_path / "elsewhere").as_posix()}
    )
    assert identity(first) == identity(moved)
    assert "one" not in json.dumps(identity(first))
    (tmp_path / "elsewhere" / "red" / "0.png").write_bytes(encoded((1, 2, 3)))
    assert identity(first) != identity(moved)

    labels = [0, 1] * 4
    parquet = write_parquet(tmp_path / "a.parquet", {"image": coloured(labels), "label": labels})
    copy = shutil.copy(parquet.train, tmp_path / "b.parquet")
    assert identity(parquet) == identity(parquet.model_copy(update={"train": str(copy)}))
    assert set(identity(parquet.model_copy(update={"test": str(copy)}))) == {"train_sha256", "test_sha256"}
    assert len(identity(LabelledSet(name="digits", kind="digits"))["train_sha256"]) == 64
    with pytest.raises(ConfigError, match="there is no file"):
        identity(parquet.model_copy(update={"train": str(tmp_path / "none")}))


def test_cifar10_is_read_with_its_names() -> None:
    folder = os.environ.get("DCGAN_TEST_DATA")
    if not folder:
        pytest.skip("DCGAN_TEST_DATA is not set: it names the folder that holds cifar10-train.parquet")
    paths = {part: str(Path(folder) / f"cifar10-{part}.parquet") for part in ("train", "test")}
    spec = LabelledSet(name="cifar10", kind="parquet", train=paths["train"], test=paths["test"])
    found = load_all(spec, size=32, max_train=500, max_test=200)
    assert found.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(found.train_labels_N).tolist() == [50] * 10
    assert np.bincount(found.test_labels_N).tolist() == [20] * 10
    assert found.train_images_NHW3.std() > 40


def write_folder(folder: Path) -> LabelledSet:
    for name, rgb in (("red", COLOURS[0]), ("blue", COLOURS[2])):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            (folder / name / f"{number}.png").write_bytes(encoded(rgb))
    (folder / "notes.txt").write_text("not a class")
    (folder / "hollow").mkdir()
    return LabelledSet(name="mine", kind="imagefolder", train=str(folder))
