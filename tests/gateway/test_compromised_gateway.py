"""A gateway that somebody else holds: what its connection to the bus is worth, tried without any of our code in it."""

import asyncio
import json
import secrets
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from mcpctl.bus.contract import Call, declared
from mcpctl.bus.contracts import audit, token
from mcpctl.bus.contracts.every import CONTRACTS
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.bus.misuse import REPLY_MISMATCH
from tests.raw_nats import RawNats

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = [item for module in CONTRACTS for item in declared(module) if isinstance(item, Call)]
NOT_JSON = (b"", b"\xff\xfe", b"[]", b"{", b'"x"', b"[" * 100_000, b'{"bearer":' * 100_000, b'{"bearer": 1}')
PATIENCE = 20


@asynccontextmanager
async def connected(system, role="gateway", bearer=""):
    """A connection that also hears its own inbox; `ask` gives it a fresh reply subject."""
    identity = AdmittedIdentity(role, bearer)
    raw = await RawNats.connect(system.nats.url, identity)
    raw.caller = identity.caller
    raw.subscribe(f"_INBOX.{raw.caller}.>")
    assert await raw.barrier() == []

    async def ask(subject, payload):
        async with asyncio.timeout(PATIENCE):
            return await RawNats.ask(raw, subject, payload, f"_INBOX.{raw.caller}.srv.{secrets.token_hex(16)}")

    raw.asked = ask
    try:
        yield raw
    finally:
        await raw.close()


@pytest_asyncio.fixture(loop_scope="session")
async def thief(system):
    """The script that has a gateway's place on the bus: an anonymous edge, which has what any other gateway has."""
    async with connected(system) as raw:
        yield raw


async def end_of(raw, project, sent):
    """Return the last frame of the answer to a request of the data plane: its head, and its body."""
    reply = f"_INBOX.{raw.caller}.srv.{secrets.token_hex(16)}"
    async with asyncio.timeout(PATIENCE):
        answer = await RawNats.ask(raw, f"mcpctl.v1.mcp.{project}.{raw.caller}", sent, reply)
        while (head := json.loads(answer.payload.partition(b"\n")[0]))["kind"] != "end":
            answer = await raw.next()
    return head, answer.payload.partition(b"\n")[2]


async def events(system, **wanted):
    """Return the newest events of the ledger."""
    asked = audit.Query(bearer=system.bearer, filter=audit.Filter(**wanted), limit=200)
    return [entry.event for entry in (await system.operator.call(audit.query, asked)).items]


async def eventually(look):
    async with asyncio.timeout(PATIENCE):
        while not (found := await look()):
            await asyncio.sleep(0.05)
    return found


def asked_by(role):
    return [call for call in CALLS if role in call.asked_by]


def request(bearer, project, method="tools/list", **more):
    """Return a request of the data plane, as a gateway sends it."""
    head = {"bearer": bearer, "project": project, "method": method, "budget": 5000, "correlation": "c" * 16, **more}
    named = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in named.items()}
    return json.dumps(head).encode() + b"\n" + json.dumps({"_meta": meta, **more.get("params", {})}).encode()


async def test_nobody_answers_to_where_the_asker_may_not_listen(system, thief):
    """Each request names reply subjects that are not its caller's: another's inbox, a feed, the ledger, a request."""
    async with connected(system) as victim, connected(system, "operator", system.bearer) as operator:
        targets = (
            f"_INBOX.{victim.caller}.planted",
            f"_INBOX.{victim.caller}.srv.{'0' * 32}",
            f"_INBOX.{operator.caller}.planted",
            "_INBOX.router.planted",
            "mcpctl.v1.event.token.changed",
            "mcpctl.v1.audit.append.token",
            f"mcpctl.v1.token.revoke.{operator.caller}",
            "mcpctl.v1.audit.web.call.allow.user-admin",
            "$JS.API.STREAM.PURGE.AUDIT",
        )
        for asker, calls in ((thief, asked_by("gateway")), (operator, asked_by("operator"))):
            for call in calls:
                for target in targets:
                    if asker.caller not in target:
                        asker.publish(call.subject(asker.caller), b"{}", target)
            for target in targets:
                if asker is thief:
                    asker.publish(f"mcpctl.v1.mcp.dual.{asker.caller}", request(system.tokens["dual"], "dual"), target)
                    asker.publish(f"mcpctl.v1.gateway.all.{asker.caller}", b'{"type":"renew","session":"x"}', target)
            assert await asker.barrier() == []
            for call in calls:  # each has taken what came before this
                assert (await asker.asked(call.subject(asker.caller), b"")).code == "bad_request", call.name
        assert (await end_of(thief, "dual", b"no head"))[0]["fault"][0] == "bad_request"

        await victim.barrier()
        await operator.barrier()
        assert victim.heard == []
        assert [heard for heard in operator.heard if "planted" in heard.subject] == []
    told = await eventually(lambda: mismatches(system))
    assert any(thief.caller in str(event.detail) for event in told)


async def mismatches(system):
    return [
        event for kind in ("bus", "edge") for event in await events(system, kind=kind) if event.rule == REPLY_MISMATCH
    ]


async def test_what_is_no_request_is_answered_as_such_and_ends_nobody(system, thief):
    for call in asked_by("gateway"):
        for payload in NOT_JSON:
            assert (await thief.asked(call.subject(thief.caller), payload)).code == "bad_request", (
                call.name,
                payload[:9],
            )
    for payload in (*NOT_JSON, b'{"bearer": 1}\n{}', b"{}\n{}", request("x", "dual").partition(b"\n")[0]):
        assert (await end_of(thief, "dual", payload))[0]["fault"][0] in ("bad_request", "unauthenticated")
    later = {"version": 99, "bearer": system.bearer, "unheard_of": [1]}
    assert (await thief.asked(token.whoami.subject(thief.caller), json.dumps(later).encode())).code is None


async def test_it_cannot_ask_under_another_name_nor_what_only_others_may_ask(system, thief):
    for call in CALLS:
        if call not in asked_by("gateway"):
            thief.publish(call.subject(thief.caller), b"{}")
        for name in ("router", "token", system.operator.caller, "gateway-aaaaaaaaaaaaaaaa"):
            thief.publish(call.subject(name), b"{}")
    refused = await thief.barrier()

    # On the routers' subjects it may ask one router by its id: what it may not ask of all of them, they drop.
    of_routers = [call for call in CALLS if call.actor == "router" and call not in asked_by("gateway")]
    assert len(refused) == 5 * len(CALLS) - len(asked_by("gateway")) - len(of_routers)
    for call in of_routers:
        thief.publish(call.subject(thief.caller), bearer_of(system.bearer), f"_INBOX.{thief.caller}.nobody")
    assert b'"tools"' in (await end_of(thief, "dual", request(system.tokens["dual"], "dual")))[1]
    assert [heard for heard in thief.heard if heard.subject.endswith(".nobody")] == []


async def test_it_mints_revokes_and_reads_nothing_on_a_bearer_of_its_own_choice(system, thief):
    """Every call that acts for somebody, with no bearer, an invented one, and that of an agent of one project."""
    invented = "mcpctl_ses_0000000000000000000000000000000000000000000000000"
    issue = {"project": "dual", "name": "forged", "bindings": [{"role": "edit", "resource": "*"}]}
    revoke = {"project": "old", "name": "agent"}
    for bearer, code in (("", "unauthenticated"), (invented, "unauthenticated"), (system.tokens["dual"], "forbidden")):
        for call, fields in ((token.issue, issue), (token.revoke, revoke), (token.create_user, {"name": "eve"})):
            asked = {
                "bearer": bearer,
                "principal": "User:admin",
                "as": "User:admin",
                "password": "a password",
                **fields,
            }
            answer = await thief.asked(call.subject(thief.caller), json.dumps(asked).encode())
            assert answer.code == code, (call.name, answer)
    listed = await system.operator.call(token.list_tokens, token.ListTokens(bearer=system.bearer, project="dual"))
    assert "forged" not in [item.name for item in listed.items]
    assert (await thief.asked(token.resolve.subject(thief.caller), bearer_of(system.tokens["old"]))).code is None


async def test_the_principal_that_it_names_is_nobody_to_the_router(system, thief):
    """The router resolves the bearer itself: whatever else the head says, another project's token stays outside."""
    claims = {"principal": "User:admin", "sha": "0" * 64, "kind": "User", "name": "admin", "scope": "*"}
    for project, bearer, fault in (
        ("old", system.tokens["dual"], "forbidden"),
        ("old", "", "unauthenticated"),
        ("old", "mcpctl_pat_nonsense", "unauthenticated"),
        ("a.b > *", system.tokens["dual"], "forbidden"),
        ("x\r\nPUB mcpctl.v1.event.token.changed 2\r\n{}\r\n", system.tokens["dual"], "forbidden"),
    ):
        assert (await end_of(thief, "old", request(bearer, project, **claims)))[0]["fault"][0] == fault
    assert b'"tools"' in (await end_of(thief, "dual", request(system.tokens["dual"], "dual", **claims)))[1]


async def test_it_hears_nothing_of_what_other_gateways_carry(system, thief):
    for subject in ("mcpctl.v1.mcp.>", "mcpctl.v1.>", ">", "_INBOX.>", "mcpctl.v1.gateway.>", "mcpctl.v1.router.*.*"):
        thief.subscribe(subject)
        thief.subscribe(subject, "router")
    thief.subscribe("mcpctl.v1.event.*.*")
    assert len(await thief.barrier()) == 13
    before = len(await events(system, kind="call"))

    async with connected(system) as other:
        assert b'"tools"' in (await end_of(other, "dual", request(system.tokens["dual"], "dual")))[1]

    await thief.barrier()
    assert thief.heard == []
    assert len(await events(system, kind="call")) >= before


async def test_what_it_writes_into_the_ledger_is_a_refusal_under_its_own_name(system, thief):
    forged = {
        "id": "f" * 24,
        "at": 1,
        "kind": "call",
        "outcome": "allow",
        "principal": "user-admin",
        "name": "forged/it",
    }
    borrowed = forged | {
        "id": "e" * 24,
        "kind": "edge",
        "outcome": "deny",
        "gateway": "gateway-other",
        "name": "borrowed",
    }
    answer = await thief.asked(
        f"mcpctl.v1.audit.append.{thief.caller}", json.dumps(forged).encode() + b"\n" + json.dumps(borrowed).encode()
    )
    assert b'"stream":"AUDIT"' in answer.payload
    for name in ("token", "router", "audit", "gateway-aaaaaaaaaaaaaaaa"):
        thief.publish(f"mcpctl.v1.audit.append.{name}", json.dumps(forged).encode())
    thief.publish("mcpctl.v1.audit.web.call.allow.user-admin", b"{}")
    assert len(await thief.barrier()) == 5

    async def both():
        kept = [*await events(system, kind="audit.forged"), *await events(system, kind="edge")]
        found = [event for event in kept if event.gateway == thief.caller]
        return found if len(found) == 2 else None

    unfit, refusal = await eventually(both)
    assert (unfit.outcome, refusal.outcome, refusal.name) == ("deny", "deny", "borrowed")
    assert [event for event in await events(system, kind="call") if event.name == "forged/it"] == []


def bearer_of(text):
    return json.dumps({"bearer": text}).encode()
