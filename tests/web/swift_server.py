"""OpenStack Swift with its S3 API, all on loopback: one process tree under one folder, for tests.

``python swift_server.py FOLDER``, by a Python that has the package swift. It prints one JSON line when it
serves. The servers die with this process, and this process with the one that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

KEY, SECRET = "test:tester", "testing"
STORAGE = ("account", "container", "object")
FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "proxy_logging",
    "listing_formats",
    "s3api",
    "tempauth",
    "copy",
    "slo",
    "dlo",
    "versioned_writes",
    "symlink",
)
PAGE = 50
"""Most keys in one answer to a listing (1000 elsewhere), so that tests of several pages are quick."""
FILTER_OPTIONS = {
    "s3api": f"location = us-east-1\nmulti_delete_concurrency = 4\nmax_bucket_listing = {PAGE}\n",
    "tempauth": f"user_{KEY.replace(':', '_')} = {SECRET} .admin\n",
    "versioned_writes": "allow_object_versioning = true\n",
}
SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = prefix
swift_hash_path_suffix = suffix
[storage-policy:0]
name = Policy-0
default = yes
policy_type = replication
"""
DEFAULT = """\
[DEFAULT]
swift_dir = {folder}
devices = {folder}/srv
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
log_address = {folder}/no-syslog
recon_cache_path = {folder}/recon
conn_timeout = 10
node_timeout = 60
"""


def main(folder: Path) -> NoReturn:
    die_with(os.getppid())
    for name in ("srv/d1", "recon", "log"):
        (folder / name).mkdir(parents=True)
    ports = free_ports((*STORAGE, "proxy"))
    write_settings(folder, ports)
    write_rings(folder, ports)
    # Before forking, or each process would import them by itself.
    import swift.account.server  # pyright: ignore[reportMissingImports]
    import swift.container.server  # pyright: ignore[reportMissingImports]
    import swift.obj.server  # pyright: ignore[reportMissingImports]
    import swift.proxy.server  # noqa: F401  # pyright: ignore[reportMissingImports]

    children = {start(folder, name): name for name in ports}
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: os._exit(0))  # the servers die with it
    for port in ports.values():
        wait_for(port, children, folder)
    endpoint = f"http://127.0.0.1:{ports['proxy']}"
    print(json.dumps({"endpoint": endpoint, "key": KEY, "secret": SECRET}), flush=True)
    ended, _ = os.wait()
    sys.exit(f"the {children[ended]} server ended; see {folder}/log")


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that is."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    sockets = {name: socket.socket() for name in names}
    for each in sockets.values():  # all at once, so that no two are the same
        each.bind(("127.0.0.1", 0))
    ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return ports


def write_settings(folder: Path, ports: dict[str, int]) -> None:
    facts: dict[str, Any] = {"folder": folder, "user": pwd.getpwuid(os.getuid()).pw_name}
    (folder / "swift.conf").write_text(SWIFT_CONF)
    for name in STORAGE:
        text = DEFAULT.format(port=ports[name], **facts)
        text += f"[pipeline:main]\npipeline = healthcheck {name}-server\n"
        text += f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        text += "[filter:healthcheck]\nuse = egg:swift#healthcheck\n"
        (folder / f"{name}-server.conf").write_text(text)
    text = DEFAULT.format(port=ports["proxy"], **facts)
    text += f"[pipeline:main]\npipeline = {' '.join(FILTERS)} proxy-server\n"
    text += "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nnode_timeout = 60\n"
    for name in FILTERS:
        text += f"[filter:{name}]\nuse = egg:swift#{name}\n{FILTER_OPTIONS.get(name, '')}"
    (folder / "proxy-server.conf").write_text(text)


def write_rings(folder: Path, ports: dict[str, int]) -> None:
    from swift.common.ring import RingBuilder  # pyright: ignore[reportMissingImports]

    for name in STORAGE:
        builder = RingBuilder(4, 1, 0)  # 16 partitions, one replica
        at = {"ip": "127.0.0.1", "port": ports[name]}
        at |= {"replication_ip": at["ip"], "replication_port": at["port"]}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": "", **at})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def start(folder: Path, name: str) -> int:
    from swift.common.wsgi import run_wsgi  # pyright: ignore[reportMissingImports]

    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    die_with(parent)
    log = os.open(folder / "log" / f"{name}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        status = run_wsgi(str(folder / f"{name}-server.conf"), f"{name}-server")
    finally:
        os._exit(status)


def wait_for(port: int, children: dict[int, str], folder: Path) -> None:
    while True:
        ended, _ = os.waitpid(-1, os.WNOHANG)
        if ended:
            log = (folder / "log" / f"{children[ended]}.log").read_text()[-3000:]
            sys.exit(f"the {children[ended]} server did not start:\n{log}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return
        except OSError:
            select.select([], [], [], 0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
