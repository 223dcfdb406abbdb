"""`mcpctl apply`: bring resources to what documents say, all of them or none."""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mcpctl.bus.contract import Outcome, Ref
from mcpctl.bus.contracts.token import IssuedToken
from mcpctl.bus.errors import BusError
from mcpctl.cli.errors import REFUSED, UNAVAILABLE, USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.finding import every
from mcpctl.cli.given import read_text
from mcpctl.cli.manifests import KINDS, Manifest, read_all
from mcpctl.cli.mcp_servers import refuse_secret
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import DataFormat, note, print_data, say
from mcpctl.cli.plan import Done, NotUndone, Plan
from mcpctl.cli.replay import Replay, replay
from mcpctl.cli.resources import find
from mcpctl.cli.selectors import Selector
from mcpctl.cli.session import Session, session
from mcpctl.cli.times import parse_past
from mcpctl.cli.yaml_documents import parse

SUFFIXES = (".yaml", ".yml", ".json")


def apply(
    files: Annotated[
        list[str],
        typer.Option("-f", "--filename", metavar="FILE|DIR|-", help="Documents; of a folder all .yaml and .json."),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    replay_span: Annotated[
        str | None,
        typer.Option("--replay", metavar="TIME", help="With --dry-run: decide the calls of this time (24h) anew."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what has the labels of -l and is in no document.")
    ] = False,
    selector: Annotated[
        str | None, typer.Option("-l", "--selector", metavar="KEY=VALUE", help="Labels that documents must have.")
    ] = None,
    token_out: Annotated[
        str | None, typer.Option("--token-out", metavar="DIR", help="Folder for the bearers of new mcptokens (0600).")
    ] = None,
    plain: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Variable or header that is no secret; repeatable."),
    ] = None,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print what was done.")] = (
        DataFormat.TABLE
    ),
    context: ContextName = None,
) -> None:
    """Bring resources to what files say: all of it, or nothing.

    Every owner checks its part before anything is done. Mcptokens are created where they are missing and never
    changed.

    \b
    Examples:
      mcpctl apply -f team.yaml
      mcpctl apply -f config/ --dry-run
      mcpctl apply -f rbac.yaml --dry-run --replay 24h
      mcpctl apply -f config/ --prune -l app=shop
      mcpctl get project demo -o yaml | mcpctl apply -f -
      mcpctl apply -f agents.yaml --token-out ./tokens
    """  # noqa: D301 - \b keeps the examples' lines apart
    if prune and selector is None:
        raise CliError("--prune needs -l KEY=VALUE: it says what these documents own", USAGE)
    if replay_span is not None and not dry_run:
        raise CliError(
            "--replay needs --dry-run: it tells what the documents would change before they are applied", USAGE
        )
    since = parse_past(replay_span) if replay_span is not None else None
    chosen = Selector.parse(selector) if selector is not None else None
    manifests = load(files)
    for each in manifests:
        if each.kind.name == "server":
            _refuse_secret(each, plain or ())
    if chosen is not None:
        for each in manifests:
            if not chosen.fits(each.spec.labels):
                raise each.source.error(("labels",), f"{each.ref} has not the labels that -l {selector} asks for")
    folder = TokenFolder.make(token_out) if token_out is not None and not dry_run else None
    asyncio.run(_apply(manifests, chosen if prune else None, folder, output, context, dry_run=dry_run, since=since))


def _refuse_secret(server: Manifest, plain: Sequence[str]) -> None:
    try:
        refuse_secret(server.spec, plain)
    except CliError as error:
        raise server.source.error((), str(error)) from error


def load(files: Sequence[str]) -> list[Manifest]:
    """Read all documents of files, folders and stdin (`-`). Raises `CliError`."""
    found = [document for text, source in _texts(files) for document in parse(text, source)]
    if not found:
        raise CliError(f"there is no document in {', '.join(files)}", USAGE)
    return read_all(found)


def _texts(files: Sequence[str]) -> Iterable[tuple[str, str]]:
    for name in files:
        if name == "-":
            yield sys.stdin.read(), "stdin"
        elif Path(name).is_dir():
            for path in sorted(Path(name).iterdir()):
                if path.suffix in SUFFIXES and path.is_file():
                    yield read_text(str(path)), str(path)
        else:
            yield read_text(name), name


class TokenFolder:
    """Where the bearers of new mcptokens are written: `<project>.<name>.token`, for their owner's eyes alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def make(cls, path: str) -> "TokenFolder":
        """Make the folder where it is missing. Raises `CliError` where files cannot be written there."""
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CliError(f"cannot write to {path}: {error.strerror}", USAGE) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CliError(f"cannot write to {path}: permission denied", USAGE)
        return cls(folder)

    def write(self, issued: IssuedToken) -> Path:
        """Write a bearer. Raises `CliError`."""
        path = self._path / f"{issued.token.project}.{issued.token.name}.token"
        try:
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{issued.bearer}\n")
        except OSError as error:
            raise CliError(
                f"cannot write {path}: {error.strerror}; rotate the mcptoken to get another bearer"
            ) from error
        return path


async def _apply(
    manifests: list[Manifest],
    pruned: Selector | None,
    folder: TokenFolder | None,
    output: DataFormat,
    context: str | None,
    *,
    dry_run: bool,
    since: datetime | None,
) -> None:
    found: Replay | None = None
    async with session(context) as opened:
        unwanted = await _unwanted(opened, manifests, pruned) if pruned is not None else []
        plan = Plan(opened, manifests, unwanted)
        done = await plan.check()
        if not dry_run:
            done = await _carry_out(plan)
        if since is not None:
            definitions = [each.spec for each in manifests if each.kind.name == "rbac"]
            removed = [ref for ref in unwanted if ref.kind == "rbac"]
            found = await replay(opened, definitions, removed, done.items, since)
    _report(done, output, found, dry_run=dry_run)
    _keep(done, folder)


async def _carry_out(plan: Plan) -> Done:
    try:
        return await plan.carry_out()
    except NotUndone as failure:
        left = ", ".join(str(item.ref) for item in failure.left)
        text = f"{failure}; this stays done: {left}. The next apply completes it"
        raise CliError(text, UNAVAILABLE) from failure
    except BusError as error:
        failed = explain(error)
        code = REFUSED if failed.code == USAGE else failed.code
        raise CliError(f"{failed}; what was done before is undone", code) from error


async def _unwanted(opened: Session, manifests: list[Manifest], pruned: Selector) -> list[Ref]:
    """Return what has the labels and is in no document."""
    kept = {each.ref for each in manifests}
    found = []
    for kind in KINDS:
        resource = find(kind)
        for item in await every(opened, resource, None):
            labels = getattr(item, "spec", item).labels
            project = item.project if kind == "mcptoken" else None
            ref = Ref(kind=kind, name=resource.key(item), project=project)
            if ref not in kept and pruned.fits(labels) and getattr(item, "status", "active") == "active":
                found.append(ref)
    return found


def _report(done: Done, output: DataFormat, replayed: Replay | None, *, dry_run: bool) -> None:
    if output is not DataFormat.TABLE:
        items = [{"action": item.action, **item.ref.model_dump()} for item in done.items]
        print_data({"items": items} | ({"replay": replayed.data} if replayed is not None else {}), output)
        return
    for item in done.items:
        say(_line(item) + (" (dry run)" if dry_run else ""))
    if replayed is not None:
        replayed.show()


def _line(item: Outcome) -> str:
    where = f" -p {item.ref.project}" if item.ref.project else ""
    return f"{item.ref.kind}/{item.ref.name}{where} {'pruned' if item.action == 'removed' else item.action}"


def _keep(done: Done, folder: TokenFolder | None) -> None:
    for issued in done.issued:
        name = f"mcptoken {issued.token.name} of project {issued.token.project}"
        if folder is not None:
            note(f"The bearer of {name} is in {folder.write(issued)}")
        else:
            note(f"The bearer of {name} was not kept: use --token-out DIR, or rotate it to get one")
