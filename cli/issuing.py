"""Bearers as they are shown, once."""

from datetime import datetime
from typing import Any

from mcpctl.bus.contracts import rbac
from mcpctl.bus.errors import BusError
from mcpctl.cli.listing import bindings_of
from mcpctl.cli.output import TokenFormat, note, print_data, say
from mcpctl.cli.session import Session
from mcpctl.cli.times import expiry

Bindings = tuple[rbac.Binding, ...]


async def bound(opened: Session, token: Any) -> Bindings | None:
    """Return what a new mcptoken may do, None where that cannot be seen: its bearer must be shown all the same."""
    try:
        return await bindings_of(opened, token)
    except BusError:
        return None


def print_token(issued: Any, bindings: Bindings | None, output: TokenFormat, told: str, *more: str) -> None:
    """Show a new mcptoken: what it is, until when, what it may do; its bearer comes last."""
    token = issued.token
    if output in (TokenFormat.JSON, TokenFormat.YAML):
        from mcpctl.cli.manifests import document  # noqa: PLC0415 - tables do without

        print_data({"bearer": issued.bearer, "token": document("mcptoken", token, bindings=bindings)}, output)
        return
    if token.quota is not None:
        more = (f"Its quota: {token.quota}", *more)
    if bindings:
        more = (f"It may: {'; '.join(map(str, bindings))}", *more)
    first = f'mcptoken "{token.name}" of project "{token.project}" {told}; it {_lasts(token.expires_at)}.'
    print_bearer(issued.bearer, output, f"mcptoken/{token.name}", first, *more)
    if bindings == () and output is TokenFormat.TABLE:
        note("It may do nothing yet: bind it when you create it, for example --bind role:run,resource:servers")


def print_account_token(issued: Any, output: TokenFormat) -> None:
    """Show a new bearer of a service account."""
    if output in (TokenFormat.JSON, TokenFormat.YAML):
        print_data(issued, output)
        return
    first = f'token of service account "{issued.name}" created; it {_lasts(issued.expires_at)}.'
    end = f"It is ended with: mcpctl revoke serviceaccounttoken {issued.name} {issued.id}"
    print_bearer(issued.bearer, output, f"serviceaccount/{issued.name}", first, end)


def print_bearer(bearer: str, output: TokenFormat, name: str, *lines: str) -> None:
    """Print a bearer alone, the name that it is for, or `lines` and the bearer below."""
    if output is TokenFormat.TOKEN:
        say(bearer)
    elif output is TokenFormat.NAME:
        say(name)
    else:
        for line in (*lines, "This is its bearer, shown only now:", bearer):
            say(line)


def _lasts(expires_at: datetime | None) -> str:
    if expires_at is None:
        return "never expires"
    return f"expires {expiry(expires_at)} ({expires_at.astimezone():%Y-%m-%d %H:%M})"
