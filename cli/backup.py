"""`mcpctl export` and `mcpctl import`: the whole control plane in one file, digests included."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import mcpctl
from mcpctl.bus.contract import Call, Dump, Message, Restore
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.errors import BusError
from mcpctl.cli.errors import REFUSED, USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.given import read_text
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, say
from mcpctl.cli.private_file import write_private
from mcpctl.cli.session import Session, checked, session

FORMAT = "mcpctl-backup/1"

BACKUPS: tuple[Call[Any, Dump], ...] = (catalog.backup, rbac.backup, token.backup)
"""The TokenRegistry last: a token that is revoked meanwhile is revoked in the backup too."""

RESTORES: tuple[Call[Restore, Any], ...] = (catalog.restore, rbac.restore, token.restore)


class Secrets(StrEnum):
    """What becomes of sealed secrets."""

    SEALED = "sealed"
    OMIT = "omit"


class BackupFile(Message):
    """What `export` writes: each actor's rows at (nearly) one moment."""

    format: str
    version: str
    created_at: datetime
    dumps: tuple[Dump, ...]


def export(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="File to write (0600), or - for stdout.")] = "-",
    secrets: Annotated[
        Secrets, typer.Option(help="`sealed`: as ciphertext, which the same keyring opens again. `omit`: not at all.")
    ] = Secrets.SEALED,
    context: ContextName = None,
) -> None:
    """Write a backup of the whole control plane: resources, rights, digests of passwords and bearers.

    Nothing in it is a secret in clear. It takes the operation `backup`.

    \b
    Examples:
      mcpctl export backup.json
      mcpctl export --secrets omit - | gzip > backup.json.gz
    """  # noqa: D301 - \b keeps the examples' lines apart
    folder = Path(file).absolute().parent
    if file != "-" and not folder.is_dir():
        raise CliError(f"cannot write {file}: there is no folder {folder}", USAGE)
    asyncio.run(_export(file, secrets, context))


async def _export(file: str, secrets: Secrets, context: str | None) -> None:
    async with session(context) as opened:
        dumps = [await opened.ask(call, secrets=secrets is Secrets.SEALED) for call in BACKUPS]
    found = BackupFile(format=FORMAT, version=mcpctl.__version__, created_at=datetime.now(UTC), dumps=tuple(dumps))
    text = found.model_dump_json(indent=2) + "\n"
    if file == "-":
        sys.stdout.write(text)
        return
    write_private(Path(file), text)
    say(f"backup written to {file} ({len(text)} bytes)")


def import_backup(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="File that `mcpctl export` wrote, or - for stdin.")],
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Replace without asking.")] = False,
    context: ContextName = None,
) -> None:
    """Replace the whole control plane by a backup: everything that is there now is gone, tokens of then work again.

    What is revoked now stays revoked. It takes the operation `restore`.

    \b
    Examples:
      mcpctl import backup.json
      mcpctl import backup backup.json --yes
    """  # noqa: D301 - \b keeps the examples' lines apart
    found = read_backup(sys.stdin.read() if file == "-" else read_text(file), file)
    if not yes:
        if file == "-" or not sys.stdin.isatty():
            raise CliError("this replaces everything that is there now: repeat it with --yes", USAGE)
        typer.confirm(f"Replace everything by the backup of {found.created_at:%Y-%m-%d %H:%M} UTC?", abort=True)
    asyncio.run(_import(found, context))


def read_backup(text: str, source: str) -> BackupFile:
    """Read a backup. Raises `CliError` where it is not one, or not whole."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CliError(f"{source} is no backup: it is not JSON", USAGE) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CliError(f"{source} is no backup: format must be {FORMAT}", USAGE)
    found = checked(BackupFile, **data)
    missing = {call.actor for call in RESTORES} - {dump.actor for dump in found.dumps}
    if missing:
        raise CliError(f"{source} is not whole: the rows of {', '.join(sorted(missing))} are missing", USAGE)
    return found


async def _import(found: BackupFile, context: str | None) -> None:
    dumps = {dump.actor: dump for dump in found.dumps}
    async with session(context) as opened:
        before = [await opened.ask(call) for call in BACKUPS]
        done: list[Dump] = []
        for call in RESTORES:
            try:
                await opened.ask(call, dump=dumps[call.actor])
            except BusError as error:
                undone = await _undo(opened, done, before)
                failure = explain(error, opened.context.user)
                text = "nothing was changed" if undone else "run the same import again to complete it"
                raise CliError(f"{failure}; {text}", failure.code if failure.code != USAGE else REFUSED) from error
            done.append(dumps[call.actor])
    say(f"restored the backup of {found.created_at:%Y-%m-%d %H:%M} UTC")
    note("Log in again where a command says that your session has ended.")


async def _undo(opened: Session, done: list[Dump], before: list[Dump]) -> bool:
    """Put back what was there before."""
    restored = {dump.actor for dump in done}
    calls = {call.actor: call for call in RESTORES}
    try:
        for dump in before:
            if dump.actor in restored:
                await opened.ask(calls[dump.actor], dump=dump)
    except BusError:
        return False
    return True
