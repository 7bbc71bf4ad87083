"""The Ray cluster of a run: one that is there, or an embedded one that ends with the process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dcgan_core.errors import ClusterError
from dcgan_core.place import Place, processors

_starting = threading.Lock()
_EMBEDDED_OBJECT_STORE_BYTES = 256 * 2**20  # parts travel through the root, not through Ray


def connect(place: Place) -> Any:
    """The ``ray`` module, connected; embedded where no address is set. ClusterError if that fails."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without GPUs may still see them
    import ray  # heavy: only when there is work

    with _starting, _own_sigterm(embedded=not place.ray_address):
        if ray.is_initialized():
            return ray
        try:
            if place.ray_address:
                ray.init(address=place.ray_address, logging_level=logging.WARNING, log_to_driver=False)
            else:
                ray.init(
                    num_cpus=place.slots or processors(),
                    include_dashboard=False,
                    object_store_memory=_EMBEDDED_OBJECT_STORE_BYTES,
                    logging_level=logging.WARNING,
                    log_to_driver=False,
                )
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            where = place.ray_address or "embedded"
            raise ClusterError(
                f"cannot reach Ray ({where}): {error}; check DCGAN_RAY_ADDRESS, or leave it empty for "
                "an embedded Ray"
            ) from error
    return ray


@contextmanager
def _own_sigterm(*, embedded: bool) -> Iterator[None]:
    """Leave SIGTERM to whoever handles it here (Prefect): Ray would kill its workers first.

    Prefect sends it to the whole process group, so an embedded Ray's processes are born deaf to it: they
    inherit that it is blocked. They end with this process all the same.
    """
    before = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if embedded else set())
    try:
        yield
    finally:
        here = threading.current_thread() is threading.main_thread()
        if here and callable(before):
            signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def processors_per_worker(ray: Any, workers: int) -> int:
    """An equal share of the cluster's processors for each worker that every node it needs can give."""
    nodes = sorted(
        (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), reverse=True
    )
    share = max(1, sum(nodes) // workers)
    while share > 1 and sum(node // share for node in nodes) < workers:
        share -= 1
    return share


def machine_share(ray: Any, *, gpus: bool) -> tuple[int, int]:
    """(processors, GPUs) of a part that takes a whole machine, so that no two of them share one.

    Where there are GPUs and they are wanted, one of them, with its share of its machine's processors; else
    all processors of the largest machine, so smaller ones get none of these parts.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [each for each in nodes if gpus and each.get("GPU", 0) >= 1]
    if with_gpus:
        return max(1, min(int(each.get("CPU", 0) // each["GPU"]) for each in with_gpus)), 1
    return max([1, *(int(each.get("CPU", 0)) for each in nodes)]), 0


def cluster_processors(ray: Any) -> int:
    """Processors of the whole cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
