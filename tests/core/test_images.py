"""Every kind of encoded image comes out as upright RGB, and damage comes out as DecodeError alone."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dcgan_core.errors import ConfigError, DecodeError
from dcgan_core.images import (
    Header,
    center_crop,
    center_square,
    data_uri,
    decode,
    decode_rgb,
    encode_jpeg,
    encode_png,
    grid,
    read_header,
    resize,
    shrink,
)

LIMIT = 1_000_000
FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")


def scene(height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """A smooth picture whose four corners all differ."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 / width, y * 255 / height, (x + y) * 120 / (height + width))
    return np.stack(channels, axis=-1).astype(np.uint8)


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def status_of(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_rgb(data, max_pixels=max_pixels)
    assert str(caught.value)
    return caught.value.status


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_is_measured_and_decoded(format_name: str) -> None:
    options = {"lossless": True} if format_name == "webp" else {}
    data = saved(Image.fromarray(scene()), format_name, **options)
    assert read_header(data, LIMIT) == Header(format_name, 80, 48)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(data, max_pixels=LIMIT), expected)


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}]
)
def test_all_three_webp_headers_are_measured(options: dict[str, object]) -> None:
    assert read_header(saved(Image.new("RGB", (301, 17)), "webp", **options), LIMIT) == Header(
        "webp", 301, 17
    )


@pytest.mark.parametrize(
    "options", [{"big_tiff": True}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}]
)
def test_tiff_variants_are_measured_and_decoded(options: dict[str, object]) -> None:
    data = saved(Image.fromarray(scene()), "tiff", **options)
    assert read_header(data, LIMIT) == Header("tiff", 80, 48)
    assert decode_rgb(data, max_pixels=LIMIT).shape == (48, 80, 3)


def test_big_endian_tiff_is_measured() -> None:
    entries = b"".join(struct.pack(">HHIHxx", tag, 3, 1, value) for tag, value in ((256, 7), (257, 9)))
    assert read_header(b"MM\0*" + struct.pack(">IH", 8, 2) + entries, LIMIT) == Header("tiff", 7, 9)


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_come_out_upright(orientation: int, format_name: str) -> None:
    upright = Image.fromarray(scene())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(format_name, {})
    decoded = decode_rgb(saved(stored, format_name, exif=exif, **options), max_pixels=LIMIT)
    assert decoded.shape == (48, 80, 3)
    assert np.abs(decoded.astype(int) - scene()).max() <= (12 if format_name == "jpeg" else 0)


def test_damaged_exif_leaves_the_photo_as_stored() -> None:
    data = saved(Image.fromarray(scene()), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert decode_rgb(data, max_pixels=LIMIT).shape == (48, 80, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(scene()).convert(mode)
    decoded = decode_rgb(saved(image, "tiff"), max_pixels=LIMIT)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    data = saved(Image.fromarray(scene()).convert("CMYK"), "jpeg", quality=95, subsampling=0)
    assert np.abs(decode_rgb(data, max_pixels=LIMIT).astype(int) - scene()).mean() < 4


def test_sixteen_bit_grey_keeps_its_range() -> None:
    values = np.linspace(0, 65535, 48 * 80).reshape(48, 80).astype(np.uint16)
    for format_name in ("png", "tiff"):
        decoded = decode_rgb(saved(Image.fromarray(values), format_name), max_pixels=LIMIT)
        np.testing.assert_array_equal(decoded, np.repeat((values >> 8)[..., None], 3, axis=2))


def sixteen_bit_rgb_png(rgb: NDArray[np.uint8]) -> bytes:
    height, width = rgb.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in rgb.astype(">u2") * 257)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def test_sixteen_bit_rgb_png_keeps_its_range() -> None:
    np.testing.assert_array_equal(decode_rgb(sixteen_bit_rgb_png(scene()), max_pixels=LIMIT), scene())


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


SCENE = Image.fromarray(scene())
PLAIN = {
    "jpeg": saved(SCENE, "jpeg"),
    "progressive jpeg": saved(SCENE, "jpeg", progressive=True),
    "grey jpeg": saved(SCENE.convert("L"), "jpeg"),
    "upright jpeg": saved(SCENE, "jpeg", exif=oriented(1)),
    "png": saved(SCENE, "png"),
    "grey png": saved(SCENE.convert("L"), "png"),
    "two-coloured png": saved(SCENE.convert("1"), "png"),
    "palette png": saved(SCENE.convert("P"), "png"),
    "webp": saved(SCENE, "webp"),
}
NOT_PLAIN = {
    "turned jpeg": saved(SCENE, "jpeg", exif=oriented(6)),
    "mirrored jpeg": saved(SCENE, "jpeg", exif=oriented(2)),
    "jpeg of no orientation": saved(SCENE, "jpeg", exif=oriented(0)),
    "cmyk jpeg": saved(SCENE.convert("CMYK"), "jpeg"),
    "turned png": saved(SCENE, "png", exif=oriented(3)),
    "png of four channels": saved(SCENE.convert("RGBA"), "png"),
    "grey png of two channels": saved(SCENE.convert("LA"), "png"),
    "png with a transparent colour": saved(SCENE, "png", transparency=(0, 0, 0)),
    "palette png with a transparent colour": saved(SCENE.convert("P"), "png", transparency=3),
    "grey png of 16 bits": saved(Image.fromarray(np.zeros((48, 80), np.uint16)), "png"),
    "png of 16 bits": sixteen_bit_rgb_png(scene()),
    "animated png": saved(SCENE, "png", save_all=True, append_images=[SCENE.convert("L").convert("RGB")]),
    "webp of four channels": saved(SCENE.convert("RGBA").rotate(30), "webp"),
    "animated webp": saved(SCENE, "webp", save_all=True, append_images=[SCENE.rotate(180)]),
    "gif": saved(SCENE, "gif"),
}


@pytest.mark.parametrize("kind", [*PLAIN, *NOT_PLAIN])
def test_a_picture_is_plain_where_no_decoder_can_show_another(kind: str) -> None:
    data = {**PLAIN, **NOT_PLAIN}[kind]
    assert decode(data, max_pixels=LIMIT).is_plain == (kind in PLAIN)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGBA", (20, 10), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 10))
    decoded = decode_rgb(saved(image.convert(mode), "png"), max_pixels=LIMIT)
    assert (decoded[:, :10] == 0).all()
    assert (decoded[:, 10:] == 255).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    decoded = decode_rgb(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "png"), max_pixels=LIMIT)
    assert (abs(decoded.astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("format_name", ["gif", "webp", "png", "tiff"])
def test_the_first_of_several_frames_is_taken(format_name: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = saved(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert (abs(decode_rgb(data, max_pixels=LIMIT).astype(int) - (255, 0, 0)) < 8).all()


def test_reduced_decoding_keeps_the_longest_side_large_enough() -> None:
    data = saved(Image.fromarray(scene(600, 1000)), "jpeg")
    for min_side, longest in ((100, 125), (126, 250), (500, 500), (501, 1000), (5000, 1000)):
        decoded = decode_rgb(data, max_pixels=LIMIT, min_side=min_side)
        assert max(decoded.shape) == longest
        expected = resize(scene(600, 1000), 32)
        assert np.abs(resize(decoded, 32).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_knows_how_large_it_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene(603, 1001)), "jpeg", exif=exif)
    upright = (603, 1001) if orientation >= 5 else (1001, 603)
    reduced = decode(data, max_pixels=LIMIT, min_side=250)
    assert reduced.is_reduced
    assert (reduced.width, reduced.height) == upright
    assert reduced.rgb.shape[1::-1] == tuple(-(-side // 4) for side in upright)
    whole = decode(data, max_pixels=LIMIT)
    assert not whole.is_reduced
    assert (whole.width, whole.height) == upright == whole.rgb.shape[1::-1]


def test_only_jpeg_is_decoded_reduced() -> None:
    for format_name in FORMATS:
        decoded = decode(
            saved(Image.fromarray(scene(603, 1001)), format_name), max_pixels=LIMIT, min_side=250
        )
        assert decoded.is_reduced == (format_name == "jpeg")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty"),
        (b"\0" * 1000, "not_image"),
        (b"BMW is a maker of cars", "not_image"),
        (b'{"error": "gone"}', "not_image"),
        (b"%PDF-1.7 ...", "not_image"),
        (b"<?xml version='1.0'?><feed/>", "not_image"),
        (b"  <?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "unsupported"),
        (b"\0\0\0\x20ftypmp42\0\0\0\0", "not_image"),
        (b"\xff\xd8\xff\xe0", "unreadable"),
        (b"\x89PNG\r\n\x1a\n", "unreadable"),
    ],
)
def test_what_is_no_photo_is_named(data: bytes, status: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_header(data, LIMIT)
    assert caught.value.status == status
    assert status_of(data) == status


def test_an_error_page_is_called_html() -> None:
    with pytest.raises(DecodeError, match="HTML"):
        read_header(b"\xef\xbb\xbf\n<!DOCTYPE html><p>404 <svg></svg>", LIMIT)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_bomb_is_refused_by_its_header(format_name: str) -> None:
    data = saved(Image.new("1" if format_name in ("png", "tiff") else "L", (3000, 2000)), format_name)
    with pytest.raises(DecodeError, match="3000 x 2000") as caught:
        read_header(data, 5_999_999)
    assert caught.value.status == "too_many_pixels"
    assert read_header(data, 6_000_000).width == 3000


def test_a_header_of_billions_of_pixels_is_refused() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    assert status_of(data, 100_000_000) == "too_many_pixels"


def test_a_frame_larger_than_its_screen_is_refused() -> None:
    data = bytearray(saved(Image.new("L", (3000, 2000)), "gif"))
    data[6:10] = struct.pack("<HH", 10, 10)
    assert read_header(bytes(data), LIMIT).width == 10
    assert status_of(bytes(data)) == "too_many_pixels"


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_cut_off_data_is_truncated(format_name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), format_name)
    assert status_of(data[: int(len(data) * share)]) == "truncated"


def test_32_bit_pixels_are_unsupported() -> None:
    assert status_of(saved(Image.new("F", (8, 8)), "tiff")) == "unsupported"


def decode_or_refuse(data: bytes) -> None:
    """Any result but an RGB array or a DecodeError fails, and so does a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            header = read_header(data, LIMIT)
            assert header.width * header.height <= LIMIT
        except DecodeError:
            pass
        try:
            rgb = decode_rgb(data, max_pixels=LIMIT, min_side=16)
            assert rgb.dtype == np.uint8
            assert rgb.ndim == 3
            assert rgb.shape[2] == 3
        except DecodeError as error:
            assert error.status in {
                "empty", "not_image", "unsupported", "too_many_pixels", "unreadable", "truncated",
            }  # fmt: skip


SAMPLES = {name: saved(Image.fromarray(scene()), name) for name in FORMATS}
STARTS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF0000WEBP",
    b"GIF89a",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"BM",
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=400))
def test_random_bytes_end_in_decode_error(start: bytes, rest: bytes) -> None:
    decode_or_refuse(start + rest)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0, 1),
)
def test_damaged_images_end_in_pixels_or_decode_error(
    format_name: str, changes: list[tuple[float, int]], share: float
) -> None:
    damaged = bytearray(SAMPLES[format_name])
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    decode_or_refuse(bytes(damaged))
    decode_or_refuse(bytes(damaged[: int(share * len(damaged))]))


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_prefix_of_an_image_is_handled(format_name: str) -> None:
    data = SAMPLES[format_name]
    for length in [*range(min(len(data), 300)), *range(300, len(data), 97)]:
        decode_or_refuse(data[:length])


def test_jpeg_is_written_in_full_colour_and_always_alike() -> None:
    data = encode_jpeg(scene(), 95)
    assert data == encode_jpeg(scene().copy(), 95)
    with Image.open(io.BytesIO(data)) as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # pyright: ignore[reportAttributeAccessIssue]
    assert np.abs(decode_rgb(data, max_pixels=LIMIT).astype(int) - scene()).mean() < 1.5
    assert len(encode_jpeg(scene(), 50)) < len(data)


def test_png_gives_back_the_same_pixels() -> None:
    for rgb in (scene(), scene()[::-1, ::2], scene(1, 2)):
        np.testing.assert_array_equal(decode_rgb(encode_png(rgb), max_pixels=LIMIT), rgb)


def test_reducing_takes_the_mean_of_each_area() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    means = noise.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize(noise, 16) - means).max() <= 0.51
    assert resize(noise[:5, :5], 16).shape == (16, 16, 3)


def test_shrinking_keeps_proportions_and_never_enlarges() -> None:
    assert shrink(scene(600, 1000), 100).shape == (60, 100, 3)
    assert shrink(scene(2, 1000), 100).shape == (1, 100, 3)
    assert shrink(scene(), 100).shape == (48, 80, 3)


def test_centre_cuts_are_central() -> None:
    rgb = scene(48, 80)
    np.testing.assert_array_equal(center_square(rgb), rgb[:, 16:64])
    np.testing.assert_array_equal(center_crop(rgb, 20), rgb[14:34, 30:50])
    with pytest.raises(ConfigError, match="49 pixels"):
        center_crop(rgb, 49)


def test_a_grid_shows_each_image_once_and_fills_up_with_white() -> None:
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in range(10, 110, 10)])
    sheet = grid(images)
    assert sheet.shape == (3 * 10 + 2, 4 * 10 + 2, 3)
    for index, image in enumerate(images):
        top, left = 2 + index // 4 * 10, 2 + index % 4 * 10
        np.testing.assert_array_equal(sheet[top : top + 8, left : left + 8], image)
    assert (sheet[22:, 22:] == 255).all()
    assert (sheet == 255).all(axis=2).sum() == 32 * 42 - 10 * 64
    assert grid(images, columns=10, pad=0).shape == (8, 80, 3)
    assert grid(images[:1]).shape == (12, 12, 3)


def test_a_data_uri_holds_the_bytes() -> None:
    head, _, body = data_uri(b"\x00\xffabc", "image/png").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x00\xffabc"
