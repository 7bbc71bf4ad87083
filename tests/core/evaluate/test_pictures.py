"""Confusion matrices can be looked at: rows are true classes, and darker is more."""

from __future__ import annotations

import cv2
import numpy as np

from dcgan_core.evaluate.pictures import confusion_png


def test_a_picture_is_dark_on_the_diagonal_where_all_is_right_and_light_beside_it() -> None:
    right = confusion_png(np.diag([40, 40]), ("face", "other"), "all right")
    wrong = confusion_png(np.fliplr(np.diag([40, 40])), ("face", "other"), "all wrong")
    one, other = (
        cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_GRAYSCALE) for each in (right, wrong)
    )
    assert one is not None and other is not None
    assert one.shape == other.shape
    assert min(one.shape) >= 300
    height, width = one.shape
    top_left = np.s_[height // 4 : height // 3, width // 4 : width // 3]
    assert one[top_left].mean() < other[top_left].mean() - 50


def test_many_classes_are_drawn_without_numbers() -> None:
    many = confusion_png(np.ones((100, 100), np.int64), [str(number) for number in range(100)], "many")
    assert cv2.imdecode(np.frombuffer(many, np.uint8), cv2.IMREAD_COLOR) is not None
