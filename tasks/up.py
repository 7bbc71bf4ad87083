"""``make up``: Prefect server with UI, work pool, deployments, worker and the root's pages, until stopped.

Everything listens on this machine alone and asks for a login that is made anew for each PREFECT_HOME: whoever
may start a run may run programs, so no web page and no other user may.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import psutil

HOST = os.environ.get("DCGAN_UP_HOST", "127.0.0.1")
PORT = int(os.environ.get("DCGAN_UP_PORT", "4200"))
PAGES_PORT = int(os.environ.get("DCGAN_UP_PAGES_PORT", str(PORT + 1)))
POOL = "dcgan"
URL = f"http://{HOST}:{PORT}"
API = f"{URL}/api"
PAGES = f"http://{HOST}:{PAGES_PORT}"
_START_SECONDS = 180
_FLOWS_SECONDS = 6.0  # a training saves within it on a quiet machine; what was committed is kept in any case
_STOP_SECONDS = 3.0  # then a process is killed: after Ctrl-C all must be over within 15 s
Child = subprocess.Popen[bytes]


def main() -> int:
    """Run everything in the foreground; Ctrl-C or SIGTERM stops it all, flows first."""
    project = Path(__file__).parent.parent
    if not (project / "prefect.yaml").is_file():
        print(f"there is no prefect.yaml in {project}: run this from a checkout", file=sys.stderr)
        return 2
    for port, variable in ((PORT, "DCGAN_UP_PORT"), (PAGES_PORT, "DCGAN_UP_PAGES_PORT")):
        if _taken(port):
            print(f"port {port} is taken: stop what listens there, or set {variable}", file=sys.stderr)
            return 2
    home = _private_home()
    login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or _login(home)
    os.environ.update(
        PREFECT_API_URL=API,
        PREFECT_SERVER_API_AUTH_STRING=login,
        PREFECT_API_AUTH_STRING=login,
        PREFECT_CLI_PROMPT="false",  # else the server asks which profile to keep the address in
    )
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", API)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # this server has only us to serve
    os.environ.setdefault("DCGAN_REPORT_URL", PAGES)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt_once)
    children: list[Child] = []
    try:
        server = _start(["tasks.server", "--host", HOST, "--port", str(PORT)], children)
        _wait_for(server)
        print(f"making the work pool {POOL} and the deployments of prefect.yaml", flush=True)
        _once(["tasks.deploy"], project)
        _start(["dcgan_core.cli", "serve", "--host", HOST, "--port", str(PAGES_PORT)], children)
        worker = ["prefect", "worker", "start", "--pool", POOL, "--name", f"{POOL}-{socket.gethostname()}"]
        _start([*worker, "--install-policy", "never"], children)
        _say_ready(home, login)
        return _watch(children)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
        return 0
    finally:
        _stop_all(children)


def _private_home() -> Path:
    """Where Prefect keeps its database, for this user alone, also if it was there before."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    for file in home.glob("prefect.db*"):
        file.chmod(0o600)
    return home


def _login(home: Path) -> str:
    """The login of the server whose database is there: made once, kept for its user alone."""
    file = home / "login"
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(f"dcgan:{secrets.token_urlsafe(24)}")
    file.chmod(0o600)
    return file.read_text().strip()


def _start(module: Sequence[str], children: list[Child]) -> Child:
    # A session of its own, so that Ctrl-C reaches this process alone and the order of stopping is ours; no
    # terminal, so that nothing asks a question there or changes how it works.
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *module], start_new_session=True, stdin=subprocess.DEVNULL
    )
    children.append(child)
    return child


def _once(module: Sequence[str], project: Path) -> None:
    command = [sys.executable, "-m", *module]
    done = subprocess.run(  # noqa: S603
        command, cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"{' '.join(module)} failed with code {done.returncode}")
    # Of interest is what is not as it was: what the file has changed, and what of it an operator's keeps out.
    print("".join(line for line in done.stdout.splitlines(keepends=True) if "unchanged" not in line), end="")


def _wait_for(server: Child) -> None:
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


def _watch(children: Sequence[Child]) -> int:
    while True:
        for child in children:
            try:
                code = child.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
            print(f"a part ended with code {code}; stopping the others", file=sys.stderr)
            return code or 1


def _stop_all(children: Sequence[Child]) -> None:
    """End the flows first, so that they save and the server learns of it; then all else in turn."""
    ours = [process for child in children for process in _family(child.pid)]
    flows = [process for process in ours if _is_flow(process)]
    for process in flows:
        process.send_signal(signal.SIGTERM)
    psutil.wait_procs(flows, timeout=_FLOWS_SECONDS)
    for child in reversed(children):
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    for process in ours:
        if process.is_running():
            process.kill()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _is_flow(process: psutil.Process) -> bool:
    try:
        return "prefect.engine" in process.cmdline()
    except psutil.Error:
        return False


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _interrupt_once(_signal: int, _frame: object) -> None:
    """Stop; a second signal must not interrupt the stopping and leave anybody behind."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say_ready(home: Path, login: str) -> None:
    print(
        f"\nReady. (Ctrl-C stops everything)\n"
        f"  UI       {URL}\n"
        f"  login    {login}\n"
        f"  reports  {PAGES}\n"
        "In another terminal:\n"
        f"  source .venv/bin/activate; export PREFECT_API_URL={API}\n"
        f'  export PREFECT_API_AUTH_STRING="$(cat {home / "login"})"\n'
        "  prefect deployment run dcgan/full-pipeline -p preset=demo\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
