"""`mcpctl config`: contexts, as kubectl has them."""

import re
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from mcpctl.bus.nats_url import servers
from mcpctl.cli.command_groups import Group
from mcpctl.cli.completion import context_names
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import DataFormat, Format, note, print_data, print_table, say

app = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    add_completion=False,
    help="Show and change contexts: where the CLI connects, and as whom.",
)

HIDDEN = "(hidden)"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=context_names)]


@app.command("get-contexts")
def get_contexts(
    *,
    output: Annotated[Format, typer.Option("-o", "--output", help="How to print them.")] = Format.TABLE,
) -> None:
    """List the contexts; the current one has a *.

    \b
    Examples:
      mcpctl config get-contexts
      mcpctl config get-contexts -o name
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    if output is Format.NAME:
        for name in config.contexts:
            say(name)
        return
    if output is not Format.TABLE:
        print_data({"items": [{"name": name} | _shown(found) for name, found in config.contexts.items()]}, output)
        return
    chosen = config.chosen(None)
    rows = [
        ("*" if name == chosen else " ", name, c.nats_url, c.gateway_url, c.user, "yes" if c.bearer else "no")
        for name, c in config.contexts.items()
    ]
    if rows:
        print_table(("CURRENT", "NAME", "NATS", "GATEWAY", "USER", "SESSION"), rows)
    else:
        note(f"no contexts in {config.path}")


@app.command("current-context")
def current_context() -> None:
    """Print the name of the context that is used where no option names one.

    \b
    Examples:
      mcpctl config current-context
    """  # noqa: D301 - \b keeps the examples' lines apart
    chosen = Config.load().chosen(None)
    if chosen is None:
        raise CliError("there is no current context: choose one with mcpctl config use-context NAME")
    say(chosen)


@app.command("use-context")
def use_context(name: Name) -> None:
    """Make a context the current one.

    \b
    Examples:
      mcpctl config use-context staging
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    config.named(name)
    config.current = name
    config.save()
    say(f'switched to context "{name}"')
    if config.chosen(None) != name:
        note(f"$MCPCTL_CONTEXT goes before it: {config.chosen(None)} is used until that is unset")


@app.command("set-context")
def set_context(
    name: Name,
    *,
    nats_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The bus: nats://, tls://, ws:// or wss:// and host:port.")
    ] = None,
    gateway_url: Annotated[str | None, typer.Option(metavar="URL", help="A gateway: http:// or https://.")] = None,
    ca: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="PEM file: the only CAs to believe on the bus; more CAs for the gateway."),
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Who logs in.")] = None,
) -> None:
    """Create a context, or change what the options name; an empty text removes it.

    A context that leads to another host, or is another user's, loses its login session: log in again.

    \b
    Examples:
      mcpctl config set-context staging --nats-url tls://bus.example.org:4222 --ca ~/staging-ca.pem --user ann
      mcpctl config set-context staging --gateway-url https://mcp.example.org
      mcpctl config set-context staging --ca ''
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    known = name in config.contexts
    if not known and not _NAME.fullmatch(name):
        raise CliError(f"{name!r} is no name of a context: write 1 to 63 letters, digits and inner . _ @ + -", USAGE)
    before = config.contexts.get(name, Context())
    given = {"nats_url": nats_url, "gateway_url": gateway_url, "ca": ca, "user": user}
    changes: dict[str, Any] = {member: text or None for member, text in given.items() if text is not None}
    if changes.get("nats_url", "") is None:
        changes["nats_url"] = Context().nats_url
    context = replace(before, **changes).checked()
    if before.bearer is not None and (_hosts(context) != _hosts(before) or context.user != before.user):
        context = replace(context, bearer=None)
        note(f"its login session is forgotten: run mcpctl login --context {name}")
    config.contexts[name] = context
    config.current = config.current or name
    config.save()
    say(f'context "{name}" {"changed" if known else "created"}')


def _hosts(context: Context) -> set[str | None]:
    return {urlsplit(url).hostname for url in servers(context.nats_url)}


@app.command("delete-context")
def delete_context(name: Name) -> None:
    """Forget a context. Its login session goes on until it ends: run mcpctl logout first to end it.

    \b
    Examples:
      mcpctl config delete-context staging
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    config.named(name)
    del config.contexts[name]
    if config.current == name:
        config.current = None
        note("it was the current context: choose another with mcpctl config use-context NAME")
    config.save()
    say(f'context "{name}" deleted')


@app.command()
def view(
    *,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print it.")] = DataFormat.YAML,
    minify: Annotated[bool, typer.Option("--minify", help="Only the context that is used now.")] = False,
    context: ContextName = None,
) -> None:
    """Show the contexts without their bearers.

    \b
    Examples:
      mcpctl config view
      mcpctl config view --minify -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    contexts = config.contexts
    if minify or context is not None:
        chosen, found = config.get(context)
        contexts = {chosen: found}
    shown = {name: _shown(found) for name, found in contexts.items()}
    form = DataFormat.YAML if output is DataFormat.TABLE else output
    print_data({"file": str(config.path), "current": config.chosen(context), "contexts": shown}, form)


def _shown(context: Context) -> dict[str, str]:
    hidden = {"bearer": HIDDEN} if context.bearer is not None else {}
    source = {"bearer_from": context.source} if context.source is not None else {}
    return context.members() | hidden | source
