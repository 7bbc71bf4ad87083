"""A loopback photo host as fast as Python allows, so that a fetcher's own cost shows; a process of its own.

python -m benchmarks.photo_server [--bytes 107000]   prints its port, serves until its parent goes
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from dcgan_core.images import encode_jpeg


def photo(size: int) -> bytes:
    """A real JPEG of about ``size`` bytes: smooth shapes under noise, as photos have."""
    rng = np.random.default_rng(0)
    side = 480
    smooth_HW = np.add.outer(np.sin(np.arange(side) / 37), np.cos(np.arange(side * 3 // 4) / 23)).T * 60 + 128
    noise_HWC = rng.normal(0, 1, (*smooth_HW.shape, 3))
    low, high = 0.0, 80.0
    data = b""
    for _ in range(20):
        strength = (low + high) / 2
        rgb = np.clip(smooth_HW[..., None] + strength * noise_HWC, 0, 255).astype(np.uint8)
        data = encode_jpeg(rgb, 90)
        low, high = (strength, high) if len(data) < size else (low, strength)
    return data


ADDRESSES = 20
"""It answers at 127.0.0.1 to 127.0.0.20, so that a list can name several hosts."""


class _Photos(asyncio.Protocol):
    answers: tuple[bytes, bytes] = (b"", b"")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            request, self.waiting = self.waiting[:end], self.waiting[end + 4 :]
            is_photo = b"robots.txt" not in request.partition(b"\r\n")[0]
            self.transport.write(self.answers[not is_photo])  # type: ignore[attr-defined]
            if b"connection: close" in request.lower():
                self.transport.close()


async def serve(size: int) -> None:
    """Print the port and serve until standard input ends."""
    body = photo(size)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    _Photos.answers = (head + body, missing)
    loop = asyncio.get_running_loop()
    first = await loop.create_server(_Photos, "127.0.0.1", 0, backlog=1024)
    port = first.sockets[0].getsockname()[1]
    others = [f"127.0.0.{number}" for number in range(2, ADDRESSES + 1)]
    await loop.create_server(_Photos, others, port, backlog=1024)
    print(port, len(body), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def photo_server(size: int) -> Iterator[tuple[int, int]]:
    """The server in its own process: its port, and the size of its photo in bytes."""
    command = [sys.executable, "-m", "benchmarks.photo_server", "--bytes", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        port, length = (int(word) for word in process.stdout.readline().split())
        try:
            yield port, length
        finally:
            process.stdin.close()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, default=107_000)
    asyncio.run(serve(parser.parse_args().bytes))


if __name__ == "__main__":
    main()
