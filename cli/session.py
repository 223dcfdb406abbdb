"""A command's connection to the bus, on the authority of the one who logged in."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from mcpctl.bus.bearer import kind_of
from mcpctl.bus.connection import Bus, first_fault
from mcpctl.bus.contract import Call, Message
from mcpctl.bus.errors import BusError, Unauthenticated, Unavailable
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.bus.nats_url import checked_url, trust
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import USAGE, CliError, NotLoggedIn
from mcpctl.cli.explain import explain, humane

R = TypeVar("R", bound=Message)

# What a command has to say is its answer and its error: the bus's own log lines are for the parts.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it remarks on how nats-py closes TLS and WebSockets


@dataclass(frozen=True)
class Session:
    """An open connection, and the bearer that every request carries."""

    bus: Bus
    context: Context

    async def ask(self, call: Call[Any, R], /, **members: Any) -> R:
        """Ask, with those members that the request has. Raises `CliError` for a bad one, `BusError` for a refusal."""
        fields = call.request.model_fields
        known = {name: value for name, value in members.items() if name in fields}
        if "bearer" in fields:
            known.setdefault("bearer", self.context.bearer or "")
        return await self.bus.call(call, checked(call.request, **known))


def checked(model: type[R], **members: Any) -> R:
    """Build a message. Raises `CliError` that names the member at fault."""
    try:
        return model(**members)
    except ValidationError as error:
        raise CliError(humane(first_fault(error)), USAGE) from error


@asynccontextmanager
async def session(context_name: str | None) -> AsyncIterator[Session]:
    """Connect as the operator whose session the context holds. Raises `CliError`."""
    _, context = Config.load().get(context_name)
    if context.bearer is None:
        raise NotLoggedIn
    try:
        async with connected(context) as opened:
            yield opened
    except Unauthenticated as error:
        raise ended(context) if context.source else explain(error, context.user) from error
    except BusError as error:
        raise explain(error, context.user) from error


@asynccontextmanager
async def connected(context: Context) -> AsyncIterator[Session]:
    """Connect as an operator. Raises `CliError` where the session has ended, `BusError` else."""
    bus = await admitted(context)
    try:
        yield Session(bus, context)
    finally:
        await bus.close(grace=0)


async def admitted(context: Context) -> Bus:
    """Connect with the context's bearer; tell a bearer that is no longer good from a bus that admits nobody."""
    if kind_of(context.bearer or "") == "pat":
        raise CliError(
            f"{context.source or 'the context'} holds an mcptoken, which is for agents (mcpctl test mcp, mcpctl call): "
            "log in with mcpctl login, or give the bearer of a service account"
        )
    operator = AdmittedIdentity("operator", context.bearer or "")
    try:
        return await _connect(context, operator)
    except Unavailable as refusal:
        if "authorization" not in str(refusal).lower():
            raise
    async with anonymous(context):
        try:  # a token actor that did not answer in time looks the same as one that refuses
            return await _connect(context, operator)
        except Unavailable as refusal:
            raise ended(context) from refusal


def ended(context: Context) -> CliError:
    """Return the error of a bearer that is no longer good."""
    if context.source is None:
        return NotLoggedIn(context.user)
    return CliError(f"the bearer in {context.source} is not accepted: it is unknown, expired or revoked")


@asynccontextmanager
async def anonymous(context: Context) -> AsyncIterator[Session]:
    """Connect as one who has yet to log in. Raises `Unavailable`."""
    try:
        bus = await _connect(context, AdmittedIdentity("login"))
    except Unavailable as error:
        if "authorization" in str(error).lower():
            raise Unavailable(f"the bus at {context.nats_url} admits nobody: no token actor answers") from error
        raise
    try:
        yield Session(bus, context)
    finally:
        await bus.close(grace=0)


async def _connect(context: Context, identity: AdmittedIdentity) -> Bus:
    """Connect. Raises `Unavailable`, and `CliError` for a context that leads nowhere."""
    try:
        url, tls = checked_url(context.nats_url), trust(context.ca)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    return await Bus.connect(url, identity, tls=tls)
