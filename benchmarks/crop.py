"""What finding and cutting faces costs beside the bare detector, and how many faces it finds.

python -m benchmarks.crop [--photos FOLDER] [--windows 5] [--subjects 100] [--haar-subjects 25]

FOLDER (default $DCGAN_TEST_DATA) holds face-photos.tar, no-face-photos.tar and models/yunet_n_640_640.onnx.

Rates are on photos reduced to 320 pixels, one OpenCV thread on both sides, windows of both in turn. Recall is
on the 100 LFW faces of scikit-image, pasted softly onto photos without a face; size means the side of the LFW
patch, which holds brow to chin. A find counts where its centre is within the patch and its longer side is
within a factor of 2 of the patch's; everything else found, on composites and on the bare photos, is false.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from benchmarks.common import print_result
from dcgan_core import images
from dcgan_core.backend import LocalBackend
from dcgan_core.config import CropConfig
from dcgan_core.crop.cutters import Cutter, open_cutter
from dcgan_core.crop.photo import Photo
from dcgan_core.guarded import guarded
from dcgan_core.images import Rgb
from dcgan_core.pipeline import load_pipeline
from dcgan_core.place import Place
from dcgan_core.stage import Backend, run
from dcgan_core.storage import Store

SIZES = (24, 32, 40, 48, 64, 96, 128, 200, 300, 400)
MARGIN = 10
"""LFW pixels around a patch over which it fades into the photo."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, default=os.environ.get("DCGAN_TEST_DATA"))
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--haar-subjects", type=int, default=25, help="fewer: it takes ten times as long")
    options = parser.parse_args()
    if options.photos is None:
        parser.error("give --photos, or set DCGAN_TEST_DATA to the folder with face-photos.tar")
    cv2.setNumThreads(1)
    weights = str(options.photos / "models" / "yunet_n_640_640.onnx")
    photos = [reduced(each, 320) for each in first(options.photos / "face-photos.tar", 1200)[::3]]
    yunet = CropConfig(method="yunet", weights=weights)
    ours, bare = rates(yunet, photos, options.windows)
    details: dict[str, Any] = {"guarded_share_of_rate": guarded_share(yunet, photos, options.windows)}
    no_faces = options.photos / "no-face-photos.tar"
    details["yunet"] = finds(yunet, no_faces, options.subjects)
    details["haar"] = finds(CropConfig(method="haar"), no_faces, options.haar_subjects)
    details |= on_ray(weights, photos)
    print_result("crop", ours, "photos/s", peer="bare YuNet", peer_values=bare, **details)


def rates(config: CropConfig, photos: list[bytes], count: int) -> tuple[list[float], list[float]]:
    """Photos a second: from bytes to encoded crops, and of the network alone on the same pixels, decoded."""
    cutter = open_cutter(config)
    network = cv2.FaceDetectorYN.create(config.weights or "", "", (320, 320), config.min_score)
    pixels = [cv2.cvtColor(images.decode_rgb(each, max_pixels=10**8), cv2.COLOR_RGB2BGR) for each in photos]

    def detect() -> None:
        for bgr in pixels:
            network.setInputSize((bgr.shape[1], bgr.shape[0]))
            network.detect(bgr)

    def cut() -> None:
        for number, each in enumerate(photos):
            cutter(Photo(str(number), None, None, each))

    return in_turn(cut, detect, len(photos), count)


def guarded_share(config: CropConfig, photos: list[bytes], count: int) -> list[float]:
    """The guarded cutter's rate as a share of the same cutter's in this process, window by window."""
    items = [Photo(str(number), None, None, each) for number, each in enumerate(photos)]
    cutter = open_cutter(config)

    def here() -> None:
        for item in items:
            cutter(item)

    def there() -> None:
        for _ in guarded("dcgan_core.crop.cutters:open_cutter_alone", config, items, seconds=30):
            pass

    guarded_rates, rates_here = in_turn(there, here, len(photos), count)
    return [round(one / other, 3) for one, other in zip(guarded_rates, rates_here, strict=True)]


def finds(config: CropConfig, tar: Path, subjects: int) -> dict[str, Any]:
    """Recall by size, and precision over all composites and the photos they were made of.

    Of finds of any size, and of those that the default crop.min_size of 32 lets through.
    """
    config = config.model_copy(update={"min_size": 1, "max_faces": 1000})
    cutter = open_cutter(config)
    backgrounds = [images.decode_rgb(each, max_pixels=10**8) for each in first(tar, 10**6)]
    recall: dict[int, float] = {}
    recall_of_large: dict[int, float] = {}
    true = false = large_true = large_false = 0
    for size in SIZES:
        hits = large_hits = 0
        for subject in range(subjects):
            background = backgrounds[(subject * 13 + size) % len(backgrounds)]
            rgb, place = composite(subject, background, size)
            boxes = found(cutter, images.encode_jpeg(rgb, 92))
            right = [is_hit(box, place) for box in boxes]
            hits += any(right)
            true, false = true + sum(right), false + right.count(False)
            large = [hit for box, hit in zip(boxes, right, strict=True) if min(box[2:4]) >= 32]
            large_hits += any(large)
            large_true, large_false = large_true + sum(large), large_false + large.count(False)
        recall[size] = round(hits / subjects, 3)
        recall_of_large[size] = round(large_hits / subjects, 3)
    alone = [found(cutter, images.encode_jpeg(each, 92)) for each in backgrounds]
    false += sum(len(boxes) for boxes in alone)
    large_false += sum(min(box[2:4]) >= 32 for boxes in alone for box in boxes)
    return {
        "recall": recall,
        "recall_from_32_px": recall_of_large,
        "precision": round(true / max(1, true + false), 4),
        "precision_from_32_px": round(large_true / max(1, large_true + large_false), 4),
        "false": false,
        "false_on_bare_photos": sum(len(boxes) for boxes in alone),
    }


def found(cutter: Cutter, jpeg: bytes) -> list[tuple[float, float, float, float]]:
    """Centre and size of the faces that became crops."""
    rows = [row for row in cutter(Photo("photo", None, None, jpeg)) if row["status"] == "ok"]
    boxes = [(*row["box"], row["width"], row["height"]) for row in rows]
    return [(x + side / 2, y + side / 2, width, height) for x, y, side, width, height in boxes]


def is_hit(box: tuple[float, float, float, float], place: tuple[int, int, int]) -> bool:
    """Whether a find's centre is within the patch and its size within a factor of 2."""
    (x, y, width, height), (left, top, side) = box, place
    within = left <= x <= left + side and top <= y <= top + side
    return within and side / 2 <= max(width, height) <= 2 * side


def composite(subject: int, background: Rgb, size: int) -> tuple[Rgb, tuple[int, int, int]]:
    """An LFW face, ``size`` pixels a side, fading into a photo at a seeded place; its left, top and side."""
    rng = np.random.default_rng([subject, size])
    border = round(size * MARGIN / 25)
    reach = size + 2 * border
    short = min(background.shape[:2])
    if short < reach + 8:  # a photo that is too small is enlarged
        scale = (reach + 8) / short
        background = np.asarray(
            cv2.resize(background, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8
        )
    height, width = background.shape[:2]
    left, top = int(rng.integers(0, width - reach + 1)), int(rng.integers(0, height - reach + 1))
    mask_HW1 = soft_oval(reach)[..., None]
    page = background.astype(np.float32)
    under = page[top : top + reach, left : left + reach]
    page[top : top + reach, left : left + reach] = mask_HW1 * portrait(subject, size) + (1 - mask_HW1) * under
    return np.clip(page + 0.5, 0, 255).astype(np.uint8), (left + border, top + border, size)


def portrait(subject: int, size: int) -> NDArray[np.float32]:
    """The patch at its size in skin colours, its edges carried on out of focus over the margin."""
    patch_HW = np.pad(data.lfw_subset()[subject], MARGIN, mode="edge").astype(np.float32)
    border = round(size * MARGIN / 25)
    reach = size + 2 * border
    how = cv2.INTER_LANCZOS4 if reach >= patch_HW.shape[0] else cv2.INTER_AREA
    sharp_HW = cv2.resize(patch_HW, (reach, reach), interpolation=how)
    soft_HW = cv2.GaussianBlur(sharp_HW, (0, 0), size * 0.1)
    inset = border + size // 14
    focus_HW = np.zeros((reach, reach), np.float32)
    focus_HW[inset : reach - inset, inset : reach - inset] = 1
    focus_HW = cv2.GaussianBlur(focus_HW, (0, 0), size * 0.045)
    grey_HW = np.clip(sharp_HW * focus_HW + soft_HW * (1 - focus_HW), 0, 1)
    lift_HW = 0.9 * grey_HW * (1 - grey_HW)  # skin is warmest in the middle tones
    channels = [grey_HW + share * lift_HW for share in (0.44, 0.04, -0.28)]
    return 255 * np.stack(channels, axis=-1).astype(np.float32)


def soft_oval(size: int) -> NDArray[np.float32]:
    """A mask: 1 over the face, 0 at the rim, smooth between."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    radius_HW = np.sqrt((1.08 * axis[None, :]) ** 2 + axis[:, None] ** 2)
    rise_HW = np.clip((1 - radius_HW) / 0.5, 0, 1)
    return (rise_HW * rise_HW * (3 - 2 * rise_HW)).astype(np.float32)


def on_ray(weights: str, photos: list[bytes]) -> dict[str, Any]:
    """Photos a second of the whole stage here and on one and two Ray workers, medians of three."""
    import ray

    from tasks.backends import RayBackend

    with tempfile.TemporaryDirectory() as folder:
        root, store = Path(folder), Store(str(Path(folder) / "root"))
        (root / "photos").mkdir()
        for number, each in enumerate(photos):
            (root / "photos" / f"{number:04d}.jpg").write_bytes(each)
        overrides = {"scrape.path": str(root / "photos"), "scrape.items_per_part": 25}
        overrides |= {"crop.method": "yunet", "crop.weights": weights}
        scrape, crop = load_pipeline("faces64", overrides, upto="crop").stages
        run(scrape, store, LocalBackend(1))
        parts = len(crop.plan(store))

        def rate(backend: Backend) -> float:
            """The median of three runs, after one that starts workers and their children."""
            seconds = [run(crop, store, backend, refresh=True).seconds for _ in range(4)]
            return len(photos) / statistics.median(seconds[1:])

        here, on_workers = rate(LocalBackend(1)), []
        for slots in (1, 2):
            ray.shutdown()  # an embedded Ray has as many processors as its first run wanted
            on_workers.append(rate(RayBackend(Place(root="unused", slots=slots))))
    one, two = on_workers
    names = {"here": round(here, 1), "one_worker": round(one, 1), "two_workers": round(two, 1)}
    return {"stage_rate": {**names, "parts": parts, "two_to_one": round(two / one, 3)}}


def in_turn(
    one: Callable[[], None], other: Callable[[], None], items: int, count: int
) -> tuple[list[float], list[float]]:
    """Items a second of both, in alternating windows after one of each that is not counted."""
    seen: tuple[list[float], list[float]] = ([], [])
    for window in range(count + 1):
        for work, rates_seen in zip((one, other), seen, strict=True):
            began = time.perf_counter()
            work()
            if window:
                rates_seen.append(items / (time.perf_counter() - began))
    return seen


def reduced(jpeg: bytes, longest_side: int) -> bytes:
    """The photo as a JPEG of exactly this longest side."""
    rgb = images.decode_rgb(jpeg, max_pixels=10**8)
    scale = longest_side / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    how = cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC
    return images.encode_jpeg(np.asarray(cv2.resize(rgb, size, interpolation=how), np.uint8), 90)


def first(tar: Path, count: int) -> list[bytes]:
    """The first so many files of a tar."""
    return [content for content, _ in zip(_files(tar), range(count), strict=False)]


def _files(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                yield file.read()


if __name__ == "__main__":
    main()
