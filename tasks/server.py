"""Prefect's server as the pipeline wants it: private, and it forgets no slot. For ``make up`` and the image.

``python -m tasks.server --host H --port P`` becomes `prefect server start` with these settings; each can be
set otherwise in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A lease in memory dies with the server: the run that holds it would crash at its next renewal, and the
    # slot of a run that ended meanwhile would never come back.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A run that waits for a slot asks again this often.
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
    # A busy machine is no lost heartbeat: wait for SQLite rather than drop the event (defaults: 10 and 5).
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
}


def main(arguments: Sequence[str]) -> None:
    """Start the server in place of this process; files that it writes are its user's alone."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.umask(0o077)
    command = [sys.executable, "-m", "prefect", "server", "start", *arguments]
    os.execv(sys.executable, command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
