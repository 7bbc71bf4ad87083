"""The whole pipeline with its root and its photos on a real S3 server, also one that often fails."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from dcgan_core.artifacts import Manifest, all_manifests
from dcgan_core.storage import Store
from dcgan_core.verify import problems
from tests.conftest import ObjectStore, Tiny, make_all, tiny_over
from tests.web.faulty_proxy import KINDS, FaultyProxy, evenly

pytestmark = pytest.mark.slow
BUCKET = "pipeline"
FAULTS_IN_100 = {"500": 3, "SlowDown": 3, "reset": 3, "reset_midway": 3, "truncated": 3, "hang": 1}


@pytest.fixture
def photos(object_store: ObjectStore, rendered_photos: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tiny pipeline's photos lie on the server."""
    monkeypatch.setenv("DCGAN_S3_ENDPOINT_URL", object_store.endpoint)
    store = object_store.store(BUCKET, f"photos-{uuid.uuid4().hex}")
    for path in sorted(rendered_photos.iterdir()):
        store.write_bytes(path.name, path.read_bytes())
    return store.root


@pytest.fixture
def tiny_on_s3(photos: str, rendered_photos: Path) -> Tiny:
    tiny = tiny_over(rendered_photos)
    return Tiny(rendered_photos, tiny.changed(scrape__path=photos, shard__samples_per_task=5))


def contents(store: Store) -> dict[str, str]:
    """Hashes of the data of every artifact, all of whose files are what their records say."""
    manifests = all_manifests(store)
    assert [wrong for manifest in manifests for _, wrong in problems(store, manifest) if wrong] == []
    return {str(manifest.address): manifest.content for manifest in manifests}


def test_the_pipeline_makes_the_same_bytes_on_disk_on_s3_and_on_s3_that_fails(
    tiny_on_s3: Tiny, object_store: ObjectStore, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_all(tiny_on_s3, store)
    expected = contents(store)
    assert len(expected) == len(made) > 10

    well = object_store.store(BUCKET, f"well-{uuid.uuid4().hex}/root")
    make_all(tiny_on_s3, well)
    assert contents(well) == expected

    with FaultyProxy(object_store.port, evenly(FAULTS_IN_100, 100, seed=3)) as proxy:
        monkeypatch.setenv("DCGAN_S3_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("DCGAN_S3_PAUSE_SECONDS", "0.001")
        monkeypatch.setenv("DCGAN_S3_READ_SECONDS", "1.5")
        ill = object_store.store(BUCKET, f"ill-{uuid.uuid4().hex}/root", proxy.endpoint, read_seconds=1.5)
        ill = replace(ill, cache=str(tmp_path / "cache"), cache_bytes=10**8)
        make_all(tiny_on_s3, ill)
        assert len(list((tmp_path / "cache").glob("?" * 64))) > 1  # training read whole shards through it
        assert min(proxy.injected[kind] for kind in KINDS) > 0
        assert contents(ill) == expected
        again = make_all(tiny_on_s3, ill)
        assert all(artifact.cached for artifact in again.values())
    assert unfinished_uploads(well) == []


def unfinished_uploads(store: Store) -> list[str]:
    return store.filesystem().list_multipart_uploads(BUCKET)  # type: ignore[attr-defined]


def test_the_command_line_takes_its_store_from_the_environment(
    tiny_on_s3: Tiny, object_store: ObjectStore, tmp_path: Path
) -> None:
    root = object_store.store(BUCKET, f"cli-{uuid.uuid4().hex}/root")
    overrides = {
        key: value for key, value in tiny_on_s3.overrides.items() if key.split(".")[0] in ("scrape", "crop")
    }
    words = [word for key, value in overrides.items() for word in ("-o", f"{key}={value}")]
    with FaultyProxy(
        object_store.port, evenly({"500": 10, "reset": 5, "truncated": 5}, 100, seed=1)
    ) as proxy:
        variables = os.environ | {
            "DCGAN_ROOT": root.root,
            "DCGAN_S3_ENDPOINT_URL": proxy.endpoint,
            "DCGAN_S3_PAUSE_SECONDS": "0.001",
        }
        for flow in ("scrape", "crop"):
            ended = subprocess.run(
                [sys.executable, "-m", "dcgan_core", "run", flow, "--preset", tiny_on_s3.preset, *words],
                env=variables,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
        assert proxy.injected.keys() == {"500", "reset", "truncated"}
    made: dict[str, Manifest] = {manifest.artifact: manifest for manifest in all_manifests(root)}
    assert {"photos", "crops"} <= made.keys()
    assert made["photos"].counts["ok"] == len(list(tiny_on_s3.photos.iterdir()))
    assert list(tmp_path.iterdir()) == []
