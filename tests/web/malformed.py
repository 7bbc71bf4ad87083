"""Sixty malformed images: cut, flipped, lying about their size, looping, swollen."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

COUNT = 60
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MIMES = {name: f"image/{name.lower()}" for name in FORMATS}


def malformed(number: int) -> tuple[bytes, str]:
    """The ``number``-th malformed image (0 to 59) and the type it is declared as."""
    if number < 48:
        name = FORMATS[number % 6]
        return _damaged(_image(name), number // 6, number), MIMES[name]
    return _SPECIAL[number - 48]()


def _damaged(good: bytes, how: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    if how < 3:  # cut: in the header, in the middle, right before the end
        return good[: (12, len(good) // 2, len(good) - 7)[how]]
    data = bytearray(good)
    if how < 6:  # bits flipped behind the signature: few, many, in the header only
        count, end = ((5, len(data)), (200, len(data)), (20, 80))[how - 3]
        for place in rng.integers(12, min(end, len(data)), count):
            data[place] ^= 1 << int(rng.integers(8))
        return bytes(data)
    if how == 6:  # zeros from the middle on
        return bytes(data[: len(data) // 2]) + bytes(len(data) - len(data) // 2)
    return bytes(data[:40]) + rng.integers(0, 256, 4000, np.uint8).tobytes()  # noise behind the header


@cache
def _image(name: str) -> bytes:
    rng = np.random.default_rng(1)
    pixels = (rng.random((90, 120, 3)) * 60 + np.linspace(0, 190, 120)[None, :, None]).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name)
    return stream.getvalue()


def _png(width: int, height: int, chunks: list[tuple[bytes, bytes]], *, crc: bool = True) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]:
        checksum = zlib.crc32(kind + data) if crc else 0xDEADBEEF
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return body


def _jpeg_size(width: int, height: int) -> tuple[bytes, str]:
    data = bytearray(_image("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data), "image/jpeg"


def _jpeg_of_segments() -> tuple[bytes, str]:
    return b"\xff\xd8" + b"\xff\xe1\x00\x02" * 20_000 + _image("JPEG")[2:], "image/jpeg"


def _jpeg_without_frame() -> tuple[bytes, str]:
    return b"\xff\xd8\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x55" * 500 + b"\xff\xd9", "image/jpeg"


def _jpeg_exif_loop() -> tuple[bytes, str]:
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8769, 4, 1, 8) + struct.pack(">I", 8)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return b"\xff\xd8" + segment + _image("JPEG")[2:], "image/jpeg"


def _png_zip_bomb() -> tuple[bytes, str]:
    """Declares 100 x 100 pixels and unpacks to a hundred megabytes."""
    return _png(100, 100, [(b"IDAT", zlib.compress(bytes(10**8), 9))]), "image/png"


def _png_text_bomb() -> tuple[bytes, str]:
    text = b"Comment\0\0" + zlib.compress(b"a" * 10**8, 9)
    return _png(8, 8, [(b"zTXt", text), (b"IDAT", zlib.compress(bytes(8 * 25)))]), "image/png"


def _tiff_loop() -> tuple[bytes, str]:
    """A directory that is its own successor, without a size."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0100, 4, 1, 64, 8), "image/tiff"


def _tiff_huge_tag() -> tuple[bytes, str]:
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (273, 4, 2**31 - 1, 100), (279, 4, 2**31 - 1, 100)]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + body + struct.pack("<I", 0), "image/tiff"


_SPECIAL = (
    lambda: _jpeg_size(0, 90),
    lambda: _jpeg_size(65500, 65500),
    _jpeg_of_segments,
    _jpeg_without_frame,
    _jpeg_exif_loop,
    lambda: (_png(0, 0, []), "image/png"),
    lambda: (_png(2**31 - 1, 2**31 - 1, [(b"IDAT", zlib.compress(b"0"))]), "image/png"),
    lambda: (_png(8, 8, [(b"IDAT", zlib.compress(bytes(8 * 25)))], crc=False), "image/png"),
    _png_zip_bomb,
    _png_text_bomb,
    _tiff_loop,
    _tiff_huge_tag,
)
