"""Who is let onto the bus, as what, and what he can do there."""

import asyncio

import pytest

from mcpctl.actors.token_registry.user_jwt import read_request
from mcpctl.bus.connection import Bus, connect_nats
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import DeadlineExceeded, Forbidden, Unauthenticated, Unavailable
from mcpctl.bus.identity import AdmittedIdentity, caller_name, inbox_of


async def service_account(root, **fields):
    await root.ask(token.create_service_account, name="edge")
    return (await root.ask(token.issue_service_account_token, name="edge", **fields)).bearer


async def refused(plane, identity):
    with pytest.raises(Unavailable, match=r"(?i)authorization"):
        await Bus.connect(plane.nats.url, identity)


async def test_a_login_connection_reaches_login_and_bootstrap_only(plane, root):
    door = await plane.connect(AdmittedIdentity("login"))

    with pytest.raises(DeadlineExceeded):
        await door.call(token.whoami, token.WhoAmI(bearer=root.bearer), timeout=0.3)
    with pytest.raises(DeadlineExceeded):
        await door.call(rbac.check, rbac.Check(bearer=root.bearer, resource="servers"), timeout=0.3)


async def test_an_operator_presents_a_session_or_a_service_accounts_bearer(plane, root):
    bearer = await service_account(root)

    operator = await plane.operator(bearer)

    assert (await operator.ask(token.whoami)).name == "edge"


async def test_an_operator_with_an_mcptoken_is_refused(plane, root):
    issued = await root.issue("web", "ci", "role:edit,resource:*")

    await refused(plane, AdmittedIdentity("operator", issued.bearer))


@pytest.mark.parametrize("role", ["operator", "gateway"])
@pytest.mark.parametrize("bearer", ["", "nonsense", "mcpctl_ses_0000000000000000000000000000000000000000000000000"])
async def test_without_a_live_bearer_there_is_no_connection(plane, root, role, bearer):
    await refused(plane, AdmittedIdentity(role, bearer))


async def test_a_login_connection_presents_no_bearer(plane, root):
    await refused(plane, AdmittedIdentity("login", root.bearer))


async def test_a_user_that_the_callout_does_not_know_is_refused(plane, root):
    with pytest.raises(Unavailable):
        await connect_nats(plane.nats.url, on_closed=lambda: None, user="token", password=f"{'n' * 22}:{root.bearer}")


async def test_a_short_nonce_is_refused_since_its_caller_name_could_be_guessed(plane, root):
    await refused(plane, AdmittedIdentity("operator", root.bearer, nonce="short"))


async def test_a_revoked_session_connects_no_more(plane, root):
    second = await plane.login("root")
    await second.ask(token.logout)

    await refused(plane, AdmittedIdentity("operator", second.bearer))


async def test_a_gateway_presents_a_service_accounts_bearer_and_no_other(plane, root):
    bearer = await service_account(root)

    gateway = await plane.connect(AdmittedIdentity("gateway", bearer))
    await refused(plane, AdmittedIdentity("gateway", root.bearer))

    resolved = await gateway.call(token.resolve, token.ResolveBearer(bearer=root.bearer))
    assert resolved.principal.name == "root"


async def test_an_anonymous_gateway_is_admitted_only_where_the_operator_says_so(plane, root):
    await refused(plane, AdmittedIdentity("gateway"))

    plane.settings.bus_anonymous_edge = True
    await plane.restart_registry()

    gateway = await plane.connect(AdmittedIdentity("gateway"))
    assert gateway.caller.startswith("gateway-")
    await refused(plane, AdmittedIdentity("gateway", "mcpctl_sa_wrong"))


async def test_a_gateway_asks_only_what_it_serves_over_http(plane, root):
    gateway = await plane.connect(AdmittedIdentity("gateway", await service_account(root)))

    for call, request in (
        (token.apply_tokens, token.ApplyTokens(bearer=root.bearer)),
        (token.bootstrap, token.Bootstrap(secret="x", user="eve", password="a password")),
        (token.find_principal, token.FindPrincipal(bearer=root.bearer, subject="User:root")),
        (rbac.check_ceiling, rbac.CheckCeiling(bearer=root.bearer)),
    ):
        with pytest.raises(DeadlineExceeded):
            await gateway.call(call, request, timeout=0.3)


async def test_nobody_asks_under_another_callers_name(plane, root):
    other = await plane.login("root")

    with pytest.raises(Exception, match=r"(?i)timeout"):
        await root.bus.client.request(token.whoami.subject(other.bus.caller), b"{}", timeout=0.3)


async def test_nobody_listens_to_another_callers_answers(plane, root):
    other = await plane.login("root")
    heard = asyncio.Queue()
    await root.bus.receive(f"{inbox_of(other.bus.caller)}.>", heard.put)
    await root.bus.receive("_INBOX.>", heard.put)
    await root.bus.ready()

    await other.ask(token.whoami)
    await root.ask(token.whoami)

    subjects = [heard.get_nowait().subject for _ in range(heard.qsize())]
    assert not [subject for subject in subjects if other.bus.caller in subject]


async def test_an_answer_goes_only_to_the_inbox_of_the_one_who_asked(plane, root):
    """An operator may not publish to inboxes; that it names another's as the reply subject is for the actor to see."""
    victim = await plane.login("root")
    heard = asyncio.Queue()
    target = f"{inbox_of(victim.bus.caller)}.planted"
    await victim.bus.receive(target, heard.put)
    await victim.bus.ready()
    request = token.WhoAmI(bearer=root.bearer).model_dump_json().encode()

    await root.bus.client.publish(token.whoami.subject(root.bus.caller), request, reply=target)
    await root.ask(token.whoami)
    await victim.ask(token.whoami)

    assert heard.empty()


async def test_a_reconnecting_client_keeps_its_name(plane, root):
    identity = AdmittedIdentity("operator", root.bearer)

    first = await plane.connect(identity)
    await first.close()
    second = await plane.connect(identity)

    assert first.caller == second.caller == caller_name("operator", identity.nonce)
    assert (await second.call(token.whoami, token.WhoAmI(bearer=root.bearer))).name == "root"


async def test_a_connection_ends_when_its_bearer_expires(plane, root):
    bearer = await service_account(root, ttl_seconds=3)

    operator = await plane.operator(bearer)

    await ends(operator.bus)


async def test_a_gateway_hears_the_token_feed(plane, root):
    gateway = await plane.connect(AdmittedIdentity("gateway", await service_account(root)))
    heard = asyncio.Queue()
    await gateway.listen(token.feed.changed, heard.put)
    await gateway.ready()

    issued = await root.issue("web", "ci")

    assert (await asyncio.wait_for(heard.get(), 5)).change.key == issued.token.id


async def test_many_connect_at_once(plane, root):
    identities = [AdmittedIdentity("operator", root.bearer) for _ in range(20)]

    buses = await asyncio.gather(*(plane.connect(identity) for identity in identities))

    assert len({bus.caller for bus in buses}) == 20


@pytest.mark.parametrize("data", [b"", b"x", b"a.b.c", b"a.e30.c", b"..", b"\xff.\xff.\xff"])
def test_what_is_no_auth_request_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        read_request(data)


async def ends(bus):
    """Return when the server has ended the connection."""
    async with asyncio.timeout(10):
        while bus.client.is_connected:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["revoked", "deleted", "logged out", "disabled", "by another replica"])
async def test_a_connection_ends_when_its_bearer_is(plane, root, way):
    await root.add_user("ann")
    await root.ask(token.create_service_account, name="edge")
    issued = await root.ask(token.issue_service_account_token, name="edge")
    gateway = await plane.connect(AdmittedIdentity("gateway", issued.bearer))
    kept = await root.ask(token.issue_service_account_token, name="edge")
    ann = await plane.login("ann")
    others = await plane.connect(AdmittedIdentity("operator", root.bearer))
    doomed = ann.bus if way in ("logged out", "disabled") else gateway

    started = asyncio.get_running_loop().time()
    if way == "by another replica":
        plane.registry._changes.on_written.clear()
    if way in ("revoked", "by another replica"):
        await root.ask(token.revoke_service_account_token, name="edge", id=issued.id)
    elif way == "deleted":
        await root.ask(token.delete_service_account, name="edge")
    elif way == "logged out":
        await ann.ask(token.logout)
    else:
        await root.ask(token.edit_user, name="ann", disabled=True)
    await ends(doomed)
    assert asyncio.get_running_loop().time() - started < 5

    assert others.client.is_connected
    assert root.bus.client.is_connected
    if way == "revoked":
        assert (await plane.operator(kept.bearer)).bus.client.is_connected
    await refused(plane, AdmittedIdentity("operator" if doomed is ann.bus else "gateway", doomed.identity.bearer))


async def test_the_router_of_a_site_is_an_admins_to_make_and_its_bearer_is_for_the_bus_alone(plane, root):
    await root.add_user("clerk")
    await root.grant("clerks", "User:clerk", "role:edit,resource:serviceaccounts")
    clerk = await plane.login("clerk")
    with pytest.raises(Forbidden, match="admins"):
        await clerk.ask(token.create_service_account, name="lab", router_site="lab")
    await root.ask(token.create_service_account, name="lab", router_site="lab")
    with pytest.raises(Forbidden, match="admins"):
        await clerk.ask(token.issue_service_account_token, name="lab")
    bearer = (await root.ask(token.issue_service_account_token, name="lab")).bearer

    there = await plane.connect(AdmittedIdentity("router", bearer, site="lab"))

    assert there.caller.endswith("-lab")
    with pytest.raises(Unauthenticated, match="unknown"):
        await there.call(token.resolve, token.ResolveBearer(bearer=bearer))
    assert (await there.call(token.resolve, token.ResolveBearer(bearer=root.bearer))).principal.name == "root"
