"""A real Prefect server and real workers for tests: started, killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from tasks import deploy

PROJECT = Path(__file__).parents[2]
START_SECONDS = 180
Found = TypeVar("Found")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what: str, look: Callable[[], Found | None], seconds: float) -> Found:
    """What ``look`` finds at last; it is asked again and again, and may fail while a server is away."""
    deadline = time.monotonic() + seconds
    seen: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (httpx.HTTPError, OSError) as error:
            seen = error
        time.sleep(0.3)  # between two looks, not for anything to happen
    raise AssertionError(f"not within {seconds} s: {what} ({seen})")


@dataclass
class Cluster:
    """A server, its workers, and what a test asks of them."""

    home: Path
    port: int = field(default_factory=free_port)
    extra: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DCGAN_ROOT": str(self.home / "root"),
            "PYTHONPATH": str(PROJECT),
            **self.extra,
        }

    def start(self, name: str, *module: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("ab")
        command = [sys.executable, "-m", *module]
        process = subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdout=log, stderr=log, start_new_session=True
        )
        self.processes.append(process)
        return process

    def start_server(self) -> None:
        self.server = self.start("server", "tasks.server", "--host", "127.0.0.1", "--port", str(self.port))
        until("the server's health", lambda: httpx.get(f"{self.api}/health").is_success, START_SECONDS)

    def start_worker(self, queue: str = "default") -> subprocess.Popen[bytes]:
        arguments = ("worker", "start", "--pool", "dcgan", "--work-queue", queue, "--install-policy", "never")
        return self.start(f"worker-{queue}", "prefect", *arguments)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As a power cut does: a process and all that it has started, at once."""
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=20)

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                self.kill(process)

    def ask(self, method: str, path: str, **json: Any) -> Any:
        answer = httpx.request(method, f"{self.api}/{path}", json=json or None, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask("GET", f"deployments/name/{name}")

    def run(self, deployment: str, **parameters: Any) -> str:
        id_ = self.deployment(deployment)["id"]
        return self.ask("POST", f"deployments/{id_}/create_flow_run", parameters=parameters)["id"]

    def flow_run(self, id_: str) -> dict[str, Any]:
        return self.ask("GET", f"flow_runs/{id_}")

    def state(self, id_: str) -> str:
        return self.flow_run(id_)["state_name"]

    def history(self, id_: str) -> list[str]:
        return [state["name"] for state in self.ask("GET", f"flow_run_states/?flow_run_id={id_}")]

    def children(self, id_: str) -> list[dict[str, Any]]:
        return self.ask("POST", "flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [id_]}})

    def until_state(self, id_: str, name: str, seconds: float) -> None:
        try:
            until(f"{name} of {id_}", lambda: self.state(id_) == name, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.history(id_)}") from None

    def deploy(self, folder: Path, *, reset: bool = False) -> str:
        """Deploy the files of a folder, as `dcgan-deploy` does there; what it said."""
        arguments = ["--reset"] if reset else []
        done = subprocess.run(
            [sys.executable, "-m", "tasks.deploy", *arguments],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def cluster(home: Path, **extra: str) -> Iterator[Cluster]:
    """A running server, with nothing on it."""
    made = Cluster(home, extra=extra)
    try:
        made.start_server()
        yield made
    finally:
        made.stop()


def files(folder: Path, windows: dict[str, int] | None = None) -> Path:
    """A copy of what is deployed, for a test to change; automations wait for other seconds where told."""
    (folder / "deploy").mkdir(parents=True)
    (folder / "prefect.yaml").write_text((PROJECT / "prefect.yaml").read_text())
    automations = yaml.safe_load((deploy.PROJECT / "deploy" / "automations.yaml").read_text())
    for each in automations:
        each["trigger"]["within"] = (windows or {}).get(each["name"], each["trigger"]["within"])
    (folder / "deploy" / "automations.yaml").write_text(yaml.safe_dump(automations))
    return folder
