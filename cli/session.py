"""A command's connection to the bus, on the authority of the one who logged in."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mcpctl.bus.contract import Call, Message
from mcpctl.bus.errors import BusError, Unavailable
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import USAGE, CliError, NotLoggedIn
from mcpctl.cli.explain import explain, humane

sys.modules.setdefault("aiohttp", None)  # type: ignore[arg-type]  # nats-py loads it (0.1 s) for ws:// alone

import structlog  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from mcpctl.bus.connection import Bus, first_fault  # noqa: E402

R = TypeVar("R", bound=Message)

# What a command has to say is its answer and its error: the bus's own log lines are for the parts.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


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
    try:
        return await Bus.connect(context.nats_url, AdmittedIdentity("operator", context.bearer or ""))
    except Unavailable as refusal:
        if "authorization" not in str(refusal).lower():
            raise
        async with anonymous(context.nats_url):
            raise NotLoggedIn(context.user) from refusal


@asynccontextmanager
async def anonymous(nats_url: str) -> AsyncIterator[Session]:
    """Connect as one who has yet to log in. Raises `Unavailable`."""
    try:
        bus = await Bus.connect(nats_url, AdmittedIdentity("login"))
    except Unavailable as error:
        if "authorization" in str(error).lower():
            raise Unavailable(f"the bus at {nats_url} admits nobody: no token actor answers") from error
        raise
    try:
        yield Session(bus, Context(nats_url))
    finally:
        await bus.close(grace=0)
