"""`mcpctl db`: the actors' databases, on a host that reaches them."""

from typing import Annotated

import typer

from mcpctl.cli.command_groups import Group
from mcpctl.cli.output import DataFormat
from mcpctl.cli.processes import DatabaseUrl, DataDir, become

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False)


@app.callback()
def _db() -> None:
    """Check the actors' databases, bring them to this version, move them to PostgreSQL.

    \b
    Examples:
      mcpctl db check
      mcpctl db migrate --database-url postgresql://mcpctl@db/mcpctl
      mcpctl db copy --data /srv/mcpctl --database-url postgresql://mcpctl@db/mcpctl
    """  # noqa: D301 - \b keeps the examples' lines apart


@app.command()
def check(
    *,
    data: DataDir = None,
    database_url: DatabaseUrl = None,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print.")] = DataFormat.TABLE,
) -> None:
    """Show at which revision each actor's tables are; exit code 1 where one does not fit this program.

    \b
    Examples:
      mcpctl db check
      mcpctl db check -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    _become("check", data, database_url, "--output", output.value)


@app.command()
def migrate(*, data: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Bring all tables to this program's version, as each actor does when it starts.

    Programs of the version before go on working on them meanwhile.

    \b
    Examples:
      mcpctl db migrate
    """  # noqa: D301 - \b keeps the examples' lines apart
    _become("migrate", data, database_url)


@app.command()
def copy(*, data: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Copy the SQLite files of a data folder into an empty PostgreSQL database: everything or nothing.

    Digests, sealed secrets and the audit's hash chain stay as they are. Stop the actors first; the data folder's keys
    are needed further on.

    \b
    Examples:
      mcpctl db copy --data /srv/mcpctl --database-url postgresql://mcpctl@db/mcpctl
    """  # noqa: D301 - \b keeps the examples' lines apart
    _become("copy", data, database_url)


def _become(command: str, data: object, database_url: str | None, *options: str) -> None:
    become(["mcpctl.actors.database", command, *options], MCPCTL_DATA_DIR=data, MCPCTL_DATABASE_URL=database_url)
