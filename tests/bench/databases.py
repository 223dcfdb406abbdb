"""How fast the ledger and the change feeds write on SQLite and on PostgreSQL: `python -m tests.bench.databases`.

PostgreSQL is the tests' own server, which syncs nothing to the disk; so the files should be in memory too.
"""

import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text
from sqlmodel import Session

from mcpctl.actors.audit_sink import ledger
from mcpctl.actors.audit_sink.heads import Notary
from mcpctl.actors.changes import ChangeCounter, Changing
from mcpctl.actors.storage import Store, database_url
from mcpctl.actors.token_registry.rows import BearerRow
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.streams import StreamState
from tests.postgres import new_database

STREAM = StreamState("2026-01-01", 1, 0)
BATCHES, BATCH, TOKENS = 20, 1000, 500


async def ledger_rows(url: str | None, folder: Path) -> float:
    """Return entries a second, in transactions of 1000 as under load."""
    store, notary = Store("audit", database_url("audit", url, folder)), Notary(folder / "heads.json")
    await store.open()
    await store.write(lambda session: ledger.align(session, notary, None, STREAM))
    fields = {"at": 1, "kind": "call", "outcome": "allow", "principal": "token-ci", "project": "web", "server": "git"}
    began = time.perf_counter()
    for batch in range(BATCHES):
        messages = [
            Stored("a.router", n, 1, json.dumps(fields | {"id": f"e{n}"}).encode(), {})
            for n in range(batch * BATCH + 1, (batch + 1) * BATCH + 1)
        ]
        appended = await store.write(lambda session, m=messages: ledger.append(session, notary, STREAM.created, m))
        notary.written(appended.heads)
    rate = BATCHES * BATCH / (time.perf_counter() - began)
    await store.close()
    return rate


async def tokens(url: str | None, folder: Path) -> float:
    """Return changes that add a bearer, a second, from 16 at once."""
    store = Store("token", database_url("token", url, folder))
    await store.open()
    await store.write(lambda session: session.add(ChangeCounter(id=1, epoch="e", seq=0)))

    def issue(n: int, session: Session) -> None:
        session.execute(text("SELECT 1"))
        session.add(BearerRow(sha=f"{n}", kind="pat", owner_kind="User", owner="ann", created_at=n, name=f"t{n}"))
        Changing(session).record("token", f"{n}", "created")

    async def some(first: int) -> None:
        for n in range(first, TOKENS, 16):
            await store.write(lambda session, n=n: issue(n, session))

    began = time.perf_counter()
    await asyncio.gather(*(some(first) for first in range(16)))
    rate = TOKENS / (time.perf_counter() - began)
    await store.close()
    return rate


async def main() -> None:
    print(datetime.now(UTC).isoformat(timespec="seconds"))
    for name in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            place = Path(folder)
            rows = await ledger_rows(None if name == "sqlite" else new_database(), place)
            issued = await tokens(None if name == "sqlite" else new_database(), place)
            print(f"{name}: {rows:.0f} ledger entries/s, {issued:.0f} bearers/s")


if __name__ == "__main__":
    asyncio.run(main())
