"""Marked secrets, where they may have got to, and in which forms."""

import asyncio
import base64
import re
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nkeys
import orjson
from nats.aio.client import Client

from tests.installation import processes


@dataclass(frozen=True)
class Canary:
    """A secret by the name under which it is reported. `mark` is a part of it that every escaping leaves as it is."""

    name: str
    mark: str

    @property
    def forms(self) -> dict[str, bytes]:
        """Return what to look for: the mark as it is, and as the usual codings would have it."""
        raw = self.mark.encode()
        found = {"plain": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
        found |= {"utf-16": self.mark.encode("utf-16-le"), "url": "".join(f"%{byte:02X}" for byte in raw).encode()}
        for shift in range(3):  # where the mark begins inside a group of three bytes
            skipped = (0, 2, 3)[shift]
            found[f"base64+{shift}"] = base64.b64encode(bytes(shift) + raw)[skipped:-4].rstrip(b"=")
        return found

    def within(self, data: bytes) -> list[str]:
        return [form for form, text in self.forms.items() if text in data]


def bearer_canary(name: str, bearer: str) -> Canary:
    """Mark a bearer by characters of it that are never shown: the prefix and the first four are."""
    return Canary(name, bearer.rpartition("_")[2][6:30])


class Search:
    """Looks for canaries; `found` has one line for each place."""

    def __init__(self, *canaries: Canary) -> None:
        self.canaries = canaries
        self.found: list[str] = []
        self.looked = 0
        self.names: set[str] = set()
        """Where it looked, of files."""

    def look(self, where: str, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.looked += 1
        for canary in self.canaries:
            for form in canary.within(data):
                line = f"{canary.name} ({form}) in {where}"
                if line not in self.found:
                    self.found.append(line)

    def files(self, folder: Path, *, but: tuple[Path, ...] = ()) -> None:
        """Look through all files below a folder, backups unpacked."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path not in but:
                data = path.read_bytes()
                self.names.add(path.name)
                self.look(str(path.relative_to(folder)), data)
                if data.startswith(b"{") and b'"mcpctl-backup/' in data[:64]:
                    for dump in orjson.loads(data)["dumps"]:
                        self.names.add(f"{path.name}: {dump['actor']}")
                        self.look(f"{path.name}: {dump['actor']}", zlib.decompress(base64.b64decode(dump["rows"])))

    def running(self, *, entrusted: dict[str, str]) -> None:
        """Look at the argument vector and the environment of every process.

        `entrusted` are programs that may have a canary in their environment.
        """
        for pid in processes():
            folder = Path(f"/proc/{pid}")
            try:
                vector, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:
                continue
            self.look(f"the arguments of {vector[:200]!r}", vector)
            due = [canary for program, canary in entrusted.items() if program.encode() in vector]
            others = Search(*(canary for canary in self.canaries if canary.name not in due))
            others.look(f"the environment of {vector[:200]!r}", environment)
            self.found += others.found


@dataclass
class Observer:
    """What one user hears who may hear all of one account."""

    account: str
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    async def take(self, msg) -> None:
        headers = str(msg.headers or "").encode()
        self.heard.append((msg.subject, f"{msg.subject} {msg.reply} ".encode() + headers + msg.data))


def let_in(folder: Path, *accounts: str) -> dict[str, Path]:
    """Add a user to each account of a configuration who may hear everything; return the files of their seeds.

    A server that runs must be started again: who answers the auth callout is not read anew.
    """
    config, seeds = folder / "accounts.conf", {}
    text = config.read_text()
    for number, account in enumerate(accounts):
        seeds[account] = folder.parent / f"observer-{account}.nk"
        seeds[account].write_bytes(nkeys.encode_seed(bytes([number] * 32), nkeys.PREFIX_BYTE_USER))
        seeds[account].chmod(0o600)
        text = with_user(text, account, nkeys.from_seed(seeds[account].read_bytes()).public_key.decode())
    config.write_text(text)
    return seeds


@contextmanager
def observing(url: str, seeds: dict[str, Path]):
    """Hear everything in the accounts that these users belong to, in a thread of its own."""
    observers = {account: Observer(account) for account in seeds}
    ready, stop = threading.Event(), threading.Event()
    listener = threading.Thread(target=lambda: asyncio.run(_listen(url, seeds, observers, ready, stop)))
    listener.start()
    try:
        assert ready.wait(20), "the observers are not let in"
        yield observers
    finally:
        stop.set()
        listener.join()


async def _listen(url, seeds, observers, ready, stop):
    clients = [Client() for _ in seeds]
    for client, (account, seed) in zip(clients, seeds.items(), strict=True):
        await client.connect(url, nkeys_seed=str(seed))
        await client.subscribe(">", cb=observers[account].take)
        await client.flush()
        await client.flush()
    ready.set()
    await asyncio.to_thread(stop.wait)
    for client in clients:
        await client.close()


def with_user(config: str, account: str, public: str) -> str:
    """Return a configuration with one more user of an account, who may hear everything and say nothing."""
    user = f'{{ nkey: {public}, permissions: {{ publish: {{ deny: ">" }}, subscribe: {{ allow: ">" }} }} }}'
    start = re.search(rf"(?m)^\s*{account}\s*\{{", config)
    assert start is not None, f"no account {account}"
    depth, end = 1, start.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(config[end], 0)
        end += 1
    block = config[start.end() : end]
    if "users: [" in block:
        block = block.replace("users: [", f"users: [\n      {user}\n", 1)
    else:
        block = f" users: [ {user} ] {block}"
    config = config[: start.end()] + block + config[end:]
    return config.replace("auth_users: [", f'auth_users: ["{public}", ', 1)
