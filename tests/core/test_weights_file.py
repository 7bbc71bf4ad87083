"""Weights come from the place that is named, once, and only with the hash that was given."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dcgan_core.errors import ConfigError, FetchError
from dcgan_core.weights_file import weights_file

CONTENT = b"weights " * 300_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Host(BaseHTTPRequestHandler):
    """Serves the weights, nothing, or an error; counts what was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status = {"/weights": 200, "/broken": 500}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else 0))
        self.end_headers()
        if status == 200 and self.command == "GET":
            self.wfile.write(CONTENT)

    do_HEAD = do_GET

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Counting", (Host,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def found(location: str, sha256: str | None, cache: Path) -> Path:
    return weights_file(location, sha256, cache, setting="evaluate.weights", what="a file of weights")


def test_a_path_is_taken_as_it_is_and_its_hash_checked_where_given(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    assert found(str(path), None, tmp_path / "cache") == path
    assert found(str(path), SHA256.upper(), tmp_path / "cache") == path
    with pytest.raises(ConfigError, match=f"has sha256 {SHA256}, evaluate.weights_sha256 says 0000"):
        found(str(path), "0" * 64, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_url_is_fetched_once_and_kept_by_its_hash(tmp_path: Path, host: tuple[str, list[str]]) -> None:
    url, asked = host
    path = found(f"{url}/weights", SHA256, tmp_path)
    assert path == tmp_path / SHA256 and path.read_bytes() == CONTENT and asked
    asked.clear()
    assert found(f"{url}/weights", SHA256, tmp_path) == path and not asked
    path.write_bytes(b"damaged since")
    assert found(f"{url}/weights", SHA256, tmp_path).read_bytes() == CONTENT


def test_other_schemes_are_read_too_and_those_that_nobody_knows_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    assert found(path.as_uri(), SHA256, tmp_path / "cache").read_bytes() == CONTENT
    with pytest.raises(ConfigError, match=r"evaluate.weights: nonsense://weights cannot be read"):
        found("nonsense://weights", SHA256, tmp_path / "empty")


def test_a_host_that_does_not_answer_is_a_passing_failure(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="could not fetch"):
        found("http://127.0.0.1:1/weights", SHA256, tmp_path)


def test_another_hash_and_failures_leave_nothing_behind(tmp_path: Path, host: tuple[str, list[str]]) -> None:
    url, _ = host
    with pytest.raises(ConfigError, match="take the right file, or correct the hash"):
        found(f"{url}/weights", "0" * 64, tmp_path)
    with pytest.raises(ConfigError, match="there is nothing at"):
        found(f"{url}/elsewhere", SHA256, tmp_path)
    with pytest.raises(FetchError, match="could not fetch"):
        found(f"{url}/broken", SHA256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_before_anything_is_asked_for(
    tmp_path: Path, host: tuple[str, list[str]]
) -> None:
    url, asked = host
    for location, sha256, words in (
        (f"{url}/weights", None, "evaluate.weights_sha256 is needed"),
        (f"{url}/weights", "abc", "give the 64 hex digits"),
        ("", None, "evaluate.weights is empty: set it to a file of weights"),
        (str(tmp_path / "none"), None, "there is no file"),
    ):
        with pytest.raises(ConfigError, match=words):
            found(location, sha256, tmp_path)
    assert not asked
