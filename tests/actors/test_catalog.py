"""Projects, servers and secrets, asked over the bus; tokens and rights are the real ones."""

import asyncio
import base64
import json
import os
import stat

import pytest
from sqlmodel import select

from mcpctl.actors.catalog import Catalog
from mcpctl.actors.catalog.rows import TABLES, SecretRow, ServerRow, UseRow
from mcpctl.actors.catalog.sealing import Keyring, KeyringRefused
from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contract import PullChanges
from mcpctl.bus.contracts import audit, catalog, rbac, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable

VALUE = "Bearer the-upstreams-own-key"


def http(name, **fields):
    return catalog.ServerSpec(name=name, **({"url": f"http://{name}.example/mcp"} | fields))


def project(name, *servers, **fields):
    return catalog.ProjectSpec(name=name, servers=servers, **fields)


@pytest.fixture
async def root(plane):
    """The first user, in a Catalog that is empty."""
    return await plane.bootstrap()


@pytest.fixture
def actor(plane):
    return plane.catalog


@pytest.fixture
async def router(plane, actor):
    return await plane.actor("router")


@pytest.fixture
async def user(plane, root, actor):
    """Make a user with bindings that hold in all projects, or in one."""

    async def make(name, *bindings, project=None):
        await root.ask(token.create_user, name=name, password="a long enough password")
        if bindings:
            parsed = tuple(rbac.Binding.parse(text) for text in bindings)
            definition = rbac.Definition(
                name=f"of-{name}", project=project, subjects=(f"User:{name}",), bindings=parsed
            )
            await root.ask(rbac.define, definition=definition)
        return await plane.login(name, "a long enough password")

    return make


async def pulled(router, since):
    asked = PullChanges(epoch=since.epoch, seq=since.seq, instance="test")
    return await router.call(catalog.feed.pull, asked)


async def start_of_feed(router):
    return await pulled(router, PullChanges(epoch="", seq=-1, instance="test"))


def recorded(changes):
    return [(change.kind, change.key, change.action) for change in changes.changes]


# Servers


async def test_a_server_is_shown_as_it_was_created(actor, root):
    spec = http("git", description="Repositories", headers={"x-team": "web"})

    created = await root.ask(catalog.create_server, spec=spec)

    assert (created.spec, created.revision, created.projects) == (spec, 1, ())
    assert await root.ask(catalog.get_server, name="git") == created


async def test_a_server_name_is_taken_once(actor, root):
    await root.ask(catalog.create_server, spec=http("git"))

    with pytest.raises(Conflict, match="server git exists already"):
        await root.ask(catalog.create_server, spec=http("git"))


async def test_lists_are_sorted_by_name(actor, root):
    for name in ("zeta", "alpha", "mid"):
        await root.ask(catalog.create_server, spec=http(name))
        await root.ask(catalog.create_project, spec=project(name))
        await root.ask(catalog.create_secret, name=name, value=VALUE)

    servers = (await root.ask(catalog.list_servers)).items
    projects = (await root.ask(catalog.list_projects)).items
    secrets = (await root.ask(catalog.list_secrets)).items

    assert [server.spec.name for server in servers] == ["alpha", "mid", "zeta"]
    assert [each.spec.name for each in projects] == ["alpha", "mid", "zeta"]
    assert [secret.name for secret in secrets] == ["alpha", "mid", "zeta"]


async def test_an_edit_of_an_older_revision_is_refused_with_both_named(actor, root):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.edit_server, spec=http("git", description="new"), revision=1)

    with pytest.raises(Conflict, match="server git is at revision 2, not at 1"):
        await root.ask(catalog.edit_server, spec=http("git", description="newer"), revision=1)


async def test_an_edit_that_changes_nothing_leaves_the_revision_and_tells_nobody(actor, root, router):
    await root.ask(catalog.create_server, spec=http("git"))
    start = await start_of_feed(router)

    edited = await root.ask(catalog.edit_server, spec=http("git"))

    assert edited.revision == 1
    assert recorded(await pulled(router, start)) == []


async def test_a_deleted_server_leaves_its_projects(actor, root):
    for name in ("git", "time"):
        await root.ask(catalog.create_server, spec=http(name))
    await root.ask(catalog.create_project, spec=project("web", "git", "time"))

    await root.ask(catalog.delete_server, name="git")

    left = await root.ask(catalog.get_project, name="web")
    assert (left.spec.servers, left.revision) == (("time",), 2)
    with pytest.raises(NotFound, match="no server git"):
        await root.ask(catalog.get_server, name="git")


async def test_a_new_server_can_join_projects_at_once(actor, root):
    await root.ask(catalog.create_project, spec=project("web"))

    created = await root.ask(catalog.create_server, spec=http("git"), projects=("web",))

    assert created.projects == ("web",)
    assert (await root.ask(catalog.get_project, name="web")).spec.servers == ("git",)


async def test_a_server_for_an_unknown_project_is_not_created(actor, root):
    with pytest.raises(NotFound, match="no project nowhere"):
        await root.ask(catalog.create_server, spec=http("git"), projects=("nowhere",))

    assert (await root.ask(catalog.list_servers)).items == ()


# Projects


async def test_a_project_keeps_the_order_of_its_servers(actor, root):
    for name in ("b", "a", "c"):
        await root.ask(catalog.create_server, spec=http(name))

    await root.ask(catalog.create_project, spec=project("web", "b", "a", "c"))
    edited = await root.ask(catalog.edit_project, spec=project("web", "c", "b"), revision=1)

    assert (edited.spec.servers, edited.revision) == (("c", "b"), 2)


async def test_a_project_cannot_list_a_server_that_is_not_there(actor, root):
    with pytest.raises(Conflict, match="servers that do not exist: git, time"):
        await root.ask(catalog.create_project, spec=project("web", "git", "time"))


async def test_a_project_cannot_list_a_server_twice(actor, root):
    await root.ask(catalog.create_server, spec=http("git"))

    with pytest.raises(BadRequest, match="twice"):
        await root.ask(catalog.create_project, spec=project("web", "git", "git"))


async def test_two_servers_of_a_project_may_not_share_a_prefix(actor, root):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_server, spec=http("forge", prefix="git"))

    with pytest.raises(Conflict, match="servers git and forge of project web"):
        await root.ask(catalog.create_project, spec=project("web", "git", "forge"))


async def test_an_edit_may_not_give_a_server_the_prefix_of_a_neighbour(actor, root):
    for name in ("git", "forge"):
        await root.ask(catalog.create_server, spec=http(name))
    await root.ask(catalog.create_project, spec=project("web", "git", "forge"))

    with pytest.raises(Conflict, match="servers git and forge of project web"):
        await root.ask(catalog.edit_server, spec=http("forge", prefix="git"))

    assert (await root.ask(catalog.get_server, name="forge")).revision == 1


async def test_a_project_edited_by_two_keeps_the_first_edit(actor, root):
    await root.ask(catalog.create_project, spec=project("web"))
    await root.ask(catalog.edit_project, spec=project("web", description="first"), revision=1)

    with pytest.raises(Conflict, match="project web is at revision 2, not at 1"):
        await root.ask(catalog.edit_project, spec=project("web", description="second"), revision=1)


async def test_a_deleted_project_is_gone_and_its_servers_stay(actor, root):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_project, spec=project("web", "git"))

    await root.ask(catalog.delete_project, name="web")

    with pytest.raises(NotFound):
        await root.ask(catalog.get_project, name="web")
    assert (await root.ask(catalog.get_server, name="git")).projects == ()


async def test_who_may_edit_a_project_cannot_bring_in_servers_that_he_may_not_see(root, user):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_project, spec=project("web"))
    ann = await user("ann", "role:edit,resource:*", project="web")

    with pytest.raises(Forbidden):
        await ann.ask(catalog.edit_project, spec=project("web", "git"))
    await ann.ask(catalog.edit_project, spec=project("web", description="hers"))

    assert (await root.ask(catalog.get_project, name="web")).spec.servers == ()


async def test_who_may_edit_a_project_can_bring_in_servers_that_he_may_see(root, user):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_project, spec=project("web"))
    ann = await user("ann", "role:edit,resource:projects,name:web", "role:view,resource:servers,name:git")

    edited = await ann.ask(catalog.edit_project, spec=project("web", "git"))

    assert edited.spec.servers == ("git",)


async def test_servers_already_in_a_project_need_not_be_seen_to_stay(root, user):
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_project, spec=project("web", "git"))
    ann = await user("ann", "role:edit,resource:projects,name:web")

    edited = await ann.ask(catalog.edit_project, spec=project("web", "git", description="hers"))

    assert edited.spec.servers == ("git",)


# Secrets


async def test_a_secret_is_never_shown(actor, root):
    created = await root.ask(catalog.create_secret, name="key", value=VALUE)

    listed = await root.ask(catalog.list_secrets)

    assert listed.items == (created,)
    assert VALUE not in listed.model_dump_json()


async def test_a_secret_is_sealed_in_the_database(actor, root, plane):
    await root.ask(catalog.create_secret, name="key", value=VALUE)

    rows = await actor._store.read(lambda session: [row for table in TABLES for row in session.exec(select(table))])
    files = [path.read_bytes() for path in (plane.settings.data_dir / "sql").glob("catalog.sqlite*")]
    assert len(rows) == 1
    assert VALUE not in repr(rows)
    assert all(VALUE.encode() not in content for content in files)


async def test_a_reference_to_a_secret_that_is_not_there_is_refused(actor, root):
    with pytest.raises(Conflict, match="refers to secrets that do not exist: key"):
        await root.ask(catalog.create_server, spec=http("git", headers={"authorization": "secret:key"}))

    assert (await root.ask(catalog.list_servers)).items == ()


async def test_a_reference_must_name_a_secret_and_nothing_else(actor, root):
    with pytest.raises(BadRequest, match="name of a secret"):
        await root.ask(catalog.create_server, spec=http("git", headers={"authorization": "secret:key and more"}))


async def test_who_may_not_see_a_secret_cannot_send_it_to_a_server_of_his(root, user):
    await root.ask(catalog.create_secret, name="key", value=VALUE)
    mallory = await user("mallory", "role:edit,resource:servers")

    with pytest.raises(Forbidden):
        await mallory.ask(catalog.create_server, spec=http("mine", headers={"authorization": "secret:key"}))


async def test_a_secret_in_use_is_not_deleted(actor, root):
    await root.ask(catalog.create_secret, name="key", value=VALUE)
    for name in ("git", "time"):
        await root.ask(catalog.create_server, spec=http(name, headers={"authorization": "secret:key"}))

    with pytest.raises(Conflict, match="secret key is used by git, time"):
        await root.ask(catalog.delete_secret, name="key")

    for name in ("git", "time"):
        await root.ask(catalog.edit_server, spec=http(name))
    await root.ask(catalog.delete_secret, name="key")
    assert (await root.ask(catalog.list_secrets)).items == ()


async def test_a_secret_is_replaced_only_on_demand(actor, root):
    await root.ask(catalog.create_secret, name="key", value=VALUE)

    with pytest.raises(Conflict, match="secret key exists already"):
        await root.ask(catalog.create_secret, name="key", value="other")

    await root.ask(catalog.create_secret, name="key", value="other", replace=True)


async def test_who_may_only_create_secrets_cannot_replace_one(root, user):
    await root.ask(catalog.create_secret, name="key", value=VALUE)
    ann = await user("ann", "role:create,resource:secrets")

    with pytest.raises(Forbidden):
        await ann.ask(catalog.create_secret, name="key", value="other", replace=True)


# What the router is told


@pytest.fixture
async def web(actor, root):
    """A project with two servers, one of which uses a secret, and a token for it."""
    await root.ask(catalog.create_secret, name="key", value=VALUE)
    await root.ask(catalog.create_server, spec=http("git", headers={"authorization": "secret:key", "x": "plain"}))
    spec = catalog.ServerSpec(name="time", command=("time",), env={"KEY": "secret:key"}, isolation="session")
    await root.ask(catalog.create_server, spec=spec)
    await root.ask(catalog.create_project, spec=project("web", "time", "git"))
    return (await root.issue("web", "ci")).bearer


async def test_the_view_of_a_project_names_its_servers_in_order(router, web):
    view = await router.call(catalog.view, catalog.GetView(bearer=web, project="web"))

    assert [(each.name, each.transport, each.isolation) for each in view.servers] == [
        ("time", "stdio", "session"),
        ("git", "http", "shared"),
    ]
    assert VALUE not in view.model_dump_json()


async def test_unseal_gives_the_secrets_in_clear(router, web):
    git = await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="git"))
    time = await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="time"))

    assert git.headers == {"authorization": VALUE, "x": "plain"}
    assert (time.command, time.env) == (("time",), {"KEY": VALUE})
    assert VALUE not in repr(git) + repr(time)


async def test_view_and_connection_carry_the_same_revision(router, web):
    view = await router.call(catalog.view, catalog.GetView(bearer=web, project="web"))
    git = await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="git"))

    assert git.revision == view.servers[1].revision


@pytest.mark.parametrize("change", ["spec", "secret", "recreation"])
async def test_the_revision_changes_with_the_spec_the_secret_and_the_server(router, web, root, change):
    spec = http("git", headers={"authorization": "secret:key"})
    await root.ask(catalog.edit_server, spec=spec)
    before = (await router.call(catalog.view, catalog.GetView(bearer=web, project="web"))).servers[1].revision

    if change == "spec":
        await root.ask(catalog.edit_server, spec=http("git", headers={"authorization": "secret:key", "x": "y"}))
    elif change == "secret":
        await root.ask(catalog.create_secret, name="key", value="other", replace=True)
    else:
        await root.ask(catalog.delete_server, name="git")
        await root.ask(catalog.create_server, spec=spec, projects=("web",))

    after = (await router.call(catalog.view, catalog.GetView(bearer=web, project="web"))).servers[1].revision
    assert after != before


async def refusal(router, bearer, name):
    with pytest.raises(Forbidden) as refused:
        await router.call(catalog.view, catalog.GetView(bearer=bearer, project=name))
    with pytest.raises(Forbidden) as unsealed:
        await router.call(catalog.unseal, catalog.Unseal(bearer=bearer, project=name, server="git"))
    assert str(refused.value) == str(unsealed.value)
    return str(refused.value)


async def test_every_refusal_reads_the_same_whatever_its_reason(router, web, root, user):
    await root.ask(catalog.create_project, spec=project("shop", "git"))
    stranger = await user("bob")
    viewer_of_another = await user("ann", "role:view,resource:projects,name:web")
    without = await root.ask(catalog.backup)
    await root.ask(catalog.create_project, spec=project("nowhere"))
    dead_end = (await root.issue("nowhere", "lost")).bearer
    await root.ask(catalog.restore, dump=without)

    texts = {
        "token of another project": await refusal(router, web, "shop"),
        "user without a right": await refusal(router, stranger.bearer, "shop"),
        "user with a right on another": await refusal(router, viewer_of_another.bearer, "shop"),
    }
    unknown = {
        "admin, unknown project": await refusal(router, root.bearer, "nowhere"),
        "token of a project that is not there": await refusal(router, dead_end, "nowhere"),
        "token of another, unknown project": await refusal(router, web, "nowhere"),
    }

    assert set(texts.values()) == {"no access to project shop"}
    assert set(unknown.values()) == {"no access to project nowhere"}


async def test_a_user_who_may_view_the_project_sees_it(router, web, user):
    ann = await user("ann", "role:view,resource:projects,name:web")

    view = await router.call(catalog.view, catalog.GetView(bearer=ann.bearer, project="web"))

    assert view.project == "web"


async def test_a_bad_bearer_is_told_apart_from_a_missing_right(router, web):
    with pytest.raises(Unauthenticated):
        await router.call(catalog.view, catalog.GetView(bearer="mcpctl_pat_nonsense", project="web"))


async def test_a_server_outside_the_project_is_not_unsealed(router, web, root):
    await root.ask(catalog.create_server, spec=http("bank", headers={"authorization": "secret:key"}))

    with pytest.raises(NotFound, match="no server bank in project web"):
        await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="bank"))
    with pytest.raises(NotFound, match="no server nothing in project web"):
        await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="nothing"))


async def test_a_tampered_secret_is_not_unsealed(router, web, plane):
    def swap(session):
        sealed = session.get(SecretRow, "key")
        session.add(SecretRow(**sealed.model_dump() | {"name": "other"}))
        session.flush()
        use, server = session.get(UseRow, ("git", "key")), session.get(ServerRow, "git")
        use.secret, server.spec = "other", server.spec.replace("secret:key", "secret:other")

    await plane.catalog._store.write(swap)

    with pytest.raises(Unavailable, match="secret other cannot be unsealed"):
        await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="git"))


# The change feed


async def test_each_change_is_on_the_feed_with_every_project_it_concerns(router, root, actor):
    start = await start_of_feed(router)

    await root.ask(catalog.create_server, spec=http("git"))
    for name in ("web", "shop"):
        await root.ask(catalog.create_project, spec=project(name, "git"))
    await root.ask(catalog.edit_server, spec=http("git", description="new"))
    await root.ask(catalog.delete_project, name="shop")
    await root.ask(catalog.delete_server, name="git")

    changes = await pulled(router, start)
    assert recorded(changes) == [
        ("server", "git", "created"),
        ("project", "web", "created"),
        ("project", "shop", "created"),
        ("server", "git", "changed"),
        ("project", "shop", "changed"),
        ("project", "web", "changed"),
        ("project", "shop", "removed"),
        ("server", "git", "removed"),
        ("project", "web", "changed"),
    ]
    assert [change.seq for change in changes.changes] == list(range(start.seq + 1, changes.seq + 1))


async def test_a_replaced_secret_changes_the_servers_and_projects_that_use_it(router, web, root):
    start = await start_of_feed(router)

    await root.ask(catalog.create_secret, name="key", value="other", replace=True)

    assert recorded(await pulled(router, start)) == [
        ("server", "git", "changed"),
        ("project", "web", "changed"),
        ("server", "time", "changed"),
        ("project", "web", "changed"),
    ]


async def test_a_change_is_broadcast_at_once(router, root, actor):
    heard = asyncio.Queue()
    await router.listen(catalog.feed.changed, heard.put)
    await router.ready()

    await root.ask(catalog.create_project, spec=project("web"))

    async with asyncio.timeout(5):
        changed = await heard.get()
    assert (changed.change.kind, changed.change.key, changed.change.action) == ("project", "web", "created")


async def test_a_refused_change_leaves_nothing_on_the_feed(router, root, actor):
    start = await start_of_feed(router)

    with pytest.raises(Conflict):
        await root.ask(catalog.create_project, spec=project("web", "missing"))

    assert (await pulled(router, start)).seq == start.seq


async def test_many_changes_at_once_are_numbered_without_a_gap(router, root, actor):
    start = await start_of_feed(router)

    await asyncio.gather(*(root.ask(catalog.create_project, spec=project(f"p{n}")) for n in range(20)))

    changes = await pulled(router, start)
    assert [change.seq for change in changes.changes] == list(range(start.seq + 1, start.seq + 21))


# The keyring


def test_the_keyring_is_made_at_the_first_start_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys" / "sealing.json"

    ring = Keyring.open(path, create=True)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = json.loads(path.read_text())
    assert list(held["keys"]) == [held["current"]] == [ring.current]
    assert list(path.parent.iterdir()) == [path]


def test_a_keyring_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "sealing.json"
    Keyring.open(path, create=True)
    path.chmod(0o644)

    with pytest.raises(KeyringRefused, match="0600"):
        Keyring.open(path, create=True)


def test_a_lost_keyring_is_not_replaced_silently(tmp_path):
    with pytest.raises(KeyringRefused, match="bring back"):
        Keyring.open(tmp_path / "sealing.json", create=False)


def test_a_broken_keyring_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "sealing.json"
    Keyring.open(path, create=True)
    path.write_text('{"current": "a", "keys": {"a": "c2hvcnQ="}}')

    with pytest.raises(KeyringRefused) as refused:
        Keyring.open(path, create=True)

    assert "c2hvcnQ" not in str(refused.value)


def test_a_sealed_value_is_bound_to_its_name(tmp_path):
    ring = Keyring.open(tmp_path / "sealing.json", create=True)
    key_id, sealed = ring.seal("key", VALUE)

    assert ring.unseal("key", key_id, sealed) == VALUE
    with pytest.raises(Unavailable):
        ring.unseal("other", key_id, sealed)


def test_the_same_value_is_never_sealed_alike(tmp_path):
    ring = Keyring.open(tmp_path / "sealing.json", create=True)

    assert ring.seal("key", VALUE) != ring.seal("key", VALUE)


def test_a_value_sealed_under_an_older_key_is_still_opened(tmp_path):
    path = tmp_path / "sealing.json"
    key_id, sealed = Keyring.open(path, create=True).seal("key", VALUE)
    held = json.loads(path.read_text())
    held["keys"]["new"] = base64.b64encode(os.urandom(32)).decode()
    held["current"] = "new"
    path.write_text(json.dumps(held))

    rotated = Keyring.open(path, create=False)

    assert rotated.seal("key", VALUE)[0] == "new"
    assert rotated.unseal("key", key_id, sealed) == VALUE


# Replicas and starts


async def test_a_second_replica_knows_what_the_first_one_wrote(plane, root, web, actor):
    second = Catalog(await plane.actor("catalog"), plane.settings)
    await second.start()
    await actor.bus.unsubscribe()
    router = await plane.actor("router")

    git = await router.call(catalog.unseal, catalog.Unseal(bearer=web, project="web", server="git"))

    assert git.headers["authorization"] == VALUE
    await second.stop()


async def test_it_starts_before_anybody_else(nats, tmp_path, connect):
    settings = ActorSettings(nats_url=nats.url, nats_keys=nats.keys, data_dir=tmp_path)
    actor = Catalog(await connect("catalog"), settings)

    await actor.start()

    router = await connect("router")
    with pytest.raises(Unavailable, match="no token actor"):
        await router.call(catalog.view, catalog.GetView(bearer="x", project="web"))
    await actor.stop()


async def test_an_actor_that_could_not_open_can_be_stopped(nats, tmp_path, connect):
    settings = ActorSettings(nats_url=nats.url, nats_keys=nats.keys, data_dir=tmp_path)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "sealing.json").write_text("{}")
    (tmp_path / "keys" / "sealing.json").chmod(0o644)
    actor = Catalog(await connect("catalog"), settings)

    with pytest.raises(KeyringRefused):
        await actor.start()

    await actor.stop()


# Audit


async def test_no_event_shows_a_secret(plane, root, actor):
    lines = asyncio.Queue()

    class Recorder(AuditWriter):
        """Notes what it appends; the events go to the stream all the same."""

        def append(self, event):
            done = super().append(event)
            lines.put_nowait(json.dumps(event))
            return done

    actor.audit = Recorder(actor.bus)

    await root.ask(catalog.create_secret, name="key", value=VALUE)
    with pytest.raises(Conflict):
        await root.ask(catalog.create_secret, name="key", value=VALUE)

    events = [json.loads(lines.get_nowait()) for _ in range(2)]
    assert [(event["kind"], event["outcome"], event["name"], event["principal"]) for event in events] == [
        ("catalog.create_secret", "allow", "key", "user-root"),
        ("catalog.create_secret", "error", "key", "user-root"),
    ]
    assert VALUE not in json.dumps(events)
    assert audit.Event.model_validate(events[0]).user == "root"


async def test_a_project_of_as_many_servers_as_there_may_be_is_answered_in_time(actor, root):
    names = [f"s{number}" for number in range(500)]

    with pytest.raises(Conflict, match="lists servers that do not exist"):
        await root.ask(catalog.create_project, spec=project("wide", *names))
