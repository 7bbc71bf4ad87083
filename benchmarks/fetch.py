"""Fetching a list of urls from a loopback server: images a CPU-second, throughput beside img2dataset, memory.

python -m benchmarks.fetch [--peer PYTHON] [--urls 6000] [--windows 3] [--memory] [--ray]

Everything is switched on: robots.txt, pinned addresses, turnstiles, journal, sha256, type and header checks,
parquet parts on disk. ``--peer`` is the python of a virtual environment with img2dataset, which is given the
same list and server: no resizing, no re-encoding, sha256 of each image, tars. Each window runs both, in
turns, each in a process of its own; a window's value is images a second of wall time. CPU-seconds are the
fetching processes' own, the server's are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import print_result
from benchmarks.photo_server import ADDRESSES, photo_server

BYTES = 107_000

_PEER = """
import json, resource, sys, time
from img2dataset import download
if __name__ == "__main__":
    urls, to, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    began = time.perf_counter()
    download(url_list=urls, input_format="txt", output_folder=to, output_format="webdataset",
             processes_count=workers, thread_count=32, resize_mode="no", disable_all_reencoding=True,
             compute_hash="sha256", number_sample_per_shard=1000, retries=0, timeout=20,
             incremental_mode="incremental", enable_wandb=False, user_agent_token=None)
    wall = time.perf_counter() - began
    cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"wall": wall, "cpu": cpu}))
"""


def write_list(path: Path, port: int, count: int, hosts: int) -> None:
    """Distinct urls, in turn of several loopback addresses: hosts to us, one machine to the system."""
    lines = (f"http://127.0.0.{1 + n % hosts}:{port}/photo-{n}.jpg\n" for n in range(count))
    path.write_text("".join(lines))


def ours(urls: Path, root: str, workers: int, on_ray: bool) -> dict[str, Any]:
    """One run of the stages `candidates` and `photos` in this process (and its workers)."""
    from dcgan_core.artifacts import read_manifest
    from dcgan_core.backend import LocalBackend
    from dcgan_core.pipeline import load_pipeline
    from dcgan_core.place import Place
    from dcgan_core.stage import run
    from dcgan_core.storage import Store

    overrides = {
        "scrape.source": "urls",
        "scrape.path": str(urls),
        "scrape.contact": "bench@example.org",
        "scrape.allow_loopback": True,
        "scrape.per_host": 16,
    }
    store = Store(root)
    backend: Any = LocalBackend(workers)
    if on_ray:
        from tasks.backends import RayBackend

        backend = RayBackend(Place(root="unused", slots=workers))
        _warm(backend, store)
    counts, parts, candidates_seconds = {}, 0, 0.0
    began, used = time.perf_counter(), _cpu()
    for stage in load_pipeline("faces64", overrides, upto="scrape").stages:
        run(stage, store, backend)
        manifest = read_manifest(store, stage.address)
        assert manifest
        counts, parts = manifest.counts, len(manifest.parts)
        if stage.artifact == "candidates":
            candidates_seconds = time.perf_counter() - began
    wall = time.perf_counter() - began
    memory = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "wall": wall,
        "cpu": _cpu() - used,
        "counts": counts,
        "parts": parts,
        "candidates_seconds": candidates_seconds,
        "peak_mib": memory / 1024,
    }


def listed(count: int) -> dict[str, Any]:
    """Seconds and peak memory of reading a csv of urls over 50,000 hosts and dealing them out."""
    from dcgan_core.backend import LocalBackend
    from dcgan_core.pipeline import load_pipeline
    from dcgan_core.stage import run
    from dcgan_core.storage import Store

    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        urls = Path(folder) / "urls.csv"
        with urls.open("w") as file:
            file.write("url,caption\n")
            for number in range(count):
                host = f"host{number * 2_654_435_761 % 50_000}.example.org"
                file.write(f"http://{host}/some/path/photo-{number}.jpg,a caption of photo {number}\n")
        keys = {
            "source": "urls",
            "path": str(urls),
            "contact": "bench@example.org",
            "caption_column": "caption",
        }
        overrides = {f"scrape.{key}": value for key, value in keys.items()}
        candidates, photos = load_pipeline("faces64", overrides, upto="scrape").stages
        store = Store(f"{folder}/root")
        began = time.perf_counter()
        run(candidates, store, LocalBackend(1))
        parts = len(photos.plan(store))
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(seconds, 1), "parts": parts, "peak_mib": round(peak)}


def checked_only(urls: Path) -> float:
    """Images a CPU-second of fetching, hashing and checking alone: nothing is journaled or kept."""
    from dcgan_core.config import load_config
    from dcgan_core.scrape.fetch import Fetcher
    from dcgan_core.scrape.photos import photo_row
    from dcgan_core.scrape.sources import Item, item_key
    from dcgan_core.scrape.web import manners_of

    keys = {"source": "urls", "contact": "bench@example.org", "allow_loopback": True, "per_host": 16}
    config = load_config("faces64", {f"scrape.{key}": value for key, value in keys.items()}).scrape
    waiting = iter(urls.read_text().splitlines())
    done = 0

    async def work(fetcher: Fetcher) -> None:
        nonlocal done
        for url in waiting:
            outcome = await fetcher.fetch(Item(item_key(url), url, url=url))
            done += photo_row(outcome, config.max_pixels)["status"] == "ok"

    async def everything() -> None:
        async with Fetcher(manners_of(config)) as fetcher:
            await asyncio.gather(*(work(fetcher) for _ in range(config.concurrency)))

    used = _cpu()
    asyncio.run(everything())
    return done / (_cpu() - used)


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _warm(backend: Any, store: Any) -> None:
    """Start Ray and its workers before the clock."""
    from benchmarks.part_overhead import Idle
    from dcgan_core.stage import run
    from dcgan_core.storage import Store

    with tempfile.TemporaryDirectory() as folder:
        run(Idle(0, {}, "none", 8), Store(folder), backend)


def measured(urls: Path, workers: int, *, on_ray: bool = False) -> dict[str, Any]:
    """``ours`` in a process of its own, into a fresh root."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as root:
        command = [
            sys.executable,
            "-m",
            "benchmarks.fetch",
            "--one",
            str(urls),
            root,
            str(workers),
            str(on_ray),
        ]
        return _last_line(command)


def peer_measured(peer: str, urls: Path, workers: int) -> dict[str, Any]:
    """The same list with img2dataset."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder:
        script = Path(folder) / "peer.py"
        script.write_text(_PEER)
        result = _last_line([peer, str(script), str(urls), f"{folder}/out", str(workers)])
        done = sum(
            json.loads(path.read_text())["successes"] for path in Path(folder).glob("out/*_stats.json")
        )
        return {**result, "successes": done}


def _last_line(command: list[str]) -> dict[str, Any]:
    calm = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}  # a dependency of the peer's asks the internet
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=calm)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="python of a virtual environment with img2dataset")
    parser.add_argument("--urls", type=int, default=6000)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="peak memory at 10,000 to 100,000 urls")
    parser.add_argument(
        "--list", type=int, nargs="*", default=[], help="lengths of lists to read and deal out"
    )
    parser.add_argument("--ray", action="store_true", help="1 against 2 Ray workers")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        urls, root, workers, on_ray = options.one
        if root == "list":
            print(json.dumps(listed(int(urls))))
            return
        if root == "none":
            print(json.dumps({"checked": checked_only(Path(urls))}))
            return
        print(json.dumps(ours(Path(urls), root, int(workers), on_ray == "True")))
        return
    details: dict[str, Any] = {}
    rates, peer_rates, per_cpu, peer_per_cpu, checked = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder, photo_server(BYTES) as (port, size):
        urls = Path(folder) / "urls.txt"
        write_list(urls, port, options.urls, ADDRESSES)
        for _ in range(options.windows):
            result = measured(urls, options.workers)
            assert result["counts"]["ok"] == options.urls, result
            rates.append(options.urls / result["wall"])
            per_cpu.append(options.urls / result["cpu"])
            command = [sys.executable, "-m", "benchmarks.fetch", "--one", str(urls), "none", "1", "False"]
            checked.append(_last_line(command)["checked"])
            if options.peer:
                theirs = peer_measured(options.peer, urls, options.workers)
                assert theirs["successes"] == options.urls, theirs
                peer_rates.append(options.urls / theirs["wall"])
                peer_per_cpu.append(options.urls / theirs["cpu"])
        if options.ray:
            by_workers: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
            for _ in range(options.windows):
                for workers, results in by_workers.items():
                    results.append(measured(urls, workers, on_ray=True))
            details["ray"] = {
                f"{workers} workers": round(
                    statistics.median(options.urls / each["wall"] for each in results)
                )
                for workers, results in by_workers.items()
            }
            details["ray_ratio"] = round(
                statistics.median(
                    one["wall"] / two["wall"] for one, two in zip(by_workers[1], by_workers[2], strict=True)
                ),
                2,
            )
    for count in options.list:
        command = [sys.executable, "-m", "benchmarks.fetch", "--one", str(count), "list", "1", "False"]
        details[f"list of {count}"] = _last_line(command)
    if options.memory:
        details["peak_mib"] = _memory(options.workers)
    details |= {
        "images_a_cpu_second": round(statistics.median(per_cpu)),
        "images_a_cpu_second_spread": [round(min(per_cpu)), round(max(per_cpu))],
        "fetched_and_checked_a_cpu_second": round(statistics.median(checked)),
        "fetched_and_checked_spread": [round(min(checked)), round(max(checked))],
        "peer_images_a_cpu_second": round(statistics.median(peer_per_cpu)) if peer_per_cpu else None,
        "urls": options.urls,
        "bytes": size,
        "workers": options.workers,
    }
    print_result(
        "fetch",
        rates,
        "images a second",
        peer="img2dataset" if options.peer else None,
        peer_values=peer_rates or None,
        **details,
    )


def _memory(workers: int) -> dict[str, int]:
    peaks = {}
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as folder, photo_server(8_000) as (port, _):
        for count in (10_000, 30_000, 100_000):
            urls = Path(folder) / "urls.txt"
            write_list(urls, port, count, ADDRESSES)
            peaks[f"{count} urls"] = round(measured(urls, workers)["peak_mib"])
    return peaks


if __name__ == "__main__":
    main()
