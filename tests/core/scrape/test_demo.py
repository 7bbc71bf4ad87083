"""The demo's photos are photos: found by the detector, the same each time, honest about what is broken."""

from __future__ import annotations

import hashlib
import http.client
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from cv2.data import haarcascades
from PIL import Image

from dcgan_core.errors import ConfigError
from dcgan_core.scrape import demo
from dcgan_core.scrape.demo import DEMO_HOST, DemoPhoto, demo_photos, identity, render
from dcgan_core.scrape.demo_server import DemoServer

SEED = 42
PHOTOS = demo_photos(SEED)


def test_every_face_has_one_original_and_two_different_near_duplicates() -> None:
    kinds = Counter(photo.kind for photo in PHOTOS)
    assert kinds == {"face": 300, "no_face": 100, "broken": 8}
    assert len({photo.name for photo in PHOTOS}) == len(PHOTOS)
    for subject in range(100):
        variants = {photo.variant for photo in PHOTOS if photo.kind == "face" and photo.subject == subject}
        assert len(variants) == 3
        assert "original" in variants


def test_the_list_and_the_bytes_follow_from_the_seed_alone() -> None:
    assert demo_photos(SEED) == PHOTOS
    assert demo_photos(SEED + 1) != PHOTOS
    for photo in PHOTOS[:20]:
        assert render(photo, SEED) == render(photo, SEED)
    original = DemoPhoto("face-000", "face", 0, "original")
    assert render(original, SEED) != render(original, SEED + 1)


def test_originals_are_colour_pages_of_varying_size() -> None:
    sizes = set()
    for photo in [photo for photo in PHOTOS if photo.variant == "original"][:20]:
        page = Image.open(io.BytesIO(render(photo, SEED)))
        page.load()
        assert page.format == "JPEG"
        assert page.mode == "RGB"
        sizes.add(page.size)
    assert len(sizes) > 5
    assert all(360 <= width <= 480 and 270 <= height <= 360 for width, height in sizes)


@pytest.mark.parametrize("variant", demo.RE_ENCODES)
def test_near_duplicates_show_the_same_picture_in_other_bytes(variant: str) -> None:
    for subject in range(3):
        original = render(DemoPhoto("a", "face", subject, "original"), SEED)
        again = render(DemoPhoto("b", "face", subject, variant), SEED)
        other = render(DemoPhoto("c", "face", subject + 50, "original"), SEED)
        assert again != original
        assert _correlation(original, again) > 0.9
        assert _correlation(original, again) > _correlation(original, other)


def test_the_detector_finds_the_faces_and_only_those() -> None:
    cascade = cv2.CascadeClassifier(f"{haarcascades}haarcascade_frontalface_default.xml")
    shown, found = Counter[str](), Counter[str]()
    for photo in PHOTOS:
        if photo.kind != "broken" and (photo.variant == "original" or photo.subject % 5 == 0):
            group = photo.kind if photo.variant == "original" else "near_duplicate"
            grey = _decode(render(photo, SEED))
            boxes = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(32, 32))
            shown[group] += 1
            found[group] += len(boxes) > 0
    assert shown == {"face": 100, "near_duplicate": 40, "no_face": 100}
    assert found["face"] >= 95
    assert found["near_duplicate"] >= 36
    assert found["no_face"] <= 2


def test_each_broken_photo_is_broken_in_its_own_way() -> None:
    bodies = {photo.variant: render(photo, SEED) for photo in PHOTOS if photo.kind == "broken"}
    assert bodies["empty"] == b""
    assert bodies["html"].startswith(b"<!doctype html>")
    assert bodies["mislabelled"].startswith(b"<!doctype html>")
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(bodies["truncated"])).load()
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bodies["bomb"]))


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="sepia"):
        render(DemoPhoto("a", "face", 0, "sepia"), SEED)


def test_identity_is_the_hash_of_the_patches() -> None:
    from skimage import data

    expected = hashlib.sha256(np.asarray(data.lfw_subset(), dtype=np.float64).tobytes()).hexdigest()
    assert identity() == {"composer": str(demo.COMPOSER_VERSION), "lfw_subset": expected}


@pytest.mark.parametrize("use", ["identity()", "render(demo_photos(1)[0], 1)", "DemoServer(1).__enter__()"])
def test_without_scikit_image_the_error_names_the_extra(use: str) -> None:
    program = (
        "import sys\n"
        "sys.modules['skimage'] = None\n"
        "from dcgan_core.scrape.demo import demo_photos, identity, render\n"
        "from dcgan_core.scrape.demo_server import DemoServer\n"
        f"{use}\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ConfigError" in ended.stderr
    assert "pip install 'dcgan[demo]'" in ended.stderr


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with DemoServer(SEED) as running:
        yield running


@pytest.fixture
def client(server: DemoServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    yield connection
    connection.close()


def test_the_server_sends_what_render_makes_over_one_kept_connection(
    client: http.client.HTTPConnection,
) -> None:
    sockets = set()
    for photo in [photo for photo in PHOTOS if photo.kind != "broken"][:10]:
        status, content_type, body = _get(client, photo)
        assert (status, content_type) == (200, "image/jpeg")
        assert body == render(photo, SEED)
        sockets.add(id(client.sock))
    assert len(sockets) == 1


def test_the_server_answers_for_broken_photos(client: http.client.HTTPConnection) -> None:
    answers = {photo.variant: _get(client, photo)[:2] for photo in PHOTOS if photo.kind == "broken"}
    assert answers == {
        "missing": (404, "text/html; charset=utf-8"),
        "html": (200, "text/html; charset=utf-8"),
        "mislabelled": (200, "image/jpeg"),
        "empty": (200, "image/jpeg"),
        "truncated": (200, "image/jpeg"),
        "bomb": (200, "image/jpeg"),
    }


def test_the_index_links_every_photo_and_other_paths_are_not_found(
    client: http.client.HTTPConnection,
) -> None:
    client.request("GET", "/")
    page = client.getresponse().read().decode()
    assert all(f'href="/photos/{photo.name}.jpg"' in page for photo in PHOTOS)
    for path in ("/photos/nobody.jpg", "/photos/", "/robots.txt", "/../demo.py"):
        client.request("GET", path)
        answer = client.getresponse()
        assert answer.status == 404
        answer.read()


def test_head_gives_the_length_without_the_body(client: http.client.HTTPConnection) -> None:
    photo = PHOTOS[0]
    client.request("HEAD", f"/photos/{photo.name}.jpg")
    answer = client.getresponse()
    assert answer.getheader("Content-Length") == str(len(render(photo, SEED)))
    assert answer.read() == b""


def test_urls_do_not_depend_on_the_port() -> None:
    assert DemoPhoto("face-007", "face", 7, "original").url == f"http://{DEMO_HOST}/photos/face-007.jpg"


def test_a_closed_server_frees_its_port(server: DemoServer) -> None:
    with DemoServer(SEED) as other:
        port = other.port
        assert port != server.port
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=10).request("GET", "/")


def _get(client: http.client.HTTPConnection, photo: DemoPhoto) -> tuple[int, str | None, bytes]:
    client.request("GET", f"/photos/{photo.name}.jpg", headers={"Host": DEMO_HOST})
    answer = client.getresponse()
    body = answer.read()
    assert answer.getheader("Content-Length") == str(len(body))
    return answer.status, answer.getheader("Content-Type"), body


def _decode(body: bytes) -> cv2.typing.MatLike:
    grey = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    return grey


def _correlation(left: bytes, right: bytes) -> float:
    thumbnails = [cv2.resize(_decode(body), (32, 24), interpolation=cv2.INTER_AREA) for body in (left, right)]
    return float(np.corrcoef(thumbnails[0].ravel(), thumbnails[1].ravel())[0, 1])
