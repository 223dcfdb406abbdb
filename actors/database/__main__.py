"""`python -m mcpctl.actors.database check|migrate|copy`: what `mcpctl db` becomes.

Where the databases are, the environment says, as for the actors themselves.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import yaml
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, OperationalError

from mcpctl.actors.database.copying import copy
from mcpctl.actors.database.stores import stores
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import State, Store
from mcpctl.bus.connection import first_fault
from mcpctl.bus.errors import BadRequest, BusError, Conflict


@dataclass(frozen=True)
class Found:
    """An actor's database: the revision that it is at (None: empty), and that of this program."""

    actor: str
    revision: str | None
    program: str
    state: State
    database: str

    @classmethod
    def of(cls, store: Store) -> "Found":
        return cls(store.actor, *store.standing(), store.engine.url.render_as_string(hide_password=True))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mcpctl db")
    parser.add_argument("command", choices=("check", "migrate", "copy"))
    parser.add_argument("--output", choices=("table", "json", "yaml"), default="table")
    asked = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(asked.command, asked.output, ActorSettings()))
    except ValidationError as error:
        print(f"Error: setting MCPCTL_{first_fault(error).upper()}", file=sys.stderr)
    except OperationalError as error:
        print(f"Error: the database does not answer ({' '.join(str(error.orig).split())})", file=sys.stderr)
    except (BusError, OSError, DBAPIError) as error:
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


async def _run(command: str, output: str, settings: ActorSettings) -> int:
    url = settings.database_url.get_secret_value() if settings.database_url else None
    if command == "check":
        async with stores(url, settings.data_dir) as found:
            return _show([Found.of(store) for store in found], output)
    if command == "copy" and url is None:
        raise BadRequest("name the PostgreSQL database to copy to: --database-url, or MCPCTL_DATABASE_URL")
    async with stores(None, settings.data_dir) as sources, stores(url, settings.data_dir) as targets:
        if command == "copy":
            _demand_current(sources)
        for target in targets:
            before, program, _ = target.standing()
            await target.open()
            print(
                f"{target.actor}: at {program}"
                if before == program
                else f"{target.actor}: {before or 'nothing'} -> {program}"
            )
        if command == "copy":
            copy(sources, str(url), print)
    return 0


def _show(found: Sequence[Found], output: str) -> int:
    """Print where each database stands. Returns 1 where one does not fit this program."""
    if output == "json":
        print(json.dumps([asdict(each) for each in found], indent=2))
    elif output == "yaml":
        print(yaml.safe_dump([asdict(each) for each in found], sort_keys=False), end="")
    else:
        rows = [("ACTOR", "REVISION", "PROGRAM", "STATE", "DATABASE")]
        rows += [(each.actor, each.revision or "-", each.program, each.state, each.database) for each in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return int(any(each.state != "current" for each in found))


def _demand_current(sources: Sequence[Store]) -> None:
    """Raise `Conflict` where there is nothing to copy, or something of another version."""
    for source in map(Found.of, sources):
        if source.state == "empty":
            raise Conflict(f"there is nothing to copy at {source.database}: name the data folder with --data")
        if source.state != "current":
            raise Conflict(
                f"{source.database} is at revision {source.revision}, and this version of mcpctl at {source.program}: "
                "bring it there first with mcpctl db migrate"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
