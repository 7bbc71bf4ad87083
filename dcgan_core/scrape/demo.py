"""The demo's photos: LFW faces and non-faces composed into pages, each from a seed. Not their server."""

from __future__ import annotations

import functools
import hashlib
import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from dcgan_core.errors import ConfigError

DEMO_HOST = "photos.dcgan.test"
"""Host of the photos' urls. It is never looked up: the fetcher's resolver maps it to the loopback server."""

COMPOSER_VERSION = 1
"""Bump when the same seed would give other bytes."""

FACES = 100
NON_FACES = 100
RE_ENCODES = ("quality", "scale", "crop", "brightness")
"""Kinds of near duplicates, each made from the decoded original page as a site that re-posts it would."""
VARIANTS_PER_FACE = 2
BROKEN = ("missing", "missing", "truncated", "truncated", "empty", "html", "mislabelled", "bomb")
"""404 answers, JPEGs cut in half, a body of zero bytes, an HTML page sent as such and one sent as a JPEG,
and a header that claims 65500 x 65500 pixels."""

PATCH_MARGIN = 10
PAGE_QUALITY = 90
BOMB_SIDE = 65_500
NOT_FOUND_PAGE = b"<!doctype html><title>Not found</title><p>There is no such photo.</p>\n"
REMOVED_PAGE = b"<!doctype html><title>Removed</title><p>This photo was taken down by its owner.</p>\n"


@dataclass(frozen=True)
class DemoPhoto:
    """One url of the demo: which of the 100 subjects of its kind it shows, and how it was made."""

    name: str
    kind: Literal["face", "no_face", "broken"]
    subject: int
    variant: str

    @property
    def url(self) -> str:
        """The stable address, the same whatever port the server listens on."""
        return f"http://{DEMO_HOST}/photos/{self.name}.jpg"


def demo_photos(seed: int) -> list[DemoPhoto]:
    """All photos in a seeded order: 100 faces, two near duplicates of each, 100 non-faces, 8 broken ones."""
    rng = np.random.default_rng([seed, 0])
    photos = []
    for subject in range(FACES):
        photos.append(DemoPhoto(f"face-{subject:03d}", "face", subject, "original"))
        for kind in rng.permutation(len(RE_ENCODES))[:VARIANTS_PER_FACE]:
            variant = RE_ENCODES[kind]
            photos.append(DemoPhoto(f"face-{subject:03d}-{variant}", "face", subject, variant))
    for subject in range(NON_FACES):
        photos.append(DemoPhoto(f"scene-{subject:03d}", "no_face", subject, "original"))
    for subject, variant in enumerate(BROKEN):
        photos.append(DemoPhoto(f"broken-{subject:03d}", "broken", subject, variant))
    return [photos[index] for index in rng.permutation(len(photos))]


def render(photo: DemoPhoto, seed: int) -> bytes:
    """The body a server sends for the photo: a JPEG page of 360x270 to 480x360 pixels, or what is broken.

    Variants are made from the original page of the same subject and seed. Equal arguments give equal bytes.
    Raises ConfigError where scikit-image is not installed.
    """
    match photo.variant:
        case "missing":
            return NOT_FOUND_PAGE
        case "html" | "mislabelled":
            return REMOVED_PAGE
        case "empty":
            return b""
    page = _original(photo, seed)
    match photo.variant:
        case "truncated":
            return page[: len(page) // 2]
        case "bomb":
            return _claim_size(page, BOMB_SIDE)
        case "original":
            return page
    return _re_encode(page, photo.variant, np.random.default_rng([seed, 3, photo.subject]))


def identity() -> dict[str, str]:
    """What the demo's source is: the composer's version and the sha256 of LFW subset's bytes.

    Raises ConfigError where scikit-image is not installed.
    """
    patches_NHW = _lfw_subset()
    return {
        "composer": str(COMPOSER_VERSION),
        "lfw_subset": hashlib.sha256(patches_NHW.tobytes()).hexdigest(),
    }


def _original(photo: DemoPhoto, seed: int) -> bytes:
    if photo.kind == "no_face":
        page = _scene(_lfw_subset()[FACES + photo.subject], np.random.default_rng([seed, 2, photo.subject]))
    else:
        page = _person(_lfw_subset()[photo.subject], np.random.default_rng([seed, 1, photo.subject]))
    return _jpeg(page, PAGE_QUALITY)


@functools.cache
def _lfw_subset() -> NDArray[np.float64]:
    """The 200 grey patches, (200, 25, 25) in [0, 1]: faces first, as scikit-image documents."""
    try:
        from skimage import data
    except ImportError:
        raise ConfigError(
            "the demo's photos are made from scikit-image's LFW subset, which is not installed; "
            "run: pip install 'dcgan[demo]'"
        ) from None
    return np.ascontiguousarray(data.lfw_subset(), dtype=np.float64)


def _person(face_HW: NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """A face of 96-128 px above blurred shoulders, before an out-of-focus backdrop, at a random place."""
    layout = _layout(face_HW, rng)
    page = _backdrop(layout, rng)
    cloth = tuple(_bytes(rng.uniform(25, 90) + rng.normal(0, 12, 3)).tolist())
    page.paste(cloth, (0, 0), _shoulders(layout))
    return _grain(_paste_subject(page, face_HW, layout, rng), rng)


def _scene(patch_HW: NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """A page made the same way around a patch without a face, and without shoulders."""
    layout = _layout(patch_HW, rng)
    return _grain(_paste_subject(_backdrop(layout, rng), patch_HW, layout, rng), rng)


@dataclass(frozen=True)
class _Layout:
    """Where things go on a page, in pixels; `reach` is the patch's `side` with a `border` on each side."""

    width: int
    height: int
    side: int
    border: int
    left: int
    top: int
    tone: float

    @property
    def reach(self) -> int:
        return self.side + 2 * self.border


def _layout(patch_HW: NDArray[np.float64], rng: np.random.Generator) -> _Layout:
    width = 4 * int(rng.integers(90, 121))
    height = width * 3 // 4
    side = int(rng.integers(96, 129))
    border = round(side * PATCH_MARGIN / patch_HW.shape[0])
    left = int(rng.integers(0, width - side - 2 * border + 1))
    top = int(rng.integers(0, height - side - 2 * border + 1))
    # What lies at the patch's left and right edge is mostly its own background.
    tone = 255 * float(np.mean([patch_HW[:, 0], patch_HW[:, -1]]))
    return _Layout(width, height, side, border, left, top, tone)


def _backdrop(layout: _Layout, rng: np.random.Generator) -> Image.Image:
    """A muted gradient with blotches of three sizes around the subject's own tone, as a room out of focus."""
    colour = rng.normal(0, 10, 3)
    shade = np.clip(0.75 * layout.tone + 0.25 * 110 + rng.normal(0, 10), 45, 190)
    coarse = np.tile(shade + colour, (45, 60, 1))
    for cells, strength in ((2, 26.0), (4, 12.0), (9, 4.0)):
        shade_HW1 = rng.normal(0, strength, (cells, cells + 1, 1))
        hue_HWC = rng.normal(0, strength * 0.18, (cells, cells + 1, 3))
        coarse += _enlarge(shade_HW1 + hue_HWC, 60, 45)
    return Image.fromarray(_bytes(_enlarge(coarse, layout.width, layout.height)))


def _enlarge(grid_HWC: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    planes = np.moveaxis(grid_HWC.astype(np.float32), -1, 0)
    size = (width, height)
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in planes],
        axis=-1,
    )


def _shoulders(layout: _Layout) -> Image.Image:
    side, middle = layout.side, layout.left + layout.reach // 2
    collar = layout.top + layout.border + side - side // 12
    mask = Image.new("L", (layout.width, layout.height), 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((middle - side, collar, middle + side, collar + 2 * side), fill=255)
    if collar + side < layout.height:
        draw.rectangle((middle - side, collar + side, middle + side, layout.height), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(side * 0.09))


def _paste_subject(
    page: Image.Image, patch_HW: NDArray[np.float64], layout: _Layout, rng: np.random.Generator
) -> Image.Image:
    grey = _carry_on_out_of_focus(patch_HW, layout)
    page.paste(_tint(grey, rng.uniform(0.7, 1.1)), (layout.left, layout.top), _soft_oval(layout.reach))
    return page


def _carry_on_out_of_focus(patch_HW: NDArray[np.float64], layout: _Layout) -> Image.Image:
    """The enlarged patch, its edges carried on, ever softer, to `reach` pixels."""
    spread = _grey(np.pad(patch_HW, PATCH_MARGIN, mode="edge"))
    sharp = spread.resize((layout.reach, layout.reach), Image.Resampling.LANCZOS)
    soft = sharp.filter(ImageFilter.GaussianBlur(layout.side * 0.1))
    inset = layout.border + layout.side // 14
    focus = Image.new("L", sharp.size, 0)
    focus.paste(255, (inset, inset, layout.reach - inset, layout.reach - inset))
    return Image.composite(sharp, soft, focus.filter(ImageFilter.GaussianBlur(layout.side * 0.045)))


def _tint(grey: Image.Image, warmth: float) -> Image.Image:
    """Skin-warm colour, strongest in the middle tones."""
    levels = np.arange(256) / 255
    lift = warmth * levels * (1 - levels)
    table = np.concatenate([levels + 0.44 * lift, levels + 0.04 * lift, levels - 0.28 * lift])
    return Image.merge("RGB", [grey] * 3).point(_bytes(table * 255).tolist())


def _soft_oval(size: int) -> Image.Image:
    """A mask: opaque over the face, clear at the rim, smooth between."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    radius_HW = np.sqrt((1.08 * axis[None, :]) ** 2 + axis[:, None] ** 2)
    rise_HW = np.clip((1.0 - radius_HW) / 0.5, 0, 1)
    return _grey(rise_HW * rise_HW * (3 - 2 * rise_HW))


def _grain(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    noise_HW1 = rng.standard_normal((page.height, page.width, 1), dtype=np.float32) * np.float32(2.5)
    return Image.fromarray(_bytes(np.asarray(page, dtype=np.float32) + noise_HW1))


def _re_encode(page: bytes, variant: str, rng: np.random.Generator) -> bytes:
    image = Image.open(io.BytesIO(page)).convert("RGB")
    width, height = image.size
    amount = rng.uniform()
    match variant:
        case "quality":
            return _jpeg(image, 40 + round(20 * amount))
        case "scale":
            scale = 0.7 + 0.15 * amount
            size = (round(width * scale), round(height * scale))
            return _jpeg(image.resize(size, Image.Resampling.LANCZOS), PAGE_QUALITY)
        case "crop":
            edges = rng.uniform(0.02, 0.04, 4) * (width, height, width, height)
            left, top, right, bottom = (round(edge) for edge in edges)
            return _jpeg(image.crop((left, top, width - right, height - bottom)), PAGE_QUALITY)
        case "brightness":
            change = (0.08 + 0.07 * amount) * rng.choice([-1, 1])
            return _jpeg(ImageEnhance.Brightness(image).enhance(1 + change), PAGE_QUALITY)
    raise ConfigError(f"the demo knows no variant {variant!r}; it makes {', '.join(RE_ENCODES)}")


def _claim_size(page: bytes, side: int) -> bytes:
    """The same JPEG with another width and height in its frame header (marker FFC0)."""
    sizes_at = page.index(b"\xff\xc0\x00\x11\x08") + 5
    return page[:sizes_at] + struct.pack(">HH", side, side) + page[sizes_at + 4 :]


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _grey(values_HW: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(_bytes(values_HW * 255))


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
