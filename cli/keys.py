"""`mcpctl keys`: the keyrings of the parts, on the host that has their files. No key is ever printed."""

import asyncio
import base64
import json
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_path

from mcpctl.bus.contracts import sealing
from mcpctl.cli.command_groups import Group
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, print_table, say
from mcpctl.cli.private_file import write_private
from mcpctl.cli.session import session

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False)

KEY_BYTES = 32


class Ring(StrEnum):
    """The keyrings: of stored secrets, of what clients carry for the routers, of the audit's signed heads."""

    SEALING = "sealing"
    ROUTERS = "routers"
    AUDIT = "audit"


PLACES = {
    Ring.SEALING: "keys/sealing.json",
    Ring.ROUTERS: "nats/keys/router-seals.json",
    Ring.AUDIT: "keys/audit-heads.json",
}
"""Each keyring's file, below the data folder."""

RingName = Annotated[Ring, typer.Argument(metavar="RING", help="sealing, routers or audit.")]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Data folder of the part (default: the user's own).")
]
File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="The keyring itself, where it is elsewhere.")]


@app.callback()
def _keys() -> None:
    """Rotate the keys that parts keep in files; running parts read them again by themselves."""


@dataclass
class _Held:
    """A keyring's file, as it was read."""

    path: Path
    current: str
    keys: dict[str, str]

    @classmethod
    def read(cls, ring: Ring, data: Path | None, file: Path | None) -> "_Held":
        path = file or (data or user_data_path("mcpctl")) / PLACES[ring]
        if not path.exists() and ring is Ring.ROUTERS and path.parent.is_dir():
            return cls(path, "", {})
        try:
            found = json.loads(path.read_text())
            return cls(path, str(found["current"]), dict(found["keys"]))
        except OSError as error:
            raise CliError(f"cannot read the keyring {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            raise CliError(f"{path} is no keyring") from None  # the cause could show a key

    def add(self) -> str:
        key_id = secrets.token_hex(4)
        self.keys[key_id] = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        return key_id

    def write(self) -> None:
        """Replace the file at once: a part reads the whole old one, or the whole new one."""
        write_private(self.path, json.dumps({"current": self.current, "keys": self.keys}))

    @property
    def prepared(self) -> str | None:
        """The newest key, where it is not in use yet."""
        newest = next(reversed(self.keys), None)
        return newest if newest != self.current else None


@app.command("list")
def list_keys(ring: RingName, data: Data = None, file: File = None) -> None:
    """Show the ids of the keys in a keyring, and what each is for.

    \b
    Examples:
      mcpctl keys list sealing
      mcpctl keys list audit --data /srv/mcpctl
    """  # noqa: D301 - \b keeps the examples' lines apart
    held = _Held.read(ring, data, file)
    if not held.keys:
        note(f"{held.path} is not there: the routers' key is derived from what they prove themselves with.")
        return
    ids = list(held.keys)
    current = ids.index(held.current) if held.current in held.keys else -1
    uses = ["opens" if at < current else "seals and opens" if at == current else "prepared" for at in range(len(ids))]
    print_table(("KEY", "USE"), zip(ids, uses, strict=True))


@app.command()
def rotate(
    ring: RingName,
    *,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only add the key: copy the file to other hosts, then rotate.")
    ] = False,
    data: Data = None,
    file: File = None,
) -> None:
    """Add a key to a keyring, and use it from now on; what older keys have sealed or signed stays good.

    Parts that run read the file again when it has changed. Where hosts have copies of it, prepare a key on one, bring
    the file to the others, and rotate then: so nobody meets a key that is not there.

    \b
    Examples:
      mcpctl keys rotate sealing
      mcpctl keys rotate routers --prepare
    """  # noqa: D301 - \b keeps the examples' lines apart
    held = _Held.read(ring, data, file)
    if prepare:
        if held.prepared is not None:
            raise CliError(f"key {held.prepared} is prepared already: mcpctl keys rotate {ring.value}")
        added = held.add()
        held.current = held.current or added
    else:
        held.current = added = held.prepared or held.add()
    held.write()
    say(f"key {added} {'prepared' if prepare and held.current != added else 'is the current one'} in {held.path}")


@app.command()
def retire(ring: RingName, *, data: Data = None, file: File = None, context: ContextName = None) -> None:
    """Take the keys before the current one out of a keyring; secrets are sealed under the current one first.

    A backup from before can then not bring its secrets back: keep the old file with it. Of the routers, do it ten
    minutes after the rotation. The audit's keys stay: they prove what was signed with them.

    \b
    Examples:
      mcpctl keys retire sealing
    """  # noqa: D301 - \b keeps the examples' lines apart
    if ring is Ring.AUDIT:
        raise CliError("the audit's keys stay: without them nothing that they have signed can be verified", USAGE)
    held = _Held.read(ring, data, file)
    ids = list(held.keys)
    old = ids[: ids.index(held.current)] if held.current in held.keys else []
    if ring is Ring.SEALING:
        resealed = asyncio.run(_reseal(context))
        say(f"{resealed.secrets} secrets sealed anew under key {resealed.key}")
        if resealed.key != held.current:
            raise CliError(
                f"the Catalog seals with key {resealed.key}, {held.path} has {held.current}: is it its file?"
            )
    if not old:
        note("There is no older key.")
        return
    for key_id in old:
        del held.keys[key_id]
    held.write()
    say(f"{len(old)} {'key' if len(old) == 1 else 'keys'} retired from {held.path}: {', '.join(old)}")


async def _reseal(context: str | None) -> sealing.Resealed:
    async with session(context) as opened:
        return await opened.ask(sealing.reseal)
