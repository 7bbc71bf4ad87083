"""A store on a real S3 server: all operations, every kind of fault, and errors that say what is wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcgan_core.artifacts import Address, PartFile, read_part, write_part
from dcgan_core.config import ScrapeConfig
from dcgan_core.errors import ConfigError, CorruptArtifact, StorageError
from dcgan_core.place import load_place
from dcgan_core.scrape.sources import Source, open_source
from dcgan_core.storage import Store, open_location
from tests.conftest import ObjectStore
from tests.web.faulty_proxy import KINDS, FaultyProxy, Request
from tests.web.swift_server import PAGE

object_store_module = pytest.importorskip("dcgan_core.object_store", reason="the extra s3 is not installed")

BUCKET = "tests"
PART_BYTES = 5 * 2**20
"""The smallest part that S3 takes."""
QUICK_SECONDS = 1.0
"""Time-out of a read where the proxy hangs."""


@pytest.fixture
def remote(object_store: ObjectStore) -> Store:
    """An empty root on the server."""
    return object_store.store(BUCKET, f"{uuid.uuid4().hex}/root")


@pytest.fixture
def proxy(object_store: ObjectStore) -> Iterator[FaultyProxy]:
    with FaultyProxy(object_store.port) as proxy:
        yield proxy


@pytest.fixture
def faulty(object_store: ObjectStore, remote: Store, proxy: FaultyProxy) -> Store:
    """The same root behind the proxy, by a client that does not wait long."""
    prefix = remote.root.removeprefix(f"s3://{BUCKET}/")
    return object_store.store(BUCKET, prefix, proxy.endpoint, tries=6, read_seconds=QUICK_SECONDS)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Content that is sent in three parts."""
    monkeypatch.setattr(object_store_module, "PART_BYTES", PART_BYTES)
    return os.urandom(2 * PART_BYTES) + b"the last and smallest part"


def client(store: Store) -> Any:
    """The store's file system with all that only S3 has."""
    return store.filesystem()


def is_upload_of_part(request: Request) -> bool:
    return request.method == "PUT" and "partNumber" in request.target


def is_completion(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.target


def test_what_is_written_is_read_again_whole_and_in_parts(remote: Store) -> None:
    remote.write_bytes("a/b/file", b"0123456789")
    assert remote.read_bytes("a/b/file") == b"0123456789"
    assert remote.read_range("a/b/file", 3, 6) == b"345"
    assert remote.read_range("a/b/file", 6, 6) == b""
    remote.write_bytes("a/b/file", b"")
    assert remote.read_bytes("a/b/file") == b""


def test_what_is_not_there_is_a_missing_file_and_an_empty_listing(remote: Store) -> None:
    for operation in (remote.read_bytes, lambda path: remote.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            operation("a/file")
    for operation in (remote.copy, remote.move):
        with pytest.raises(FileNotFoundError):
            operation("a/file", "b/file")
    assert not remote.exists("a/file")
    assert remote.names("a") == []
    remote.delete("a/file")


def test_names_are_those_directly_below(remote: Store) -> None:
    for path in ("a/c", "a/b", "a/d/e", "ab/f"):
        remote.write_bytes(path, b"x")
    client(remote).call_s3("put_object", Bucket=BUCKET, Key=remote.key("a/").partition("/")[2], Body=b"")
    assert remote.names("a") == ["b", "c", "d"]
    assert remote.names("a/b") == []
    assert remote.exists("a/d")


def test_what_others_write_and_delete_is_seen_at_once(remote: Store) -> None:
    script = "import sys; from dcgan_core.place import load_place; store = load_place().store(); "
    remote.write_bytes("a/first", b"x")
    assert remote.names("a") == ["first"]
    assert not remote.exists("a/second")
    variables = os.environ | {"DCGAN_ROOT": remote.root}
    script += "store.write_bytes('a/second', b'x'); store.delete('a/first')"
    subprocess.run([sys.executable, "-c", script], env=variables, check=True, timeout=120)
    assert remote.names("a") == ["second"]
    assert remote.exists("a/second")
    assert not remote.exists("a/first")


def test_a_listing_of_several_pages_is_whole_also_where_pages_fail(
    remote: Store, faulty: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:05d}.json" for number in range(2 * PAGE + 10)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: remote.write_bytes(f"many/{name}", b"x"), names))
    proxy.inject("truncated", "", "truncated", "reset_midway")
    assert faulty.names("many") == names
    assert sum(proxy.injected.values()) == 3
    assert len(proxy.requests) == 3 + 3
    monkeypatch.setattr(object_store_module, "DELETED_AT_ONCE", PAGE)
    remote.delete("many")
    assert remote.names("many") == []


def test_a_whole_folder_is_copied_away_and_deleted(remote: Store) -> None:
    for path in ("a/b[1]", "a/c/d", "ab"):
        remote.write_bytes(path, path.encode())
    remote.copy("a/b[1]", "copy")
    remote.move("a", "new")
    assert (remote.read_bytes("copy"), remote.names("a")) == (b"a/b[1]", [])
    assert (remote.read_bytes("new/b[1]"), remote.read_bytes("new/c/d")) == (b"a/b[1]", b"a/c/d")
    remote.write_bytes("new.new", b"other")
    remote.move("new.new", "new/b[1]")
    assert remote.read_bytes("new/b[1]") == b"other"
    remote.delete("new")
    assert remote.names("") == ["ab", "copy"]


def test_a_block_that_raises_leaves_the_old_file(remote: Store) -> None:
    with remote.writing("file") as path:
        path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="on purpose"), remote.writing("file") as path:
        path.write_bytes(b"half")
        raise RuntimeError("on purpose")
    assert remote.read_bytes("file") == b"old"


def test_being_writable_is_found_out_without_leaving_a_trace(remote: Store) -> None:
    remote.check_writable()
    assert remote.names("") == []


def test_a_store_and_its_file_system_cross_process_borders(remote: Store) -> None:
    here, there = Pipe()
    here.send((remote, remote.filesystem()))
    store, filesystem = there.recv()
    assert store == remote
    store.write_bytes("file", b"x")
    assert filesystem.cat_file(remote.key("file")) == b"x"


def test_large_files_go_in_parts_and_nothing_else_stays(remote: Store, small_parts: bytes) -> None:
    remote.write_bytes("bytes", small_parts)
    with remote.writing("file") as path:
        path.write_bytes(small_parts)
    for name in ("bytes", "file"):
        assert remote.read_bytes(name) == small_parts
        assert remote.filesystem().info(remote.key(name))["ETag"].endswith('-3"')
    assert unfinished(remote) == []


def test_a_range_that_is_not_all_there_is_an_error_that_names_it(remote: Store, store: Store) -> None:
    for each in (remote, store):
        each.write_bytes("file", b"0123456789")
        for start in (5, 10, 11):
            with pytest.raises(CorruptArtifact, match=f"bytes {start} to 12 ") as caught:
                each.read_range("file", start, 12)
            assert each.uri("file") in str(caught.value)


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read_bytes("a/file"),
    "read_range": lambda store: store.read_range("a/file", 100, 200),
    "write": lambda store: store.write_bytes("a/new", b"new"),
    "writing": lambda store: _written(store, b"new"),
    "names": lambda store: store.names("a"),
    "exists": lambda store: store.exists("a/file"),
    "copy": lambda store: store.copy("a/file", "a/copy"),
    "move": lambda store: store.move("a/moved", "a/there"),
    "delete": lambda store: store.delete("a/gone"),
}
CONTENT = bytes(range(256)) * 40


def _written(store: Store, data: bytes, name: str = "a/new") -> None:
    with store.writing(name) as path:
        path.write_bytes(data)


WITHOUT_BODY = {"write", "writing", "exists", "part"}
"""What is answered without a body, so that there is nothing to cut."""


def with_every_kind(*names: str) -> list[tuple[str, str]]:
    impossible = {(name, "truncated") for name in WITHOUT_BODY}
    return [(name, kind) for name in names for kind in KINDS if (name, kind) not in impossible]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), with_every_kind(*OPERATIONS))
def test_an_operation_is_tried_again_until_it_succeeds(
    name: str, kind: str, remote: Store, faulty: Store, proxy: FaultyProxy
) -> None:
    for path in ("a/file", "a/moved", "a/gone"):
        remote.write_bytes(path, CONTENT)
    proxy.inject(*[kind] * (1 if kind == "hang" else 3))
    result = OPERATIONS[name](faulty)
    assert proxy.injected == {kind: 1 if kind == "hang" else 3}
    expected = {
        "read": CONTENT,
        "read_range": CONTENT[100:200],
        "names": ["file", "gone", "moved"],
        "exists": True,
    }
    assert result == expected.get(name)
    files = {
        "write": {"new": b"new"},
        "writing": {"new": b"new"},
        "copy": {"copy": CONTENT},
        "move": {"there": CONTENT},
    }
    there = {"file": CONTENT, "gone": CONTENT, "moved": CONTENT} | files.get(name, {})
    there.pop({"delete": "gone", "move": "moved"}.get(name, ""), None)
    assert {each: remote.read_bytes(f"a/{each}") for each in remote.names("a")} == there


@pytest.mark.parametrize("kind", ["reset", "reset_midway", "hang"])
@pytest.mark.parametrize(("name", "method"), [("copy", "PUT"), ("move", "PUT"), ("delete", "POST")])
def test_what_was_done_before_its_answer_was_lost_may_be_done_again(
    name: str, method: str, kind: str, remote: Store, faulty: Store, proxy: FaultyProxy
) -> None:
    for path in ("a/file", "a/moved", "a/gone"):
        remote.write_bytes(path, CONTENT)
    proxy.inject(kind, where=lambda request: request.method == method)
    OPERATIONS[name](faulty)
    assert proxy.injected == {kind: 1}
    names = {"copy": ["copy", "file", "gone", "moved"], "move": ["file", "gone", "there"]}
    assert remote.names("a") == names.get(name, ["file", "moved"])


@pytest.mark.slow
@pytest.mark.parametrize(("step", "kind"), with_every_kind("begin", "part", "complete"))
def test_an_upload_in_parts_is_tried_again_step_by_step(
    step: str, kind: str, remote: Store, faulty: Store, proxy: FaultyProxy, small_parts: bytes
) -> None:
    where = {
        "begin": lambda request: request.method == "POST" and "uploads" in request.target,
        "part": is_upload_of_part,
        "complete": is_completion,
    }
    proxy.inject(kind, kind, where=where[step])
    _written(faulty, small_parts, "file")
    assert proxy.injected == {kind: 2}
    assert remote.read_bytes("file") == small_parts
    assert parts_of_unfinished(remote) == []


def test_an_upload_that_fails_for_good_leaves_neither_file_nor_parts(
    remote: Store, faulty: Store, proxy: FaultyProxy, small_parts: bytes
) -> None:
    remote.write_bytes("file", b"old")
    for where in (is_upload_of_part, is_completion):
        proxy.inject(*["500"] * 100, where=where)
        with pytest.raises(StorageError, match=f"{remote.uri('file')}.*InternalError"):
            faulty.write_bytes("file", small_parts)
        assert remote.read_bytes("file") == b"old"
        assert unfinished(remote) == []


def unfinished(store: Store) -> list[tuple[str, str]]:
    """Keys and ids of uploads below the root that were begun and not ended."""
    prefix = store.key("").partition("/")[2]
    listed = client(store).list_multipart_uploads(BUCKET)
    return [(each["Key"], each["UploadId"]) for each in listed if each["Key"].startswith(prefix)]


def parts_of_unfinished(store: Store) -> list[str]:
    found = []
    for key, upload in unfinished(store):
        answer = client(store).call_s3("list_parts", Bucket=BUCKET, Key=key, UploadId=upload)
        found += [part["ETag"] for part in answer.get("Parts", [])]
    return found


def test_a_part_read_through_a_proxy_that_cuts_half_of_all_answers_is_whole(
    object_store: ObjectStore, remote: Store, proxy: FaultyProxy
) -> None:
    address, data = Address("photos", "0" * 16), os.urandom(300_000)
    record = write_part(remote, address, "part.bin", data)
    prefix = remote.root.removeprefix(f"s3://{BUCKET}/")
    cutting = object_store.store(BUCKET, prefix, proxy.endpoint)
    proxy.inject(*["truncated", ""] * 20)
    for _ in range(20):
        assert read_part(cutting, address, record) == data
    assert proxy.injected["truncated"] == 20
    with cutting.filesystem().open(cutting.key(address.part_path("part.bin")), "rb") as file:
        proxy.inject(*["truncated"] * 3)
        assert file.read() == data
    assert proxy.injected == {"truncated": 3}


def test_a_part_that_differs_is_read_once_more_before_it_is_called_damaged(
    remote: Store, faulty: Store, proxy: FaultyProxy
) -> None:
    address = Address("photos", "0" * 16)
    record = write_part(remote, address, "part.bin", b"content")
    other = PartFile(name="part.bin", bytes=7, sha256="0" * 64)
    with pytest.raises(CorruptArtifact, match="sha256"):
        read_part(faulty, address, other)
    assert [request.method for request in proxy.requests] == ["GET", "GET"]
    assert read_part(faulty, address, record) == b"content"
    remote.delete(address.part_path("part.bin"))
    with pytest.raises(CorruptArtifact, match="missing"):
        read_part(faulty, address, record)


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_passes_is_a_passing_error_with_path_and_last_failure(
    kind: str, object_store: ObjectStore, remote: Store, proxy: FaultyProxy
) -> None:
    remote.write_bytes("a/file", CONTENT)
    prefix = remote.root.removeprefix(f"s3://{BUCKET}/")
    hasty = object_store.store(
        BUCKET, prefix, proxy.endpoint, tries=2, read_seconds=0.3 if kind == "hang" else 20
    )
    proxy.inject(*[kind] * 100)
    with pytest.raises(StorageError, match=f"{remote.uri('a/file')}: get_object failed 2 times") as caught:
        hasty.read_bytes("a/file")
    last = {
        "500": "InternalError",
        "SlowDown": "SlowDown",
        "reset": "Connection was closed|Could not connect",
        "reset_midway": "reset by peer|closed|connect",
        "truncated": "payload is not completed|Not enough data",
        "hang": "[Tt]imeout",
    }
    assert caught.match(last[kind])
    # The HTTP client asks once more by itself where it is hung up on without a word.
    assert proxy.injected == {kind: 4 if kind == "reset" else 2}
    operations = [hasty.names, hasty.delete] + ([hasty.exists] if kind != "truncated" else [])
    for operation in operations:  # and nothing is taken for not there
        with pytest.raises(StorageError):
            operation("a")


def test_wrong_settings_are_named_at_once(
    object_store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = (("endpoint_url", proxy.endpoint),)
    for root, said in (
        ("s3://nosuchbucket/root", "no such bucket"),
        ("s3://x/root", "no such bucket"),
        ("s3://no bucket/root", "bucket name"),
    ):
        for operation in (Store(root, endpoint).read_bytes, Store(root, endpoint).names):
            with pytest.raises(ConfigError, match=said) as caught:
                operation("a/file")
            assert root in str(caught.value)
        with pytest.raises(ConfigError, match=said):
            Store(root, endpoint).check_writable()
    before = len(proxy.requests)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with FaultyProxy(object_store.port) as other:  # clients of another endpoint read credentials anew
        denied = Store(f"s3://{BUCKET}/root", (("endpoint_url", other.endpoint),))
        for operation in (denied.read_bytes, denied.names, denied.exists, lambda _: denied.check_writable()):
            with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):
                operation("a/file")
        assert len(other.requests) == 4
        monkeypatch.setenv("DCGAN_S3_ENDPOINT_URL", other.endpoint)
        with pytest.raises(ConfigError, match=r"scrape\.path.*AWS_SECRET_ACCESS_KEY"):
            open_location(f"s3://{BUCKET}/photos", "scrape.path")
    assert len(proxy.requests) == before


def test_missing_credentials_are_named(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with FaultyProxy(object_store.port) as proxy:
        with pytest.raises(ConfigError, match="set AWS_ACCESS_KEY_ID"):
            Store(f"s3://{BUCKET}/root", (("endpoint_url", proxy.endpoint),)).names("a")
        assert proxy.requests == []


def test_a_dead_endpoint_is_named(object_store: ObjectStore) -> None:
    with FaultyProxy(object_store.port) as gone:
        endpoint = gone.endpoint
    dead = object_store.store(BUCKET, endpoint=endpoint, tries=3)
    for operation in (dead.read_bytes, dead.names, dead.exists, dead.delete):
        with pytest.raises(StorageError, match=f"failed 3 times.*{endpoint}"):
            operation("a/file")


def test_the_place_says_where_the_store_is_and_how_patient_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    variables = {
        "ROOT": "s3://bucket/root",
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "S3_TRIES": "3",
        "S3_PAUSE_SECONDS": "0",
        "S3_CONNECT_SECONDS": "2",
        "S3_READ_SECONDS": "7.5",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"DCGAN_{name}", value)
    fs = client(load_place().store())
    assert fs is object_store_module.S3(**load_place().s3_options)
    assert (fs.tries, fs.pause_seconds, fs.client_kwargs) == (3, 0, {"endpoint_url": "http://127.0.0.1:1"})
    config = fs._prepare_config_kwargs()
    assert (config["connect_timeout"], config["read_timeout"]) == (2, 7.5)
    assert (config["retries"]["total_max_attempts"], fs.retries) == (1, 1)
    monkeypatch.setenv("DCGAN_S3_TRIES", "0")
    with pytest.raises(ConfigError, match="DCGAN_S3_TRIES"):
        load_place()


@pytest.fixture
def photos(remote: Store, rendered_photos: Path) -> dict[str, bytes]:
    """Five photos below ``folder``, in ``photos.tar`` and in ``photos.parquet``."""
    found = {path.name: path.read_bytes() for path in sorted(rendered_photos.iterdir())[:5]}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in found.items():
            remote.write_bytes(f"folder/{name}", data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    remote.write_bytes("photos.tar", stream.getvalue())
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": list(found.values())}), stream)
    remote.write_bytes("photos.parquet", stream.getvalue())
    return found


def source_at(uri: str) -> Source:
    kind = "parquet" if uri.endswith(".parquet") else "folder"
    return open_source(ScrapeConfig(source=kind, path=uri), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder", "photos.tar", "photos.parquet"])
def test_a_source_on_the_store_gives_every_photo_whatever_fails_on_the_way(
    name: str,
    remote: Store,
    proxy: FaultyProxy,
    photos: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in (("TRIES", "4"), ("PAUSE_SECONDS", "0.001"), ("READ_SECONDS", "1")):
        monkeypatch.setenv(f"DCGAN_S3_{variable}", value)
    monkeypatch.setenv("DCGAN_S3_ENDPOINT_URL", proxy.endpoint)
    identity = source_at(remote.uri(name)).identity()
    for kind in KINDS:
        proxy.inject(*[kind, ""] * (2 if kind == "hang" else 100))
        source = source_at(remote.uri(name))
        assert source.identity() == identity
        outcomes = list(source.read(source.items()))
        assert [each.data for each in outcomes] == list(photos.values())
        assert proxy.injected[kind] > 1


def test_a_photo_that_never_comes_is_a_row_and_the_others_are_read(
    remote: Store, proxy: FaultyProxy, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGAN_S3_TRIES", "2")
    monkeypatch.setenv("DCGAN_S3_PAUSE_SECONDS", "0.001")
    monkeypatch.setenv("DCGAN_S3_ENDPOINT_URL", proxy.endpoint)
    source = source_at(remote.uri("folder"))
    items = source.items()
    bad = items[2].locator
    proxy.inject(*["SlowDown"] * 100, where=lambda request: bad in request.target)
    outcomes = list(source.read(items))
    assert [each.status for each in outcomes] == ["ok", "ok", "read_failed", "ok", "ok"]
    assert "SlowDown" in outcomes[2].reason
    assert bad in outcomes[2].reason
    assert proxy.injected == {"SlowDown": 2}
