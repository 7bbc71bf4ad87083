"""Encoded images at the door: told apart, measured, decoded, resized, written; not where they come from."""

from __future__ import annotations

import base64
import io
import math
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dcgan_core.errors import ConfigError, DecodeError

Rgb = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image say about it."""

    format: str  # jpeg, png, webp, gif, bmp or tiff
    width: int  # pixels as stored, before EXIF orientation
    height: int


@dataclass(frozen=True)
class Decoded:
    """An upright image, perhaps decoded smaller than it is."""

    rgb: Rgb
    width: int  # pixels of the whole image, upright
    height: int
    is_plain: bool = False
    """Whether any decoder shows these pixels: a JPEG, PNG or WebP of 8 bits, grey, palette or RGB, opaque,
    of one frame and stored upright."""

    @property
    def is_reduced(self) -> bool:
        """Whether there are more pixels to be had."""
        return (self.height, self.width) != self.rgb.shape[:2]


def read_header(data: bytes, max_pixels: int) -> Header:
    """Format and size of an encoded image, from its header alone: no pixel is decoded.

    Raises DecodeError with status `empty`, `not_image`, `unsupported` (an image of another format),
    `unreadable` (header broken or cut off) or `too_many_pixels`.
    """
    if not data:
        raise DecodeError("empty", "the file has no bytes")
    format_name = _sniff(data)
    read_size, _ = _READERS[format_name]
    try:
        width, height = read_size(data)
    except (struct.error, IndexError):
        raise DecodeError("unreadable", f"the {format_name} header is cut off") from None
    if width < 1 or height < 1:
        raise DecodeError("unreadable", f"the {format_name} header says {width} x {height} pixels")
    _check_pixels(width, height, max_pixels)
    return Header(format_name, width, height)


def decode_rgb(data: bytes, *, max_pixels: int, min_side: int | None = None) -> Rgb:
    """Decode an image to uint8 RGB (H, W, 3), as `decode` does."""
    return decode(data, max_pixels=max_pixels, min_side=min_side).rgb


def decode(data: bytes, *, max_pixels: int, min_side: int | None = None) -> Decoded:
    """Decode an image to uint8 RGB (H, W, 3), upright by its EXIF orientation, first frame only.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones laid on white; colour profiles
    are not applied. With `min_side` a JPEG may come out at 1/2, 1/4 or 1/8 of its size, as long as its
    longest side keeps at least `min_side` pixels. Raises DecodeError as `read_header` does (32-bit pixels
    are `unsupported` too), and with status `truncated` (data ends too early) or `unreadable`.
    """
    header = read_header(data, max_pixels)
    _silence_pillow()
    _, open_image = _READERS[header.format]
    try:
        image = open_image(io.BytesIO(data))
        _check_pixels(*image.size, max_pixels)  # a later, larger frame than the header's own
        whole = image.size
        if min_side is not None and header.format == "jpeg":
            _reduce_while_decoding(image, min_side)
        image.load()
        # Pillow turns a TIFF upright by itself while loading.
        orientation = 1 if header.format == "tiff" else _orientation(image)
        is_plain = orientation == 1 and _is_plain(image, header.format, data)
        rgb = _to_rgb(image)
    except DecodeError:
        raise
    except Image.DecompressionBombError:
        raise DecodeError("too_many_pixels", "more pixels than Pillow decodes") from None
    except Exception as error:  # what Pillow's decoders raise on damaged data has no common base
        status = "truncated" if _ends_early(data, header.format, error) else "unreadable"
        why = f"the {header.format} data cannot be decoded: {error or type(error).__name__}"
        raise DecodeError(status, why) from None
    reduced = image.size != whole
    rgb = _turn_upright(rgb, orientation)
    if not reduced:
        return Decoded(rgb, rgb.shape[1], rgb.shape[0], is_plain)
    width, height = whole[::-1] if orientation in _ON_ITS_SIDE else whole
    return Decoded(rgb, width, height, is_plain)


def encode_jpeg(rgb: Rgb, quality: int) -> bytes:
    """JPEG bytes of an RGB array (H, W, 3), 4:4:4, `quality` 1 to 100; equal arrays give equal bytes."""
    import cv2

    full_colour = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full_colour]
    return cv2.imencode(".jpg", _bgr(rgb), options)[1].tobytes()


def encode_png(rgb: Rgb) -> bytes:
    """PNG bytes of an RGB array (H, W, 3), lossless; equal arrays give equal bytes."""
    import cv2

    return cv2.imencode(".png", _bgr(rgb), [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()


def encode_webp(rgb: Rgb, quality: int | None) -> bytes:
    """WebP bytes of an RGB array (H, W, 3), `quality` 1 to 100 or None for lossless; equal arrays give equal
    bytes."""
    import cv2

    lossless = 101  # what OpenCV calls it
    options = [cv2.IMWRITE_WEBP_QUALITY, lossless if quality is None else quality]
    return cv2.imencode(".webp", _bgr(rgb), options)[1].tobytes()


def resize(rgb: Rgb, size: int) -> Rgb:
    """Scale a square image (H, H, 3) to (size, size, 3); what is not square is stretched.

    Downwards each pixel is the mean of the area it covers, upwards it is cubic.
    """
    return _scale(rgb, size, size)


def shrink(rgb: Rgb, longest_side: int) -> Rgb:
    """Scale down, keeping proportions, to at most `longest_side` pixels; smaller images stay as they are."""
    height, width = rgb.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return rgb
    return _scale(rgb, max(1, round(width * scale)), max(1, round(height * scale)))


def center_square(rgb: Rgb) -> Rgb:
    """The largest centred square, as a view."""
    return center_crop(rgb, min(rgb.shape[:2]))


def center_crop(rgb: Rgb, size: int) -> Rgb:
    """The central (size, size, 3), as a view. Raises ConfigError where the image is smaller."""
    height, width = rgb.shape[:2]
    if size > min(height, width):
        raise ConfigError(
            f"cannot cut the central {size} pixels out of an image of {width} x {height}; "
            "ask for a smaller size, or scale images instead of cutting them"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return rgb[top : top + size, left : left + size]


def grid(images_NHW3: NDArray[np.uint8], columns: int | None = None, pad: int = 2) -> Rgb:
    """N >= 1 images of one size on a white sheet (H, W, 3), `pad` pixels between and around them.

    Row by row from the top left; near square where `columns` is not given.
    """
    count, height, width, _ = images_NHW3.shape
    columns = columns or math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    step_y, step_x = height + pad, width + pad
    sheet = np.full((rows * step_y + pad, columns * step_x + pad, 3), 255, np.uint8)
    for index, image_HW3 in enumerate(images_NHW3):
        top, left = pad + index // columns * step_y, pad + index % columns * step_x
        sheet[top : top + height, left : left + width] = image_HW3
    return sheet


def data_uri(data: bytes, mime: str) -> str:
    """The bytes as a `data:` address, for pages that carry their pictures."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _compiled(patterns: dict[str, bytes]) -> dict[str, re.Pattern[bytes]]:
    return {name: re.compile(pattern, re.DOTALL) for name, pattern in patterns.items()}


_SIGNATURES = _compiled(
    {
        "jpeg": rb"\xff\xd8\xff",
        "png": rb"\x89PNG\r\n\x1a\n",
        "webp": rb"RIFF....WEBP",
        "gif": rb"GIF8[79]a",
        "bmp": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
        "tiff": rb"II[*+]\x00|MM\x00[*+]",
    }
)
_OTHER_IMAGES = _compiled(
    {
        "AVIF or HEIC": rb"....ftyp(avif|avis|hei[cfmsx]|hev[cx]|mif1|msf1)",
        "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
        "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
        "an icon": rb"\x00\x00[\x01\x02]\x00[^\x00]\x00",
        "Photoshop": rb"8BPS\x00",
        "PNM": rb"P[1-7][\s#]",
    }
)
_OTHER_FILES = _compiled(
    {
        "PDF": rb"%PDF",
        "a zip archive": rb"PK[\x03\x05]",
        "gzip": rb"\x1f\x8b",
        "a video": rb"....ftyp|\x1a\x45\xdf\xa3",
        "JSON": rb"\s*[{\[]",
    }
)


def _sniff(data: bytes) -> str:
    if format_name := _first_match(_SIGNATURES, data):
        return format_name
    if other := _first_match(_OTHER_IMAGES, data):
        raise DecodeError("unsupported", f"looks like {other}; taken are {', '.join(_SIGNATURES)}")
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    is_html = b"<html" in start or start.startswith((b"<!doctype html", b"<head", b"<body", b"<script"))
    if b"<svg" in start and start.startswith(b"<") and not is_html:
        raise DecodeError("unsupported", "SVG is not taken: it has no pixels")
    if is_html:
        looks = "looks like HTML, perhaps an error page"
    elif other := _first_match(_OTHER_FILES, data):
        looks = f"looks like {other}"
    elif all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:256]):
        looks = "looks like text"
    else:
        looks = f"begins with {data[:8].hex(' ')}"
    raise DecodeError("not_image", f"not an image: it {looks}")


def _first_match(patterns: dict[str, re.Pattern[bytes]], data: bytes) -> str | None:
    for name, pattern in patterns.items():
        if pattern.match(data):
            return name
    return None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(
            "too_many_pixels", f"{width} x {height} pixels, more than the limit of {max_pixels}"
        )


_MARKER = re.compile(rb"\xff+([^\0\xff])")
_MAX_SEGMENTS = 4096  # a real photo has some dozens; hostile ones could keep us busy


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if not found:
            raise DecodeError("unreadable", "the jpeg header is cut off")
        marker, position = found[1][0], found.end()
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            continue
        if marker in (0xD9, 0xDA):
            raise DecodeError("unreadable", "the jpeg has no frame header before its pixels")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
        position += struct.unpack_from(">H", data, position)[0]
    raise DecodeError("unreadable", "the jpeg has no frame header")


def _png_size(data: bytes) -> tuple[int, int]:
    chunk, width, height = struct.unpack_from(">4sII", data, 12)
    if chunk != b"IHDR":
        raise DecodeError("unreadable", f"the png begins with a chunk {chunk!r} in place of its header")
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature == 0x2F:
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        start_code, width, height = struct.unpack_from("<3sHH", data, 23)
        if start_code == b"\x9d\x01\x2a":
            return width & 0x3FFF, height & 0x3FFF
    raise DecodeError("unreadable", "the webp header is cut off or broken")


def _gif_size(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, 6)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if data[14] == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # negative: stored from the top down


_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    if start > len(data):
        raise DecodeError("unreadable", "the tiff's directory lies behind its end: the file is cut off")
    (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    first, step, value_at = (start + 8, 20, 12) if is_big else (start + 2, 12, 8)
    found: dict[int, int] = {}
    for index in range(min(entries, _MAX_SEGMENTS)):
        entry = first + index * step
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257) and kind in _TIFF_NUMBERS:
            (found[tag],) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, entry + value_at)
    if len(found) < 2:
        raise DecodeError("unreadable", "the tiff does not say how large it is")
    return found[256], found[257]


# Not Image.open: it warns, and it has a pixel limit of its own, one for the whole process.
_READERS: dict[str, tuple[Callable[[bytes], tuple[int, int]], type[ImageFile.ImageFile]]] = {
    "jpeg": (_jpeg_size, JpegImageFile),
    "png": (_png_size, PngImageFile),
    "webp": (_webp_size, WebPImageFile),
    "gif": (_gif_size, GifImageFile),
    "bmp": (_bmp_size, BmpImageFile),
    "tiff": (_tiff_size, TiffImageFile),
}
_PILLOW_IS_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _silence_pillow() -> None:
    # catch_warnings would change the filters of other threads; this only adds one filter, once.
    if _PILLOW_IS_QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _reduce_while_decoding(image: ImageFile.ImageFile, min_side: int) -> None:
    width, height = image.size
    scale = next((scale for scale in (8, 4, 2) if max(width, height) // scale >= min_side), 1)
    image.draft(None, (max(1, width // scale), max(1, height // scale)))


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them, 1 where there is none; anything else is no orientation."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF does not make a photo unusable
        return 0


def _is_plain(image: ImageFile.ImageFile, format_name: str, data: bytes) -> bool:
    if format_name not in ("jpeg", "png", "webp") or image.mode not in ("1", "L", "P", "RGB"):
        return False
    if format_name == "png" and data[24] > 8:  # Pillow has taken 16 bits down to 8 by now
        return False
    return not (image.has_transparency_data or getattr(image, "is_animated", False))


def _to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I;16"):
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if image.mode in ("I", "F"):  # depth maps and the like; nothing says which value is white
        raise DecodeError("unsupported", "the pixels are 32 bits wide; 8 and 16 bits are taken")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, transparent)
    return np.array(image.convert("RGB"))


def _ends_early(data: bytes, format_name: str, error: Exception) -> bool:
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return True
    if format_name == "webp":
        return struct.unpack_from("<I", data, 4)[0] + 8 > len(data)
    return format_name == "png" and b"IEND" not in data


_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations of images whose width is stored as height


def _turn_upright(rgb: Rgb, orientation: int) -> Rgb:
    if orientation in _ON_ITS_SIDE:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def _bgr(rgb: Rgb) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rgb[..., ::-1])


def _scale(rgb: Rgb, width: int, height: int) -> Rgb:
    import cv2

    shrinks = width <= rgb.shape[1] and height <= rgb.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(rgb), (width, height), interpolation=how), np.uint8)
