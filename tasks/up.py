"""``make up``: Prefect server with UI, work pool, deployments and worker, in the foreground until stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

HOST = os.environ.get("DCGAN_UP_HOST", "127.0.0.1")
PORT = int(os.environ.get("DCGAN_UP_PORT", "4200"))
POOL = "dcgan"
API = f"http://{HOST}:{PORT}/api"
_START_SECONDS = 120
_STOP_SECONDS = 30
_PREFECT = [sys.executable, "-m", "prefect"]


def main() -> int:
    """Run everything in the foreground; Ctrl-C or SIGTERM stops it all, the worker first."""
    project = Path(__file__).parent.parent
    if not (project / "prefect.yaml").is_file():
        print(f"there is no prefect.yaml in {project}: run this from a checkout", file=sys.stderr)
        return 2
    if _taken():
        print(f"port {PORT} is taken: stop what listens there, or set DCGAN_UP_PORT", file=sys.stderr)
        return 2
    os.environ["PREFECT_API_URL"] = API
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", API)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # this server has only us to serve
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt_once)
    children: list[subprocess.Popen[bytes]] = []
    try:
        server = _start(["server", "start", "--host", HOST, "--port", str(PORT)], children)
        _wait_for(server)
        print(f"making the work pool {POOL} and the deployments of prefect.yaml", flush=True)
        _once(["work-pool", "create", POOL, "--type", "process", "--overwrite"], project)
        _once(["--no-prompt", "deploy", "--all"], project)
        _start(["worker", "start", "--pool", POOL, "--name", f"{POOL}-{socket.gethostname()}"], children)
        _say_ready()
        return _watch(children)
    except KeyboardInterrupt:
        print("\nstopping")
        return 0
    finally:
        for child in reversed(children):
            _stop(child)


def _start(arguments: Sequence[str], children: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    # A session of its own, so that Ctrl-C reaches this process alone and the order of stopping is ours.
    child = subprocess.Popen([*_PREFECT, *arguments], start_new_session=True)  # noqa: S603
    children.append(child)
    return child


def _once(arguments: Sequence[str], project: Path) -> None:
    done = subprocess.run([*_PREFECT, *arguments], cwd=project, capture_output=True, text=True)  # noqa: S603
    if done.returncode:  # its long report is of interest only then
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"prefect {' '.join(arguments)} failed with code {done.returncode}")


def _wait_for(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the Prefect server ended with code {server.returncode}; its message is above")
        try:
            with urllib.request.urlopen(f"{API}/health", timeout=2):  # noqa: S310
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise SystemExit(f"the Prefect server did not answer within {_START_SECONDS} s")


def _watch(children: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        for child in children:
            try:
                code = child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            print(f"a part ended with code {code}; stopping the others", file=sys.stderr)
            return code or 1


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _taken() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError:
            return True
    return False


def _interrupt_once(_signal: int, _frame: object) -> None:
    """Stop; a second signal must not interrupt the stopping and leave anybody behind."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say_ready() -> None:
    print(
        f"\nReady. UI: http://{HOST}:{PORT}   (Ctrl-C stops everything)\n"
        "In another terminal:\n"
        f"  source .venv/bin/activate; export PREFECT_API_URL={API}\n"
        "  prefect deployment run dcgan/full-pipeline -p preset=demo\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
