"""An embedded Ray is closed to other machines and to other users, and its start heeds signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RANKS = """
import ray, torch, torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from dcgan_core.place import Place
from tasks.cluster import connect
from tasks.stopping import StoppableTorch

ray = connect(Place(slots=2))
print("cluster", ray.get_runtime_context().gcs_address, flush=True)

def rank(config):
    total = torch.ones(1)
    dist.all_reduce(total)
    open(f"{config['folder']}/met-{ray.train.get_context().get_world_rank()}-{int(total)}", "w").close()
    own = f"go-{ray.train.get_context().get_world_rank()}"
    open(f"{config['folder']}/{own}").read()  # until the test has looked

TorchTrainer(
    rank,
    train_loop_config={"folder": "FOLDER"},
    torch_config=StoppableTorch(backend="gloo", on_this_machine=True),
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path="FOLDER/ray"),
).fit()
print("ended", flush=True)
"""
TOKEN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
CLIENT = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with an embedded Ray and two ranks, of a user who has a token for some cluster."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("c" * 64)
    for rank in range(2):
        os.mkfifo(tmp_path / f"go-{rank}")
    process = subprocess.Popen(
        [sys.executable, "-c", RANKS.replace("FOLDER", str(tmp_path))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "RAY_TRAIN_V2_ENABLED": "1"},
    )
    yield process
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    assert not psutil.wait_procs(children, timeout=60)[1]  # an embedded Ray ends with its process


@pytest.mark.timeout(300)
def test_nobody_else_reaches_an_embedded_ray_nor_its_ranks(
    driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert driver.stdout
    address = next(line.split()[1] for line in driver.stdout if line.startswith("cluster"))
    until(lambda: len(list(tmp_path.glob("met-*-2"))) == 2, seconds=200)

    family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    listening = [
        (process.name(), each.laddr.ip)
        for process in family
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {ip.removeprefix("::ffff:") for _, ip in listening} <= {"127.0.0.1", "::1"}

    tokens = {"disabled": "", "token": "b" * 64}
    for mode, token in tokens.items():
        asked = ask(address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=token)
        assert asked.returncode != 0
        assert "token is missing or incorrect" in asked.stderr
    own = ask(address, **{name: psutil.Process(family[-1].pid).environ()[name] for name in TOKEN})
    assert own.returncode == 0, own.stderr

    for rank in range(2):
        (tmp_path / f"go-{rank}").write_text("go")
    assert "ended" in driver.stdout.read()


def ask(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_while_ray_starts_and_nothing_of_it_stays(number: signal.Signals) -> None:
    starting = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from dcgan_core.place import Place; from tasks.cluster import connect; "
            "connect(Place(slots=1)); print('started', flush=True)",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    ours = psutil.Process(starting.pid)
    # The first of Ray's processes, from the moment on when it would not outlive this one.
    until(lambda: any("gcs_server" in each.name() for each in ours.children()), seconds=100)
    children = ours.children(recursive=True)
    starting.send_signal(number)
    said, _ = starting.communicate(timeout=15)
    assert starting.returncode in (-number, 1, 130)
    assert "started" not in said
    assert not psutil.wait_procs(children, timeout=15)[1]


def until(holds: Callable[[], bool], *, seconds: float) -> None:
    """Wait for something of another process; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
