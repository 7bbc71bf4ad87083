"""Prefect's server as the pipeline wants it: private, and it forgets no slot. For ``make up`` and the image.

``python -m tasks.server --host H --port P`` is `prefect server start` with these settings; each can be set
otherwise in the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

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
    """Run `prefect server start` in this process; files that it writes are its user's alone."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Pages of other origins must not start runs; the UI asks under the address that its users see.
    seen = os.environ.get("PREFECT_SERVER_UI_API_URL", "http://127.0.0.1:4200/api").removesuffix("/api")
    os.environ.setdefault("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", seen)
    os.umask(0o077)
    sys.argv = ["prefect", "server", "start", *arguments]
    from prefect.cli import app  # reads the settings

    _write_in_turns()
    _wait_briefly_for_earlier_events()
    app()


def _write_in_turns() -> None:
    """Let writers of SQLite wait for each other, so that a busy machine loses no heartbeat.

    Prefect begins most transactions as DEFERRED. One that has read and then writes fails at once ("database
    is locked", no timeout helps) if another has written meanwhile, and after four tries its event is dropped.
    IMMEDIATE waits for its turn: https://www.sqlite.org/isolation.html, https://www.sqlite.org/rescode.html
    (SQLITE_BUSY_SNAPSHOT).
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(self: Any, session: Any, with_for_update: bool = True) -> Any:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate


def _wait_briefly_for_earlier_events() -> None:
    """Let automations see an event though the one before it was seen by the server's last life.

    Prefect holds a state's event back until it has seen that of the state before, 15 minutes at most, and
    what it has seen is in memory: after a restart nobody would hear of a crash for so long.
    """
    from prefect.server.events.ordering import db, memory

    for ordering in (db, memory):
        vars(ordering)["PRECEDING_EVENT_LOOKBACK"] = timedelta(seconds=10)


if __name__ == "__main__":
    main(sys.argv[1:])
