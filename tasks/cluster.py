"""The Ray cluster of a run: one that is there, or an embedded one that ends with the process."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import threading
from functools import cache
from typing import Any

import psutil

from dcgan_core.errors import ClusterError
from dcgan_core.place import Place, processors

_starting = threading.Lock()
_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.2
_EMBEDDED_OBJECT_STORE_BYTES = 256 * 2**20  # parts travel through the root, not through Ray


def connect(place: Place) -> Any:
    """The ``ray`` module, connected; embedded where no address is set. ClusterError if that fails.

    An embedded Ray listens on loopback alone and asks every client for a token that only this process and
    its workers know. Signals reach the handlers of this process at any time, also while Ray starts.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without GPUs may still see them
    if not place.ray_address:
        os.environ.update(_closed_to_others())
    import ray  # heavy: only when there is work

    with _starting:
        if not ray.is_initialized():
            _Start(ray, place).wait()
            _own_sigterm()
    return ray


def _own_sigterm() -> None:
    """Put this process's handler of SIGTERM back: Ray's core replaces it below Python, and would just end."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@cache
def _closed_to_others() -> dict[str, str]:
    """Ray's own variables that keep it on this machine, and behind a token that is new in each process.

    Set here, they outweigh what the user has set and a token in ``~/.ray``, which are for clusters.
    """
    addresses = psutil.net_if_addrs().items()
    loopback = next((name for name, each in addresses if any(one.address == _LOOPBACK for one in each)), "lo")
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what binds Ray to loopback, not only on those
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "GLOO_SOCKET_IFNAME": loopback,  # else they take the interface of the host's name
        "NCCL_SOCKET_IFNAME": loopback,
    }


class _Start:
    """Ray's start in a thread of its own, so that the main thread can heed signals all the while.

    SIGTERM is left to whoever handles it here (Prefect): Ray installs a handler only in the main thread, and
    would kill its workers first. Prefect sends it to the whole process group, so an embedded Ray's processes
    are born deaf to it: they inherit that it is blocked in that thread. They end with the thread they were
    started from all the same, so it lives as long as this process does.
    """

    def __init__(self, ray: Any, place: Place) -> None:
        self._ray, self._place = ray, place
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def wait(self) -> None:
        """Start Ray; returns when it is there. Raises ClusterError, and what a signal's handler raises."""
        threading.Thread(target=self._live, name="ray-start", daemon=True).start()
        while not self._ended.wait(_POLL_SECONDS):
            continue
        if self._failure is not None:
            raise self._failure

    def _live(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if not self._place.ray_address else set())
        try:
            self._init()
        except BaseException as error:
            self._failure = error
        self._ended.set()
        if self._failure is None:
            threading.Event().wait()

    def _init(self) -> None:
        ray, place = self._ray, self._place
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if place.ray_address:
                ray.init(address=place.ray_address, **quiet)
                return
            # Again, for those who imported Ray before: it reads these once.
            ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
            if ray._raylet.get_authentication_mode() != ray._raylet.AuthenticationMode.TOKEN:
                ray._raylet.Config.initialize("")
            ray.init(
                address="local",  # never one that RAY_ADDRESS names
                num_cpus=place.slots or processors(),
                include_dashboard=False,
                object_store_memory=_EMBEDDED_OBJECT_STORE_BYTES,
                **quiet,
            )
        except Exception as error:  # Ray raises bare ones where a process of its own is late
            where = place.ray_address or "embedded"
            raise ClusterError(
                f"cannot reach Ray ({where}): {error}; check DCGAN_RAY_ADDRESS, or leave it empty for "
                "an embedded Ray"
            ) from error


def processors_per_worker(ray: Any, workers: int) -> int:
    """An equal share of the cluster's processors for each worker that every node it needs can give."""
    nodes = sorted((int(node.get("CPU", 0)) for node in _nodes(ray)), reverse=True)
    share = max(1, sum(nodes) // workers)
    while share > 1 and sum(node // share for node in nodes) < workers:
        share -= 1
    return share


def machine_share(ray: Any, *, gpus: int) -> tuple[int, int]:
    """(processors, GPUs) of a part that takes a whole machine, so that no two of them share one.

    Where there are GPUs and they are wanted (``DCGAN_GPUS`` is not 0), one of them, with its share of its
    machine's processors, and so too where one is asked for that has not come yet; else all processors of the
    largest machine, so smaller ones get none of these parts.
    """
    nodes = _nodes(ray)
    with_gpus = [each for each in nodes if gpus and each.get("GPU", 0) >= 1]
    if with_gpus:
        return max(1, min(int(each.get("CPU", 0) // each["GPU"]) for each in with_gpus)), 1
    if gpus > 0:
        return 1, 1
    return max([1, *(int(each.get("CPU", 0)) for each in nodes)]), 0


def holds(ray: Any, workers: int, *, gpus: int = 0) -> bool:
    """Whether the nodes that are up can hold so many workers of a processor, and so many GPUs, each."""
    places = (
        min(node.get("CPU", 0) // 1, node.get("GPU", 0) // gpus if gpus else math.inf) for node in _nodes(ray)
    )
    return sum(places) >= workers


def in_words(ray: Any) -> str:
    """What the cluster has, as the end of a sentence."""
    nodes = _nodes(ray)
    cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    return f"Ray has {cpus} processors and {gpus or 'no'} GPUs on {len(nodes)} nodes"


def is_queued(ray: Any) -> bool:
    """Whether somebody's group of workers waits for room: what there is may be in use."""
    from ray.util import placement_group_table

    return any(each["state"] in ("PENDING", "RESCHEDULING") for each in placement_group_table().values())


def _nodes(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cluster_processors(ray: Any) -> int:
    """Processors of the whole cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
