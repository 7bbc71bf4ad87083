"""Files are written whole or not at all, on disk and on object stores, and an unusable root is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path

import pytest

from dcgan_core.errors import ConfigError, StorageError, StorageUnusable
from dcgan_core.place import load_place
from dcgan_core.storage import Store, open_location
from tests.core.mounts import mounted


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same tests hold for local disk and for an object store (here fsspec's, in memory)."""
    root = f"memory://{uuid.uuid4().hex}/root" if request.param == "memory" else str(tmp_path / "root")
    return Store(root)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read_again_whole_and_in_parts(any_store: Store) -> None:
    any_store.write_bytes("a/b/file", b"0123456789")
    assert any_store.read_bytes("a/b/file") == b"0123456789"
    assert any_store.read_range("a/b/file", 3, 6) == b"345"
    any_store.write_bytes("a/b/file", b"new")
    assert any_store.read_bytes("a/b/file") == b"new"


def test_what_is_not_there_is_a_missing_file_and_an_empty_listing(any_store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        any_store.read_bytes("a/file")
    assert not any_store.exists("a/file")
    assert any_store.names("a") == []
    any_store.delete("a")
    any_store.delete("a/file")


def test_names_are_those_directly_below(any_store: Store) -> None:
    for path in ("a/c", "a/b", "a/d/e", "f"):
        any_store.write_bytes(path, b"x")
    assert any_store.names("a") == ["b", "c", "d"]
    assert any_store.exists("a/d/e")


def test_a_whole_folder_is_deleted(any_store: Store) -> None:
    for path in ("a/b/c", "a/b/d", "a/e"):
        any_store.write_bytes(path, b"x")
    any_store.delete("a/b")
    assert any_store.names("a") == ["e"]
    assert not any_store.exists("a/b/c")


def test_a_copy_has_the_same_bytes_and_outlives_the_original(any_store: Store) -> None:
    any_store.write_bytes("a/old", b"content")
    any_store.copy("a/old", "b/new")
    any_store.copy("a/old", "b/new")
    any_store.delete("a")
    assert any_store.read_bytes("b/new") == b"content"
    with pytest.raises(FileNotFoundError):
        any_store.copy("a/old", "b/other")
    assert not any_store.exists("b/other")


def test_a_block_that_ends_well_leaves_the_whole_file(any_store: Store) -> None:
    with any_store.writing("a/file") as path:
        path.write_bytes(b"whole")
        assert not any_store.exists("a/file")
    assert any_store.read_bytes("a/file") == b"whole"


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(any_store: Store) -> None:
    any_store.write_bytes("a/file", b"old")
    with pytest.raises(RuntimeError, match="on purpose"), any_store.writing("a/file") as path:
        path.write_bytes(b"half")
        raise RuntimeError("on purpose")
    assert any_store.read_bytes("a/file") == b"old"
    assert any_store.names("tmp") == []


def test_being_writable_is_found_out_without_leaving_a_trace(any_store: Store) -> None:
    any_store.check_writable()
    assert any_store.names("tmp") == []


def test_a_store_crosses_process_borders(any_store: Store) -> None:
    assert sent_and_received(any_store) == any_store


def test_a_local_copy_is_a_hard_link(store: Store) -> None:
    store.write_bytes("a/old", b"content")
    store.copy("a/old", "b/new")
    assert store.local_path("a/old").samefile(store.local_path("b/new"))
    store.write_bytes("a/old", b"other")
    assert store.read_bytes("b/new") == b"content"


def test_a_killed_writer_leaves_only_rubbish_that_a_sweep_removes(store: Store) -> None:
    store.write_bytes("a/file", b"old")
    script = """
        import os, signal, sys
        from dcgan_core.storage import Store
        with Store(sys.argv[1]).writing("a/file") as path:
            path.write_bytes(b"half of the new")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), store.root], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert store.read_bytes("a/file") == b"old"
    assert store.names("a") == ["file"]
    assert len(store.names("tmp")) == 1
    assert store.sweep() == len(b"half of the new")
    assert files_below(Path(store.root)) == ["a/file"]


def test_a_full_disk_is_named_with_what_to_do_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "small", "size=64k"):
        store = Store(str(tmp_path / "small" / "root"))
        store.write_bytes("a/first", b"x" * 1000)
        with pytest.raises(StorageUnusable, match="the disk is full") as caught:
            store.write_bytes("a/second", b"x" * 200_000)
        assert caught.value.path == f"{store.root}/a/second"
        assert "dcgan gc" in str(caught.value)
        with pytest.raises(StorageUnusable, match="full"), store.writing("a/third") as path:
            path.write_bytes(b"x" * 200_000)
        assert files_below(Path(store.root)) == ["a/first"]
        store.write_bytes("a/second", b"x" * 1000)


def test_a_read_only_root_is_named_with_what_to_do(tmp_path: Path) -> None:
    with read_only(tmp_path / "fixed") as folder:
        for root in (folder, folder / "deeper" / "root"):
            with pytest.raises(StorageUnusable, match="DCGAN_ROOT") as caught:
                Store(str(root)).check_writable()
            assert str(root) in str(caught.value)


def test_a_root_that_is_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(StorageUnusable, match="Set DCGAN_ROOT to a directory"):
        Store(str(file)).check_writable()


def test_errors_that_may_pass_are_told_from_those_that_will_not(store: Store) -> None:
    store.write_bytes("a/file", b"x")
    with pytest.raises(StorageError):
        store.read_bytes("a")


def test_an_unknown_kind_of_root_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match="DCGAN_ROOT"):
        Store("nosuch://bucket/root").names("a")


@pytest.mark.parametrize("location", ["/no/such/place", "nosuch://bucket/x", "memory://nothing/here"])
def test_a_location_that_cannot_be_opened_is_named(location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_location(location, "scrape.path")
    assert location in str(caught.value)
    assert "scrape.path" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("/data/runs", "/data/runs"),
        ("file:///data/runs", "/data/runs"),
        ("~/runs", str(Path.home() / "runs")),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ],
)
def test_the_root_does_not_move_with_the_working_directory(
    given: str, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGAN_ROOT", given)
    assert load_place().store().root == root
    monkeypatch.setenv("DCGAN_ROOT", "runs")
    assert load_place().root == str(Path.cwd() / "runs")


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGAN_SLOTS", "-1")
    with pytest.raises(ConfigError, match="DCGAN_SLOTS"):
        load_place()


def test_every_error_says_its_sentence_after_crossing_process_borders() -> None:
    error = StorageUnusable("/root/file", "the disk is full", "Free space")
    again = sent_and_received(error)
    assert isinstance(again, StorageUnusable)
    assert (str(again), again.path) == (str(error), "/root/file")


def sent_and_received(value: object) -> object:
    """What arrives at the other end of a pipe between processes."""
    here, there = Pipe()
    here.send(value)
    return there.recv()


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A directory nothing can be written to: by its permissions, or for root by a read-only mount."""
    if os.geteuid() == 0:
        with mounted("tmpfs", folder, "ro,size=64k"):
            yield folder
    else:
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)
