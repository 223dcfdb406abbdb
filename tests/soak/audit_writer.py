"""A process that appends audit events for as long as it lives: `python -m tests.soak.audit_writer FILE`.

The id of each event that was acknowledged is added to FILE. Between the acknowledgement and that line the process may
be killed: then the ledger has an event more than the file, which is no loss.
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import ActorIdentity

BATCH = 25
"""Events of one turn of the loop: so many calls at once."""

PAUSE = 0.01
PROJECTS = ("web", "shop", None)


async def write(url: str, keys: Path, told: int) -> None:
    bus = await Bus.connect(url, ActorIdentity("router", keys))
    writer = AuditWriter(bus)
    for n in count():
        ids = [f"{os.getpid()}-{n}-{i}" for i in range(BATCH)]
        project = PROJECTS[n % len(PROJECTS)]
        event = {"kind": "call", "outcome": "allow", "project": project, "principal": "token-ci", "server": "s"}
        try:
            await asyncio.gather(*(writer.append(event | {"id": each, "name": each}) for each in ids))
        except BusError:
            continue  # given up: nobody was told that these are kept
        os.write(told, "".join(f"{each}\n" for each in ids).encode())
        await asyncio.sleep(PAUSE)


def main() -> None:
    told = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    asyncio.run(write(os.environ["MCPCTL_NATS_URL"], Path(os.environ["MCPCTL_NATS_KEYS"]), told))


if __name__ == "__main__":
    main()
