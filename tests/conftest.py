"""What tests share: a store, real photos, a pipeline of seconds, and the folder of larger test data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before anything reads them: no telemetry, and one thread, which is quickest for nets this small.
os.environ.update(
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dcgan_core.artifacts import SCHEMA, Address, Manifest, Receipt
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import Artifact, run
from dcgan_core.storage import Patience, Store

settings.register_profile("dcgan", deadline=None)  # a busy machine is no failure
settings.load_profile("dcgan")

PHOTO_SEED = 7
FIRST_CHANGE_SECONDS = 1_700_000_000
"""Photos are given times of change a second apart, so that their order and identity are always the same."""


_WITH_SERVERS = ("tests/ray/", "tests/flows/", "tests/e2e/", "tests/test_deploy.py")
"""What starts Ray or a Prefect server: one after the other, as each takes the machine for its own."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes test (``-n``), a file's tests stay together, and so do those with servers."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "servers" if nodeid.startswith(_WITH_SERVERS) else nodeid.partition("::")[0]

    return Together(config, log)


@dataclass(frozen=True)
class Tiny:
    """A configuration whose whole pipeline takes seconds: 20 photos, nets that draw 16 px."""

    photos: Path
    overrides: dict[str, Any]
    preset: str = "faces64"

    def changed(self, **overrides: Any) -> dict[str, Any]:
        """The overrides with some of them changed; a key's dot is written as two underscores."""
        return self.overrides | {key.replace("__", "."): value for key, value in overrides.items()}


SWIFT_PYTHON = os.environ.get(
    "DCGAN_TEST_SWIFT", str(Path(__file__).parents[1] / ".venv-swift" / "bin" / "python")
)
"""The Python that has the package swift; ``make test`` makes it. Read before tests forget such variables."""


@dataclass(frozen=True)
class ObjectStore:
    """A real server with an S3 API, on loopback."""

    endpoint: str
    key: str
    secret: str

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def store(self, bucket: str, prefix: str = "root", endpoint: str = "", **patience: Any) -> Store:
        """A store in a bucket, which is made where it is not there; impatient unless told otherwise."""
        whole = f"s3://{bucket}/{prefix}"
        direct = Store(whole, (("endpoint_url", self.endpoint),)).filesystem()
        if not direct.exists(bucket):
            direct.mkdir(bucket)
        patience = {"tries": 8, "pause_seconds": 0.001, "connect_seconds": 5, "read_seconds": 20, **patience}
        return Store(whole, (("endpoint_url", endpoint or self.endpoint),), Patience(**patience))


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """OpenStack Swift with its S3 API, for the session; skipped where it is not installed."""
    pytest.importorskip("s3fs")
    folder = tmp_path_factory.mktemp("swift")
    script = Path(__file__).parent / "web" / "swift_server.py"
    if not Path(SWIFT_PYTHON).exists() or subprocess.run([SWIFT_PYTHON, "-c", "import swift"]).returncode:
        pytest.skip(f"there is no Swift to test with: {SWIFT_PYTHON} cannot import it (make .venv-swift)")
    try:
        os.setxattr(folder, "user.test", b"")
    except OSError as error:
        pytest.skip(f"Swift needs extended attributes on temporary files: {error}")
    with subprocess.Popen([SWIFT_PYTHON, script, folder / "data"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield ObjectStore(**json.loads(server.stdout.readline()))
        finally:
            server.terminate()


@pytest.fixture
def object_store(swift_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server, with its credentials and nobody else's in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ACCESS_KEY_ID": swift_server.key,
        "AWS_SECRET_ACCESS_KEY": swift_server.secret,
        "AWS_ENDPOINT_URL": swift_server.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return swift_server


@pytest.fixture(autouse=True)
def _no_place_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DCGAN_") and name != "DCGAN_TEST_DATA":
            monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of larger real data; the test is skipped where there is none."""
    folder = os.environ.get("DCGAN_TEST_DATA")
    if not folder:
        pytest.skip("DCGAN_TEST_DATA is not set: it names the folder of the larger test data")
    return Path(folder)


@pytest.fixture(scope="session")
def rendered_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photos with a face, near duplicates of four, three without a face, one cut off. Read only."""
    pytest.importorskip("skimage", reason="the photos are made from the LFW subset of scikit-image")
    return render_photos(tmp_path_factory.mktemp("photos"))


def render_photos(folder: Path) -> Path:
    """Write the photos of ``rendered_photos`` into a folder that is there."""
    from dcgan_core.scrape.demo import DemoPhoto, render

    chosen = [DemoPhoto(f"face-{subject:02d}", "face", subject, "original") for subject in range(12)]
    chosen += [
        DemoPhoto(f"again-{subject:02d}", "face", subject, variant)
        for subject, variant in enumerate(("quality", "scale", "brightness", "quality"))
    ]
    chosen += [DemoPhoto(f"scene-{subject:02d}", "no_face", subject, "original") for subject in range(3)]
    chosen.append(DemoPhoto("broken-00", "broken", 3, "truncated"))
    for number, photo in enumerate(chosen):
        path = folder / f"{photo.name}.jpg"
        path.write_bytes(render(photo, PHOTO_SEED))
        set_changed(path, number)
    return folder


@pytest.fixture
def faces_folder(rendered_photos: Path, tmp_path: Path) -> Path:
    """A copy of the photos for one test to change."""
    folder = tmp_path / "photos"
    shutil.copytree(rendered_photos, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(rendered_photos: Path) -> Tiny:
    """The tiny configuration over the shared photos."""
    return tiny_over(rendered_photos)


@pytest.fixture
def own_tiny(faces_folder: Path) -> Tiny:
    """The tiny configuration over photos that the test may change."""
    return tiny_over(faces_folder)


@pytest.fixture(scope="session")
def finished_root(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds everything the tiny pipeline makes. Read only: see ``finished_store``."""
    root = tmp_path_factory.mktemp("finished") / "root"
    make_all(tiny, Store(str(root)))
    return root


@pytest.fixture
def finished_store(finished_root: Path, tmp_path: Path) -> Store:
    """A copy of the finished root for one test to change."""
    root = tmp_path / "finished"
    shutil.copytree(finished_root, root)
    return Store(str(root))


def bare_manifest(
    address: Address, receipts: Sequence[Receipt], counts: dict[str, int] | None = None
) -> Manifest:
    """The manifest of an artifact that a test lays out by hand: its files, nothing of where it is from."""
    return Manifest(
        schema_version=SCHEMA,
        artifact=address.artifact,
        fingerprint=address.fingerprint,
        version=1,
        config={},
        source={},
        seed=0,
        inputs={},
        predecessor=None,
        parts=tuple(receipts),
        counts=counts or {},
        metrics={},
        provenance={"finished": "2026-01-01T00:00:00+00:00"},
    )


def set_changed(path: Path, number: int) -> None:
    """Give a file the ``number``-th time of change."""
    os.utime(path, (FIRST_CHANGE_SECONDS + number, FIRST_CHANGE_SECONDS + number))


def tiny_over(photos: Path) -> Tiny:
    return Tiny(
        photos,
        {
            "scrape.path": str(photos),
            "scrape.items_per_part": 4,
            "crop.stored_size": 32,
            "dedup.min_steps": 30,
            "dedup.epochs": 1,
            "dedup.radius": 20,
            "shard.size": 16,
            "shard.samples_per_shard": 5,
            "train.size": 16,
            "train.width": 8,
            "train.steps": 8,
            "train.batch_size": 8,
            "train.checkpoint_every": 2,
            "train.sample_every": 4,
            "train.log_every": 2,
            "evaluate.sets": ["digits"],
            "evaluate.svm_c": [1e-3, 1e-2],
            "evaluate.max_train": 100,
            "evaluate.max_test": 60,
            "evaluate.quality_samples": 100,
            "analyze.grid": 9,
            "analyze.walk_points": 3,
            "analyze.walk_steps": 3,
            "analyze.neighbours": 2,
            "analyze.nearest": 2,
        },
    )


def make_all(tiny: Tiny, store: Store, overrides: dict[str, Any] | None = None) -> dict[str, Artifact]:
    """Run the whole pipeline here, in this process; what came of each stage, by artifact."""
    stages = load_pipeline(tiny.preset, overrides or tiny.overrides, store=store).stages
    return {stage.artifact: run(stage, store, LocalBackend(1)) for stage in stages}
