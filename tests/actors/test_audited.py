"""Every call that changes something leaves an audit event, refused ones too: from the contracts, none is forgotten."""

import datetime as dt
import types
import typing

import pytest
from pydantic import BaseModel

from mcpctl.actors.audit_sink import AuditSink
from mcpctl.actors.catalog import Catalog
from mcpctl.actors.rbac_evaluator import RbacEvaluator
from mcpctl.actors.session_gate import SessionGate
from mcpctl.actors.token_registry import TokenRegistry
from mcpctl.actors.upstream_router import UpstreamRouter
from mcpctl.bus.contract import Authorized, Call, declared
from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.every import CONTRACTS
from mcpctl.bus.errors import Forbidden, NotFound

ACTORS = {
    actor.role: actor for actor in (AuditSink, Catalog, RbacEvaluator, SessionGate, TokenRegistry, UpstreamRouter)
}

NOTE_BY_THEMSELVES = {
    "token.revoke_by_id",
    "token.delete_by_id",
    "catalog.edit_prompt",
    "catalog.delete_prompt",
    # An event for each document that is changed, or refused:
    "token.apply_principals",
    "token.apply_tokens",
    "rbac.apply",
    "catalog.apply",
    # The quarantine of a tool is an event of kind `catalog.quarantine`:
    "catalog.report_tools",
    # Prompts that were given are events of kind `gate`, and who read a log is one of kind `router.read_log`:
    "session.open_gate",
    "router.read_log",
}

NO_DECISION = {
    "resolving and deciding, on behalf of a call that has its own event": {
        "token.resolve",
        "token.find_principal",
        "token.find_principals",
        "rbac.check",
        "rbac.scope",
        "rbac.check_ceiling",
        "catalog.token_terms",
        "catalog.view",
        "catalog.find_pins",
        "catalog.unseal",
        "catalog.unseal_model",
        "catalog.read_prompts",
        "session.find_passage",
    },
    "reading what is one's own": {"token.whoami", "token.introspect", "token.get_by_id"},
    "reading what is decided item by item": {"catalog.list_prompts", "catalog.get_prompt", "catalog.prompt_index"},
    "book-keeping of parts about themselves": {
        "token.used",
        "session.open",
        "session.find",
        "session.close",
        "session.set_log_level",
        "session.set_subscription",
        "session.take_stream",
        "session.claim",
        "session.keep",
        "session.note_reading",
    },
    "part of a change that has an event of its own": {"rbac.unbind"},
    "telling who has confirmed a change": {"token.receipt", "rbac.receipt", "catalog.receipt"},
    "the change feeds": {"token.changes", "rbac.changes", "catalog.changes", "session.changes"},
}


def calls():
    return {call.name: call for module in CONTRACTS for call in declared(module) if isinstance(call, Call)}


def is_read(call):
    return call.needs is not None and call.needs.verb == "view"


def audited():
    return {name for name, call in calls().items() if call.verb in ACTORS[call.actor].audited}


def test_every_call_is_a_read_or_audited_or_named_as_no_decision():
    reads = {name for name, call in calls().items() if is_read(call)}
    named = set().union(*NO_DECISION.values())

    assert set(calls()) - reads - audited() - NOTE_BY_THEMSELVES == named
    assert not reads & audited()


def filled(kind):
    """Return some value of a type, as small as it may be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return filled(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin in {typing.Union, types.UnionType}:
        return filled(arguments[0])
    if origin in {tuple, list, dict} or kind in {tuple, dict}:
        return {} if origin is dict or kind is dict else ()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        required = {name: field for name, field in kind.model_fields.items() if field.is_required()}
        given = {name: SPECIAL.get(name) or filled(field.annotation) for name, field in required.items()}
        return given | BESIDE.get(kind, {})
    return {str: "web", int: 1, bool: False, dt.datetime: "2026-01-01T00:00:00Z"}[kind]


SPECIAL = {
    "sha": "0" * 64,
    "id": "0" * 64,
    "password": "correct horse battery staple",
    "subjects": ("User:ann",),
    "approvals": ({"tool": "web", "digest": "0" * 64},),
    "bindings": ({"role": "view", "resource": "servers"},),
    "owner": {"kind": "User", "name": "ann"},
}

BESIDE = {catalog.ServerSpec: {"url": "http://127.0.0.1:1/mcp"}, catalog.PromptSpec: {"content": "words"}}
"""What takes one of several members."""

ASKED = {
    name: call
    for name, call in calls().items()
    if "operator" in call.callers
    and call.actor in {"token", "rbac", "catalog"}
    and issubclass(call.request, Authorized)
    and (
        (name in audited() and call.needs)
        or name in NOTE_BY_THEMSELVES - {"rbac.apply", "catalog.apply", "token.apply_principals", "token.apply_tokens"}
    )
}


async def test_every_change_that_is_refused_leaves_an_event_that_says_who_asked(plane, root):
    written = []
    for actor in (plane.registry, plane.evaluator, plane.catalog):
        append = actor.audit.append
        actor.audit.append = lambda event, append=append: written.append(event) or append(event)
    await root.add_user("ann")
    ann = await plane.login("ann")
    await root.bus.client.flush()

    for name, call in ASKED.items():
        written.clear()
        with pytest.raises((Forbidden, NotFound)):
            await ann.bus.call(call, call.request(**filled(call.request) | {"bearer": ann.bearer}))
        left = [(event["kind"], event["outcome"], event.get("principal")) for event in written]
        assert left == [(name, "deny", "user-ann")], name
    assert len(ASKED) > 30
