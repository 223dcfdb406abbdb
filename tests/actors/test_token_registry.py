"""Users, service accounts and bearers, asked over the bus."""

import asyncio
import os
import time

import pytest
from argon2 import PasswordHasher

from mcpctl.actors.changes import ChangeRow
from mcpctl.actors.token_registry.mcptokens import McpTokens
from mcpctl.actors.token_registry.passwords import Throttle
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, UserRow
from mcpctl.bus.bearer import digest, mint
from mcpctl.bus.contract import Changed, PullChanges
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.identity import AdmittedIdentity

SECRET = "the-secret-of-the-first-start"
PASSWORD = "correct horse battery staple"


async def add_user(root, name, *groups):
    """Create a user, and the groups that are missing."""
    there = {group.name for group in (await root.ask(token.list_groups)).items}
    for group in set(groups) - there:
        await root.create_group(group)
    await root.ask(token.create_user, name=name, password=PASSWORD, groups=groups)


async def grant(root, name, subject, *bindings, project=None):
    await root.grant(name, subject, *bindings, project=project)


# The first user


async def test_the_first_user_is_an_admin_and_the_secret_is_gone(plane, root):
    me = await root.ask(token.whoami)

    assert (me.kind, me.name, me.owner.groups) == ("User", "root", ("admins",))
    assert not plane.settings.bootstrap_file.exists()


async def test_a_wrong_bootstrap_secret_is_refused(plane):
    door = await plane.connect(AdmittedIdentity("login"))

    with pytest.raises(Forbidden, match="not the bootstrap secret"):
        await door.call(token.bootstrap, token.Bootstrap(secret="guess", user="eve", password=PASSWORD))


async def test_a_bootstrap_secret_is_dead_fifteen_minutes_after_it_was_written(plane):
    door, file = await plane.connect(AdmittedIdentity("login")), plane.settings.bootstrap_file
    wanted = token.Bootstrap(secret=file.read_text().strip(), user="ann", password=PASSWORD)

    for age in (16 * 60, -16 * 60):  # a clock that was set back makes no secret live longer
        os.utime(file, times=(time.time() - age,) * 2)
        with pytest.raises(Forbidden, match="works for 15 minutes"):
            await door.call(token.bootstrap, wanted)
    os.utime(file)
    await door.call(token.bootstrap, wanted)


async def test_bootstrap_is_over_once_there_is_a_user(plane, root):
    door = await plane.connect(AdmittedIdentity("login"))

    for secret in (SECRET, ""):
        with pytest.raises(Conflict, match="log in"):
            await door.call(token.bootstrap, token.Bootstrap(secret=secret, user="eve", password=PASSWORD))


async def test_of_two_bootstraps_at_once_one_wins(plane):
    secret = plane.settings.bootstrap_file.read_text().strip()
    door = await plane.connect(AdmittedIdentity("login"))
    asked = [token.Bootstrap(secret=secret, user=user, password=PASSWORD) for user in ("ann", "bob")]

    outcomes = await asyncio.gather(*(door.call(token.bootstrap, request) for request in asked), return_exceptions=True)

    assert sorted(isinstance(outcome, Exception) for outcome in outcomes) == [False, True]


# Logging in


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(plane, root):
    door = await plane.connect(AdmittedIdentity("login"))

    answers = []
    for user in ("root", "nobody"):
        with pytest.raises(Unauthenticated) as refused:
            await door.call(token.login, token.Login(user=user, password="wrong password"))
        answers.append(str(refused.value))

    assert answers[0] == answers[1] == "wrong user or password"


async def test_after_five_wrong_passwords_even_the_right_one_has_to_wait(plane, root):
    door = await plane.connect(AdmittedIdentity("login"))
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await door.call(token.login, token.Login(user="root", password="wrong password"))

    with pytest.raises(Forbidden, match="wait"):
        await door.call(token.login, token.Login(user="root", password=PASSWORD))


async def test_the_pause_after_failed_logins_grows_and_ends():
    now = 0.0
    throttle = Throttle(lambda: now)

    async def fail():
        async with throttle.attempt("ann"):
            raise Unauthenticated("wrong user or password")

    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await fail()
    with pytest.raises(Forbidden, match="wait 1 s"):
        await fail()
    now = 1.0
    with pytest.raises(Unauthenticated):
        await fail()
    with pytest.raises(Forbidden, match="wait 2 s"):
        await fail()
    now = 3.0
    async with throttle.attempt("ann"):
        pass
    with pytest.raises(Unauthenticated):
        await fail()


async def test_guesses_at_the_same_time_count_like_guesses_one_after_the_other():
    throttle = Throttle(lambda: 0.0)

    async def fail():
        async with throttle.attempt("ann"):
            await asyncio.sleep(0)
            raise Unauthenticated("wrong user or password")

    outcomes = await asyncio.gather(*(fail() for _ in range(20)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unauthenticated] * 5 + [Forbidden] * 15


async def test_a_hash_of_older_parameters_is_renewed_at_the_next_login(plane, root):
    await plane.restart_registry(PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))

    await plane.login("root")

    (user,) = await plane.rows(UserRow)
    assert "t=2" in user.password_hash
    assert (await (await plane.login("root")).ask(token.whoami)).name == "root"


async def test_a_session_ends_with_logout(plane, root):
    second = await plane.login("root")

    await second.ask(token.logout)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(second.bearer)
    assert (await plane.resolve(root.bearer)).name == "root"


async def test_a_session_expires(plane, root):
    plane.clock.ahead_ms = token.SESSION_TTL_SECONDS * 1000 + 1

    with pytest.raises(Unauthenticated, match="expired"):
        await plane.resolve(root.bearer)


# Resolving


async def test_a_session_resolves_to_its_user_under_its_own_digest(plane, root):
    principal = await plane.resolve(root.bearer)

    assert (principal.kind, principal.name, principal.sha) == ("User", "root", digest(root.bearer))
    assert 0 < principal.expires_in_ms <= token.SESSION_TTL_SECONDS * 1000


@pytest.mark.parametrize(
    "bearer", ["", "mcpctl_pat_short", mint("pat"), mint("ses"), mint("sa"), "x" * 5000, "mcpctl_pat_é"]
)
async def test_a_bearer_that_was_never_issued_is_unknown(plane, bearer):
    with pytest.raises(Unauthenticated, match="unknown"):
        await plane.resolve(bearer)


async def test_a_bearer_is_nowhere_in_the_database(plane, root):
    issued = await root.issue("web", "ci")

    await plane.registry.bus.tasks.finish(5)
    stored = str(await plane.rows(UserRow, BearerRow, ChangeRow))

    assert digest(issued.bearer) in stored
    for secret in (issued.bearer, root.bearer, PASSWORD):
        assert secret not in stored


async def test_the_last_use_is_noted_once_a_minute(plane, root):
    issued = await root.issue("web", "ci")
    await plane.resolve(issued.bearer)
    await plane.registry.bus.tasks.finish(5)
    first = (await root.ask(token.describe, project="web", name="ci")).last_use

    plane.clock.ahead_ms = 30_000
    await plane.resolve(issued.bearer)
    await plane.registry.bus.tasks.finish(5)
    second = (await root.ask(token.describe, project="web", name="ci")).last_use
    plane.clock.ahead_ms = 90_000
    await plane.resolve(issued.bearer)
    await plane.registry.bus.tasks.finish(5)
    third = (await root.ask(token.describe, project="web", name="ci")).last_use

    assert first is not None
    assert first == second
    assert third.at > second.at


async def test_the_answer_carries_the_position_of_the_feed(plane, root):
    await root.issue("web", "ci")

    resolved = await plane.evaluator.bus.call(token.resolve, token.ResolveBearer(bearer=root.bearer))
    router = await plane.actor("router")
    pulled = await router.call(token.feed.pull, PullChanges(epoch=resolved.epoch, seq=0, instance="test"))

    assert resolved.seq == pulled.seq == pulled.changes[-1].seq
    assert not pulled.reset


async def test_a_follower_of_another_epoch_is_told_to_start_afresh(plane, root):
    router = await plane.actor("router")

    pulled = await router.call(token.feed.pull, PullChanges(epoch="other", seq=0, instance="test"))

    assert pulled.reset


# Mcptokens


async def test_an_issued_token_resolves_to_its_principal(plane, root):
    issued = await root.issue("web", "ci", "role:view,resource:servers")

    principal = await plane.resolve(issued.bearer)

    assert (principal.kind, principal.name, principal.project) == ("McpToken", "ci", "web")
    assert (principal.owner.name, principal.owner.groups) == ("root", ("admins",))
    assert issued.token.prefix in issued.bearer
    assert issued.token.status == "active"


async def test_a_name_is_taken_in_its_project_only_while_its_token_is_active(plane, root):
    await root.issue("web", "ci", ttl_seconds=60)
    await root.issue("shop", "ci")

    with pytest.raises(Conflict, match="active mcptoken ci already"):
        await root.issue("web", "ci")
    plane.clock.ahead_ms = 61_000
    await root.issue("web", "ci", ttl_seconds=None)
    await root.ask(token.revoke, project="web", name="ci")
    last = await root.issue("web", "ci")

    named = await root.ask(token.list_tokens, project="web")
    assert [item.status for item in named.items] == ["expired", "revoked", "active"]
    assert (await root.ask(token.describe, project="web", name="ci")).id == last.token.id


async def test_of_two_issues_of_one_name_at_once_exactly_one_wins(plane, root):
    outcomes = await asyncio.gather(*(root.issue("web", "ci") for _ in range(8)), return_exceptions=True)

    won = [outcome for outcome in outcomes if isinstance(outcome, token.IssuedToken)]
    assert len(won) == 1
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome not in won)


async def test_an_issue_beyond_the_issuers_rights_leaves_nothing_behind(plane, root):
    await add_user(root, "ann")
    await grant(root, "ann", "User:ann", "role:edit,resource:mcptokens", "role:view,resource:servers", project="web")
    ann = await plane.login("ann")

    with pytest.raises(Forbidden, match="role:run,resource:servers"):
        await ann.issue("web", "ci", "role:view,resource:servers", "role:run,resource:servers")

    assert (await root.ask(token.list_tokens, project="web")).items == ()
    assert [item.name for item in (await root.ask(rbac.list_definitions)).items] == ["admins", "ann"]
    assert (await ann.issue("web", "ci", "role:view,resource:servers")).token.owner.name == "ann"


async def test_who_may_not_create_tokens_issues_none(plane, root):
    await add_user(root, "ann")
    ann = await plane.login("ann")

    with pytest.raises(Forbidden, match="user ann may not create mcptokens ci in project web"):
        await ann.issue("web", "ci")


async def test_a_token_issues_only_below_itself(plane, root):
    parent = await root.issue(
        "web", "parent", "role:create,resource:mcptokens", "role:run,resource:tools", ttl_seconds=60
    )
    holder = root.holding(parent.bearer)

    child = await holder.issue("web", "child", "role:run,resource:tools,name:github/*", ttl_seconds=None)

    principal = await plane.resolve(child.bearer)
    assert principal.parents == (parent.token.id,)
    assert principal.owner.name == "root"
    assert child.token.expires_at == parent.token.expires_at
    with pytest.raises(Forbidden, match="only inside project web"):
        await holder.issue("shop", "child")
    with pytest.raises(Forbidden, match="role:run,resource:servers"):
        await holder.issue("web", "other", "role:run,resource:servers")


async def test_a_token_without_the_right_cannot_issue(plane, root):
    issued = await root.issue("web", "ci", "role:run,resource:tools")

    with pytest.raises(Forbidden, match="mcptoken ci may not create mcptokens"):
        await root.holding(issued.bearer).issue("web", "child")


async def test_revoking_a_token_revokes_all_below_it_and_nothing_else(plane, root):
    rights = "role:create,resource:mcptokens"
    top = await root.issue("web", "top", rights)
    middle = await root.holding(top.bearer).issue("web", "middle", rights)
    low = await root.holding(middle.bearer).issue("web", "low")
    other = await root.issue("web", "other")
    heard = await plane.listen()

    revoked = await root.ask(token.revoke, project="web", name="top")

    assert revoked.status == "revoked"
    for gone in (top, middle, low):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(gone.bearer)
    assert (await plane.resolve(other.bearer)).name == "other"
    told = {(await asyncio.wait_for(heard.get(), 5)).change.key for _ in range(3)}
    assert told == {top.token.id, middle.token.id, low.token.id}
    assert [item.name for item in (await root.ask(rbac.list_definitions)).items] == ["admins"]


async def test_revoking_twice_is_no_error(plane, root):
    await root.issue("web", "ci")

    first = await root.ask(token.revoke, project="web", name="ci")
    second = await root.ask(token.revoke, project="web", name="ci")

    assert first == second


async def test_a_deleted_token_is_forgotten_and_its_children_are_revoked(plane, root):
    top = await root.issue("web", "top", "role:create,resource:mcptokens")
    child = await root.holding(top.bearer).issue("web", "child")

    await root.ask(token.delete, project="web", name="top")

    with pytest.raises(Unauthenticated, match="unknown"):
        await plane.resolve(top.bearer)
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(child.bearer)
    with pytest.raises(NotFound):
        await root.ask(token.describe, project="web", name="top")


@pytest.mark.parametrize("call", [token.describe, token.revoke, token.delete])
async def test_a_token_that_does_not_exist_is_not_found(plane, root, call):
    with pytest.raises(NotFound, match="project web has no mcptoken ci"):
        await root.ask(call, project="web", name="ci")


async def test_a_revoked_issuer_issues_nothing(plane, root):
    top = await root.issue("web", "top", "role:create,resource:mcptokens")
    await root.ask(token.revoke, project="web", name="top")

    with pytest.raises(Unauthenticated, match="revoked"):
        await root.holding(top.bearer).issue("web", "child")


async def test_a_holder_introspects_its_own_bearer(plane, root):
    issued = await root.issue("web", "ci", ttl_seconds=60)

    live = await root.ask(token.introspect, bearer=issued.bearer)
    unknown = await root.ask(token.introspect, bearer=mint("pat"))
    await root.ask(token.revoke, project="web", name="ci")
    dead = await root.ask(token.introspect, bearer=issued.bearer)

    assert (live.active, live.name, live.project, live.owner) == (True, "ci", "web", "root")
    assert live.exp == int(issued.token.expires_at.timestamp())
    assert unknown == token.Introspection(active=False)
    assert dead == token.Introspection(active=False, status="revoked")


# Users


async def test_users_are_listed_by_name_and_shown_without_their_password(plane, root):
    await add_user(root, "zoe")
    await add_user(root, "ann", "devs")

    users = await root.ask(token.list_users)

    assert [user.name for user in users.items] == ["ann", "root", "zoe"]
    assert (await root.ask(token.get_user, name="ann")).groups == ("devs",)
    assert "argon2" not in users.model_dump_json()


async def test_a_user_name_is_taken_once(plane, root):
    await add_user(root, "ann")

    with pytest.raises(Conflict, match="user ann already"):
        await add_user(root, "ann")


async def test_a_disabled_user_loses_sessions_at_once_and_tokens_while_disabled(plane, root):
    await add_user(root, "ann", "admins")
    ann = await plane.login("ann")
    issued = await ann.issue("web", "ci")
    heard = await plane.listen()

    await root.ask(token.edit_user, name="ann", disabled=True)

    for bearer in (ann.bearer, issued.bearer):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(bearer)
    with pytest.raises(Unauthenticated, match="wrong user or password"):
        await plane.login("ann")
    changes = [await asyncio.wait_for(heard.get(), 5) for _ in range(2)]
    assert {(told.change.kind, told.change.action) for told in changes} == {("token", "revoked"), ("user", "revoked")}
    await root.ask(token.edit_user, name="ann", disabled=False)
    assert (await plane.resolve(issued.bearer)).name == "ci"
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(ann.bearer)


async def test_a_deleted_user_does_not_come_back_with_the_name(plane, root):
    await add_user(root, "ann", "admins")
    ann = await plane.login("ann")
    issued = await ann.issue("web", "ci")
    await grant(root, "ann", "User:ann", "role:view,resource:servers")

    await root.ask(token.delete_user, name="ann")
    await add_user(root, "ann", "admins")

    for bearer in (ann.bearer, issued.bearer):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(bearer)
    assert [item.name for item in (await root.ask(rbac.list_definitions)).items] == ["admins"]


async def test_a_change_of_groups_is_told_and_shows_at_the_next_resolve(plane, root):
    await add_user(root, "ann", "devs")
    ann = await plane.login("ann")
    await root.create_group("ops")
    heard = await plane.listen()

    await root.ask(token.edit_user, name="ann", groups=("ops", "devs"))

    told = await asyncio.wait_for(heard.get(), 5)
    principal = await plane.resolve(ann.bearer)
    assert isinstance(told, Changed)
    assert (told.change.kind, told.change.key, told.change.action) == ("user", "ann", "changed")
    assert principal.depends_on(told.change.kind, told.change.key)
    assert principal.owner.groups == ("devs", "ops")


async def test_a_new_password_ends_the_sessions_that_the_old_one_opened(plane, root):
    await add_user(root, "ann")
    ann = await plane.login("ann")

    await root.ask(token.edit_user, name="ann", password="a new password")

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(ann.bearer)
    with pytest.raises(Unauthenticated):
        await plane.login("ann")
    assert (await (await plane.login("ann", "a new password")).ask(token.whoami)).name == "ann"


@pytest.mark.parametrize("change", [{"disabled": True}, {"groups": ()}, None])
async def test_the_last_enabled_admin_stays(plane, root, change):
    await add_user(root, "ann", "admins")
    await root.ask(token.edit_user, name="ann", disabled=True)

    call = token.delete_user if change is None else token.edit_user
    with pytest.raises(Conflict, match="last enabled member of admins"):
        await root.ask(call, name="root", **(change or {}))


async def test_two_admins_who_remove_each_other_at_once_do_not_both_go(plane, root):
    await add_user(root, "ann", "admins")
    ann = await plane.login("ann")

    await asyncio.gather(
        root.ask(token.edit_user, name="ann", disabled=True),
        ann.ask(token.edit_user, name="root", disabled=True),
        return_exceptions=True,
    )

    assert len([user for user in await plane.rows(UserRow) if not user.disabled]) == 1


@pytest.fixture
async def clerk(plane, root):
    """One who manages users and service accounts, and holds nothing else."""
    await grant(root, "clerks", "Group:clerks", "role:edit,resource:users", "role:edit,resource:serviceaccounts")
    await grant(root, "deployers", "Group:deployers", "role:edit,resource:servers")
    for group in ("deployers", "empty"):
        await root.create_group(group)
    await add_user(root, "clerk", "clerks")
    return await plane.login("clerk")


async def test_nobody_puts_anybody_in_a_group_with_rights_that_he_does_not_hold(plane, root, clerk):
    await clerk.ask(token.create_user, name="ann", password=PASSWORD, groups=("clerks", "empty"))

    for groups in (("deployers",), ("admins",), ("clerks", "deployers")):
        with pytest.raises(Forbidden):
            await clerk.ask(token.create_user, name="eve", password=PASSWORD, groups=groups)
        with pytest.raises(Forbidden):
            await clerk.ask(token.edit_user, name="clerk", groups=groups)
        with pytest.raises(Forbidden):
            await clerk.ask(token.create_service_account, name="eve", groups=groups)


async def test_nobody_sets_the_password_of_one_who_holds_more(plane, root, clerk):
    await add_user(root, "ann", "deployers")

    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.edit_user, name="ann", password="known to the clerk")
    with pytest.raises(Forbidden, match="admins"):
        await clerk.ask(token.edit_user, name="root", password="known to the clerk")
    await clerk.ask(token.edit_user, name="clerk", password="the clerk's own new one")


async def test_only_an_admin_touches_an_admin(plane, root, clerk):
    await add_user(root, "ann", "admins")

    for change in ({"disabled": True}, {"groups": ()}):
        with pytest.raises(Forbidden, match="admins"):
            await clerk.ask(token.edit_user, name="ann", **change)
    with pytest.raises(Forbidden, match="admins"):
        await clerk.ask(token.delete_user, name="ann")


async def test_nobody_creates_a_user_whom_a_definition_already_gives_more(plane, root, clerk):
    await grant(root, "later", "User:later", "role:edit,resource:servers")

    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.create_user, name="later", password=PASSWORD)


async def test_nobody_issues_the_bearer_of_a_service_account_that_holds_more(plane, root, clerk):
    await root.ask(token.create_service_account, name="deploy", groups=("deployers",))

    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.issue_service_account_token, name="deploy")


# Service accounts


async def test_a_service_accounts_bearer_resolves_to_it_until_it_is_deleted(plane, root):
    await root.create_group("devs")
    await root.ask(token.create_service_account, name="build", groups=("devs",), description="CI")
    issued = await root.ask(token.issue_service_account_token, name="build", ttl_seconds=None)

    principal = await plane.resolve(issued.bearer)
    listed = await root.ask(token.list_service_accounts)
    await root.ask(token.delete_service_account, name="build")

    assert (principal.kind, principal.name, principal.owner.groups) == ("ServiceAccount", "build", ("devs",))
    assert principal.expires_in_ms is None
    assert [account.name for account in listed.items] == ["build"]
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_what_a_service_account_issues_belongs_to_it(plane, root):
    await root.ask(token.create_service_account, name="build", groups=("admins",))
    bearer = (await root.ask(token.issue_service_account_token, name="build")).bearer

    issued = await (await plane.operator(bearer)).issue("web", "ci", "role:run,resource:tools")
    await root.ask(token.delete_service_account, name="build")

    assert (issued.token.owner.kind, issued.token.owner.name) == ("ServiceAccount", "build")
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_one_bearer_of_a_service_account_is_revoked_by_its_id_and_its_others_work_on(plane, root, events):
    await root.ask(token.create_service_account, name="build")
    lost, other = [await root.ask(token.issue_service_account_token, name="build") for _ in range(2)]
    heard = await plane.listen()

    for _ in range(2):
        await root.ask(token.revoke_service_account_token, name="build", id=lost.id)

    told = (await asyncio.wait_for(heard.get(), 5)).change
    assert (told.kind, told.key, told.action) == ("token", lost.id, "revoked")
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(lost.bearer)
    assert (await plane.resolve(other.bearer)).sha == other.id
    assert [(event["kind"], event["name"]) for event in events][-1] == ("token.revoke_service_account_token", "build")


async def test_of_an_account_only_its_own_bearers_are_revoked(plane, root):
    for name in ("build", "deploy"):
        await root.ask(token.create_service_account, name=name, groups=("admins",))
    build, deploy = [await root.ask(token.issue_service_account_token, name=name) for name in ("build", "deploy")]
    issued = await root.holding(build.bearer).issue("web", "ci")

    for other in (deploy.id, issued.token.id, digest(root.bearer), "0" * 64):
        with pytest.raises(NotFound, match="build has no bearer with that id"):
            await root.ask(token.revoke_service_account_token, name="build", id=other)

    for bearer in (deploy.bearer, issued.bearer, root.bearer):
        assert await plane.resolve(bearer)


async def test_a_service_accounts_bearer_is_revoked_by_who_may_delete_the_account(plane, root, clerk):
    await root.ask(token.create_service_account, name="build")
    await root.ask(token.create_service_account, name="boss", groups=("admins",))
    await grant(root, "makers", "User:maker", "role:create,resource:serviceaccounts")
    await add_user(root, "maker")
    build, boss = [await root.ask(token.issue_service_account_token, name=name) for name in ("build", "boss")]

    with pytest.raises(Forbidden):
        await (await plane.login("maker")).ask(token.revoke_service_account_token, name="build", id=build.id)
    with pytest.raises(Forbidden, match="admins"):
        await clerk.ask(token.revoke_service_account_token, name="boss", id=boss.id)
    assert (await plane.resolve(boss.bearer)).name == "boss"
    await clerk.ask(token.revoke_service_account_token, name="build", id=build.id)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(build.bearer)


async def test_a_service_accounts_bearer_that_was_revoked_does_not_come_back_by_a_restore(plane, root):
    await root.ask(token.create_service_account, name="build")
    issued = await root.ask(token.issue_service_account_token, name="build")
    dump = await root.ask(token.backup)
    await root.ask(token.revoke_service_account_token, name="build", id=issued.id)

    await root.ask(token.restore, dump=dump)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_a_service_account_that_does_not_exist_is_not_found(plane, root):
    for call in (token.issue_service_account_token, token.delete_service_account):
        with pytest.raises(NotFound, match="no service account build"):
            await root.ask(call, name="build")


async def test_only_a_session_can_be_logged_out(plane, root):
    issued = await root.issue("web", "ci")

    with pytest.raises(BadRequest, match="login session"):
        await root.ask(token.logout, bearer=issued.bearer)


async def test_what_is_stored_is_there_after_a_restart(plane, root):
    issued = await root.issue("web", "ci", "role:view,resource:servers")
    before = await plane.evaluator.bus.call(token.resolve, token.ResolveBearer(bearer=issued.bearer))

    await plane.restart_registry()

    after = await plane.evaluator.bus.call(token.resolve, token.ResolveBearer(bearer=issued.bearer))
    assert (after.epoch, after.seq) == (before.epoch, before.seq)
    assert after.principal.sha == before.principal.sha


# Without the RbacEvaluator


async def test_a_token_is_revoked_even_where_its_bindings_cannot_be_removed(plane, root):
    issued = await root.issue("web", "ci", "role:run,resource:tools")
    sha = issued.token.id

    (tokens,) = (part for part in plane.registry.parts if isinstance(part, McpTokens))
    tokens._ask = RbacCalls(plane.evaluator.bus)  # which the bus does not let unbind
    revoked = await root.ask(token.revoke, project="web", name="ci")

    assert (revoked.id, revoked.status) == (sha, "revoked")
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_nothing_is_decided_while_no_evaluator_answers(plane, root):
    await plane.evaluator.stop()

    with pytest.raises(Unavailable, match="no rbac actor answers"):
        await root.issue("web", "ci")


# The audit


async def test_a_failed_login_leaves_an_event_with_the_users_name(plane, root, events):
    with pytest.raises(Unauthenticated):
        await plane.login("root", "wrong password")

    (event,) = events
    assert (event["kind"], event["outcome"], event["user"]) == ("token.login", "deny", "root")
    assert event["principal"] == "user-root"
    assert "wrong password" not in str(event)


async def test_login_and_logout_leave_events_with_the_users_name(plane, root, events):
    await (await plane.login("root")).ask(token.logout)

    assert [(event["kind"], event["outcome"], event["user"]) for event in events] == [
        ("token.login", "allow", "root"),
        ("token.logout", "allow", "root"),
    ]


async def test_an_issue_leaves_an_event_that_names_the_rule_and_never_the_bearer(plane, root, events):
    issued = await root.issue("web", "ci")

    (event,) = events
    assert (event["kind"], event["project"], event["name"]) == ("token.issue", "web", "ci")
    assert (event["principal"], event["rule"]) == ("user-root", "definition admins: role:edit,resource:*")
    assert issued.bearer not in str(event)


async def test_a_refused_change_leaves_an_event_that_names_who_was_refused(plane, root, events):
    await add_user(root, "ann")
    ann = await plane.login("ann")
    events.clear()

    with pytest.raises(Forbidden):
        await ann.ask(token.delete_user, name="root")

    (event,) = events
    assert (event["kind"], event["outcome"], event["principal"]) == ("token.delete_user", "deny", "user-ann")
    assert event["name"] == "root"
