"""`up`, `run` and `version`: the commands that need no login."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_path

import mcpctl
from mcpctl.cli.command_groups import Group
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.output import DataFormat, print_data, say

run = typer.Typer(cls=Group, rich_markup_mode=None, help="Run one part in this process, against a given bus.")


class Durability(StrEnum):
    """What an acknowledged audit event survives: the end of any process, or a power cut as well."""

    PROCESS = "process"
    POWER = "power"


DataDir = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder of databases and keys (default: the user's own).")
]
DatabaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="PostgreSQL, without a password in it (default: SQLite files).")
]
NatsUrl = Annotated[str | None, typer.Option("--nats-url", metavar="URL", help="The bus (default: $MCPCTL_NATS_URL).")]


def up(
    *,
    data: DataDir = None,
    http_host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 takes a free one.")
    ] = 3200,
    nats_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, metavar="PORT", help="Port of nats-server (default: that of the last start, or any)."
        ),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add a project with real servers, and a token for it.")] = False,
    audit_durability: Annotated[
        Durability,
        typer.Option(
            envvar="MCPCTL_AUDIT_DURABILITY",
            help="What an acknowledged audit event survives: the end of any process, or a power cut too (slower).",
        ),
    ] = Durability.PROCESS,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the logs of all parts on stderr too.")] = False,
) -> None:
    """Run nats-server, all actors, a router and a gateway on this machine, until Ctrl-C.

    \b
    Examples:
      mcpctl up
      mcpctl up --demo
      mcpctl up --data /srv/mcpctl --http-host 0.0.0.0 --http-port 8080
      mcpctl up --audit-durability power
    """  # noqa: D301 - \b keeps the examples' lines apart
    from mcpctl.cli import up as installation  # noqa: PLC0415 - `run` and `version` do without

    chosen = data or user_data_path("mcpctl")
    power_safe = audit_durability is Durability.POWER
    options = installation.Options(chosen, http_host, http_port, nats_port, demo, verbose, power_safe)
    installation.up(options)


@run.command()
def gateway(
    *,
    nats_url: NatsUrl = None,
    nats_token_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File with a service account's bearer, where the bus asks for one."),
    ] = None,
    http_host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on.")] = None,
) -> None:
    """Run a gateway in this process. What no option says, the environment does (MCPCTL_...).

    \b
    Examples:
      mcpctl run gateway --nats-url nats://bus:4222 --nats-token-file /run/secrets/gateway --http-port 3200
    """  # noqa: D301 - \b keeps the examples' lines apart
    become(
        ["mcpctl.gateway"],
        MCPCTL_NATS_URL=nats_url,
        MCPCTL_NATS_TOKEN_FILE=nats_token_file,
        MCPCTL_HTTP_HOST=http_host,
        MCPCTL_HTTP_PORT=http_port,
    )


@run.command()
def actor(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="token, rbac, catalog, session, router, audit")],
    *,
    nats_url: NatsUrl = None,
    nats_keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the actors' keys for the bus.")
    ] = None,
    nats_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the bearer of a router at a site.")
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="Site of a router that runs beside its upstreams.")
    ] = None,
    data: DataDir = None,
    database_url: DatabaseUrl = None,
    anonymous_edge: Annotated[
        bool | None, typer.Option(help="Admit gateways that present no credential.", show_default=False)
    ] = None,
) -> None:
    """Run some actors in this process. What no option says, the environment does (MCPCTL_...).

    \b
    Examples:
      mcpctl run actor token rbac catalog session audit --nats-keys keys --data /srv/mcpctl
      mcpctl run actor router --nats-url nats://bus:4222 --nats-keys keys
      mcpctl run actor router --nats-url wss://bus.example --nats-token-file lab.token --site lab
    """  # noqa: D301 - \b keeps the examples' lines apart
    from mcpctl.bus.contract import ACTORS  # noqa: PLC0415 - the other commands do without

    unknown = [name for name in names if name not in ACTORS]
    if unknown:
        raise CliError(f'no actor "{unknown[0]}": there are {", ".join(ACTORS)}', USAGE)
    become(
        ["mcpctl.actors", *names],
        MCPCTL_NATS_URL=nats_url,
        MCPCTL_NATS_KEYS=nats_keys,
        MCPCTL_NATS_TOKEN_FILE=nats_token_file,
        MCPCTL_ROUTER_SITE=site,
        MCPCTL_DATA_DIR=data,
        MCPCTL_DATABASE_URL=database_url,
        MCPCTL_BUS_ANONYMOUS_EDGE=anonymous_edge,
    )


def version(*, output: Annotated[DataFormat, typer.Option("-o", "--output")] = DataFormat.TABLE) -> None:
    """Show the version.

    \b
    Examples:
      mcpctl version
      mcpctl version -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    if output is DataFormat.TABLE:
        say(f"mcpctl {mcpctl.__version__}")
    else:
        print_data({"mcpctl": mcpctl.__version__, "python": sys.version.split()[0]}, output)


def become(module: list[str], **settings: object) -> None:
    """Replace this process by a module, so that signals and the exit code are the module's own."""
    given = {name: str(value) for name, value in settings.items() if value is not None}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *module], os.environ | given)  # noqa: S606 - no shell is wanted
