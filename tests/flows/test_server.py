"""Prefect's server as we start it loses no event on a busy machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

pytest.importorskip("prefect")


async def _read_then_write(path: Path) -> int:
    """Let many sessions read and then write at the same time; how many of them failed."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await database.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE events (number INTEGER)"))

    async def one(number: int) -> None:
        session = await database.session(engine)
        async with session, database.begin_transaction(session):
            await session.execute(sa.text("SELECT count(*) FROM events"))
            await asyncio.sleep(0)
            await session.execute(sa.text(f"INSERT INTO events VALUES ({number})"))

    outcomes = await asyncio.gather(*(one(number) for number in range(16)), return_exceptions=True)
    await engine.dispose()
    return sum(isinstance(each, Exception) for each in outcomes)


def test_transactions_that_read_and_then_write_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.server.database.configurations import AioSqliteConfiguration

    from tasks.server import _write_in_turns

    assert asyncio.run(_read_then_write(tmp_path / "as-it-is.db")) > 0
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    _write_in_turns()
    assert asyncio.run(_read_then_write(tmp_path / "ours.db")) == 0
