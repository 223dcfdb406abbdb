"""No acknowledged audit event is lost, whatever is killed: `python -m tests.soak.audit_kills`.

Writers append, two sinks write the ledger, and every now and then one of them all, or nats-server, gets `kill -9` and
is started again. In the end each acknowledged event must be in the ledger exactly once, and the ledger must verify.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from mcpctl.actors.audit_sink import verifying
from mcpctl.actors.audit_sink.anchors import AnchorFile
from mcpctl.actors.audit_sink.heads import Notary
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.postgres import new_database, on_postgres
from tests.tables import Tables

DRAIN_SECONDS = 180


class Soak:
    """The processes, by name."""

    def __init__(self, folder: Path, writers: int, sinks: int, *, power_safe: bool = False) -> None:
        self.folder, self.database = folder, new_database(lasting=True) if on_postgres() else None
        self.tables = Tables("audit", folder, self.database)
        self.nats = NatsServer(folder / "nats", free_port(), power_safe=power_safe)
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.kills: collections.Counter[str] = collections.Counter()
        self._commands = {f"sink {n}": ("mcpctl.actors", "audit") for n in range(sinks)}
        self._commands |= {
            f"writer {n}": ("tests.soak.audit_writer", str(folder / f"writer-{n}.acked")) for n in range(writers)
        }

    async def __aenter__(self):
        await self.nats.start()
        await provision(self.nats.url, self.nats.keys)
        for name in self._commands:
            await self.start(name)
        return self

    async def __aexit__(self, *_):
        for name in list(self.processes):
            await self.end(name)
        await self.nats.stop()

    async def start(self, name: str) -> None:
        environment = os.environ | {
            "MCPCTL_NATS_URL": self.nats.url,
            "MCPCTL_NATS_KEYS": str(self.nats.keys),
            "MCPCTL_DATA_DIR": str(self.folder),
            "MCPCTL_LOG_LEVEL": "error",
        }
        if self.database is not None:
            environment["MCPCTL_DATABASE_URL"] = self.database
        with (self.folder / "processes.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._commands[name], env=environment, stderr=log, stdout=log
            )

    async def end(self, name: str) -> None:
        process = self.processes.pop(name)
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def kill(self, name: str) -> None:
        """Kill one of them, and start it again."""
        self.kills[name.partition(" ")[0]] += 1
        if name == "nats-server":
            self.nats._part.kill()
            await self.nats._part.process.wait()
            await self.nats.start()
        else:
            await self.end(name)
            await self.start(name)
        # What lost its connection for good has ended by itself, as under a supervisor.
        for each, process in list(self.processes.items()):
            if process.returncode is not None:
                await self.start(each)

    def acked(self) -> list[str]:
        """Return the ids of what was acknowledged; a line that the kill cut short does not count."""
        texts = [path.read_text() for path in self.folder.glob("*.acked")]
        return [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]

    def written(self) -> collections.Counter[str]:
        """Return how often each event is in the ledger, by the id in its text."""
        return collections.Counter(json.loads(text)["id"] for (text,) in self.tables.ask("SELECT event FROM ledger"))

    def entries(self) -> int:
        return self.tables.number("SELECT last FROM ledger_position")

    async def drained(self) -> None:
        """Return when the ledger has all that was acknowledged, or does not get on any more."""
        give_up = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < give_up and self.entries() < len(self.acked()):
            await asyncio.sleep(0.2)

    def faults(self) -> list[object]:
        """Verify the ledger as the actor does."""
        store = Store("audit", database_url("audit", self.database, self.folder))
        notary = Notary(self.folder / "keys" / "audit-heads.json")
        anchors = AnchorFile(self.folder / "audit" / "heads.jsonl").read()
        found, place = [], None
        while True:
            page = store._in_session(
                lambda session, place=place: verifying.verify(session, notary, anchors, None, place), commit=False
            )
            found += page.faults
            place = page.place
            if place is None:
                store.engine.dispose()
                return found


async def run(folder: Path, events: int, kills: int, *, seed: int = 1, power_safe: bool = False) -> dict[str, object]:
    """Return what was counted."""
    chance = random.Random(seed)
    began = time.monotonic()
    async with Soak(folder, writers=2, sinks=2, power_safe=power_safe) as soak:
        while sum(soak.kills.values()) < kills or len(soak.acked()) < events:
            # Spread over the run, by what has been acknowledged: on a slow machine too there is work between two kills.
            due = len(soak.acked()) * kills / events
            if sum(soak.kills.values()) < min(due, kills):
                await soak.kill(chance.choice(["nats-server", *soak.processes]))
            await asyncio.sleep(chance.uniform(0.05, 0.3))
        for name in [each for each in soak.processes if each.startswith("writer")]:
            await soak.end(name)
        await soak.drained()
        acked, written = soak.acked(), soak.written()
        return {
            "seconds": round(time.monotonic() - began, 1),
            "kills": dict(soak.kills),
            "acknowledged": len(acked),
            "in the ledger": sum(written.values()),
            "lost": sum(1 for each in acked if not written[each]),
            "doubled": sum(1 for count in written.values() if count > 1),
            "faults": [str(fault) for fault in soak.faults()],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--power", action="store_true", help="with MCPCTL_AUDIT_DURABILITY=power")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="audit-kills-") as folder:
        found = asyncio.run(run(Path(folder), given.events, given.kills, seed=given.seed, power_safe=given.power))
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["lost"] or found["doubled"] or found["faults"] else 0)


if __name__ == "__main__":
    main()
