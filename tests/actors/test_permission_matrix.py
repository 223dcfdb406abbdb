"""Every user of the bus tries every subject: what the contracts do not give him, the server refuses.

The table below says who may do what, in words of its own: it does not ask `bus/permissions.py`, which wrote the rules
that the server holds.
"""

import asyncio
import re
from dataclasses import dataclass, field

import pytest

from mcpctl.bus import nats_config, provision
from mcpctl.bus.contract import ACTORS, Call, Event, declared
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.every import CONTRACTS
from mcpctl.bus.identity import AdmittedIdentity, router_id
from mcpctl.bus.nats_config import Auditor
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.raw_nats import RawNats

ALL_AUDITOR, WEB_AUDITOR = Auditor("ops"), Auditor("web-team", "web")
WILDCARDS = (
    *(">", "*", "*.>", "mcpctl.>", "mcpctl.v1.>", "mcpctl.v1.*.*.*", "mcpctl.v1.*.*.*.*.*", "mcpctl.v1.mcp.>"),
    *("mcpctl.v1.event.>", "mcpctl.v1.token.>", "mcpctl.v1.gateway.>"),
    *("_R_.>", "$SRV.>", "$SYS.>", "$JS.>", "$KV.>", "$O.>"),
)
FOREIGN_QUEUE = "thieves"


@dataclass
class Cell:
    """One subject: who may publish on it, who may subscribe, and who may subscribe in his queue group alone."""

    subject: str
    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)
    queue: set[str] = field(default_factory=set)

    def allows(self, user: str, act: str) -> bool:
        if act == "publish":
            return user in self.publish
        return user in self.subscribe or (act == f"queue {user}" and user in self.queue)


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    """A server of its own: what these users may do, they do."""
    with asyncio.Runner() as runner:
        server = NatsServer(tmp_path_factory.mktemp("nats"), free_port())
        nats_config.write_keys(server.keys, ALL_AUDITOR, WEB_AUDITOR)
        runner.run(server.start())
        runner.run(provision.provision(server.url, server.keys))
        yield server
        runner.run(server.stop())


def table(callers: dict[str, tuple[str, str]]) -> list[Cell]:
    """Return every subject. `callers` are the users in the account RPC: their roles and caller names."""
    cells = [
        *of_contracts(callers),
        *of_callers(callers),
        *of_services(callers),
        *of_auditors(),
        *jetstream(),
        *system(),
    ]
    for cell in cells:
        if cell.subject.startswith("mcpctl.v1.audit."):
            cell.subscribe.add(ALL_AUDITOR.user)  # in his account, EVENTS, there is nothing below it but the tail
    return cells + [Cell(subject) for subject in WILDCARDS]


def of_contracts(callers: dict[str, tuple[str, str]]) -> list[Cell]:
    cells = []
    gateways = having(callers, ("gateway",))
    labs = having(callers, ("router",)) - {"router"}
    for item in (item for module in CONTRACTS for item in declared(module)):
        if isinstance(item, Event):
            cells.append(Cell(item.subject, {f"{item.actor}-events"}, having(callers, item.listeners)))
        elif isinstance(item, Call):
            for user, (role, caller) in callers.items():
                may = {user} if role in item.asked_by else set()
                if item.name == "catalog.unseal_model":
                    may -= labs
                if item.actor == "router" and user in gateways | {"router"}:
                    may = {user}  # it is the same subject as that of a router with this name
                heard = {item.actor} if item.everyone else set()
                cells.append(Cell(item.subject(caller), may, heard, {item.actor}))
    return cells


def of_callers(callers: dict[str, tuple[str, str]]) -> list[Cell]:
    """Return what has a caller's name in it, and all inboxes."""
    actors, gateways = set(ACTORS), having(callers, ("gateway",))
    labs = having(callers, ("router",)) - {"router"}
    # A message on such a subject has this very name, and who may publish below it may do so.
    cells = [Cell(subject, actors) for subject in ("_INBOX.>", "_INBOX.*.>")]
    cells.append(Cell("_INBOX.*.srv.>", actors | gateways | labs))
    for user, (_, caller) in callers.items():
        asks = {user} if user in gateways else set()
        cells += [
            Cell(f"mcpctl.v1.audit.append.{caller}", {user} & (actors | gateways | labs)),
            Cell(f"mcpctl.v1.mcp.web.{caller}", asks, queue={"router"}),
            Cell(f"mcpctl.v1.router.r0.{caller}", {user} & (gateways | {"router"}), {"router"}),
            Cell(f"mcpctl.v1.router.all.{caller}", {user} & (gateways | {"router"}), {"router"} | labs),
            Cell(f"mcpctl.v1.router.heard.{caller}", {user} & (gateways | {"router"}), {"router"}),
            Cell(
                f"mcpctl.v1.router.heard-lab.{caller}",
                {user} & (gateways | {"router", "lab-1", "lab-2"}),
                {"router", "lab-1", "lab-2"},
            ),
            Cell(f"mcpctl.v1.router.heard-shop.{caller}", {user} & (gateways | {"router", "shop"}), {"router", "shop"}),
            *(
                Cell(
                    f"mcpctl.v1.router.{router_id(callers[lab][1])}.{caller}",
                    {user} & (gateways | {"router"}),
                    {"router", lab},
                )
                for lab in labs
            ),
            Cell(f"mcpctl.v1.quota._.all.{caller}", {user} & {"router"}, {"router"}),
            Cell(f"mcpctl.v1.quota._.r0.{caller}", {user} & {"router"}, {"router"}),
            Cell(f"mcpctl.v1.quota.lab.r0.{caller}", {user} & {"lab-1", "lab-2"}, {"lab-1", "lab-2"}),
            Cell(f"mcpctl.v1.quota.shop.all.{caller}", {user} & {"shop"}, {"shop"}),
            Cell(f"mcpctl.v1.site.lab.{caller}", {user} & {"lab-1", "lab-2"}, {"router"}),
            Cell(f"mcpctl.v1.site.shop.{caller}", {user} & {"shop"}, {"router"}),
            Cell(f"mcpctl.v1.gateway.all.{caller}", asks, gateways),
            *(Cell(f"mcpctl.v1.gateway.{callers[other][1]}.{caller}", asks, {other}) for other in gateways),
            Cell(f"mcpctl.v1.gateway.gateway-nobody.{caller}", asks),
            Cell(f"_INBOX.{caller}.x", actors, {user}),
            Cell(f"_INBOX.{caller}.>", actors, {user}),
            Cell(f"_INBOX.{caller}.srv.x", actors | gateways | labs, {user}),
        ]
    for static in ("session-streams", "audit-streams", "provisioner", "kicker"):
        cells.append(Cell(f"_INBOX.{static}.x", actors, {static}))
    return cells


def of_services(callers: dict[str, tuple[str, str]]) -> list[Cell]:
    cells = []
    actors, gateways = set(ACTORS), having(callers, ("gateway",))
    askers = having(callers, ("gateway", "operator"))
    labs = having(callers, ("router",)) - {"router"}
    for verb in ("PING", "INFO", "STATS"):
        cells.append(Cell(f"$SRV.{verb}", askers, actors | gateways | labs))
        for name in (*ACTORS, "gateway"):
            own = gateways if name == "gateway" else {name} | labs if name == "router" else {name}
            cells += [Cell(f"$SRV.{verb}.{name}", askers, own), Cell(f"$SRV.{verb}.{name}.id", askers, own)]
    return cells + [Cell(f"$SRV.{word}") for word in ("CONFIG", "CONFIG.token", "SCHEMA")]


def of_auditors() -> list[Cell]:
    auditors = {ALL_AUDITOR.user, WEB_AUDITOR.user}
    return [
        Cell("mcpctl.v1.audit.web.call.allow.token-ci", {"audit-events"}, auditors | {"audit"}),
        Cell("mcpctl.v1.audit.shop.call.allow.token-ci", {"audit-events"}, {ALL_AUDITOR.user, "audit"}),
        Cell("mcpctl.v1.audit._.login.deny.nobody", {"audit-events"}, {ALL_AUDITOR.user, "audit"}),
        Cell("mcpctl.v1.audit.*.*.*.*", {"audit-events"}, subscribe={ALL_AUDITOR.user, "audit"}),
        Cell("mcpctl.v1.audit.web.>", subscribe=auditors),
        Cell("mcpctl.v1.audit.>", subscribe={ALL_AUDITOR.user}),
        Cell("mcpctl.v1.event.token.invented"),
        Cell("mcpctl.v1.token.invented.token"),
        Cell("mcpctl.v2.token.resolve.router"),
        Cell("foo"),
    ]


def having(callers: dict[str, tuple[str, str]], roles: tuple[str, ...]) -> set[str]:
    return {user for user, (role, _) in callers.items() if role in roles}


def jetstream() -> list[Cell]:
    """Return the subjects of JetStream: nobody has them in RPC, whatever they would do there."""
    sink, gate = {"audit-streams"}, {"session-streams"}
    granted = {
        "$JS.API.STREAM.INFO.AUDIT": sink,
        "$JS.API.CONSUMER.INFO.AUDIT.sink": sink,
        "$JS.API.CONSUMER.MSG.NEXT.AUDIT.sink": sink,
        "$JS.API.CONSUMER.UNPIN.AUDIT.sink": sink,
        "$JS.API.CONSUMER.CREATE.AUDIT.sink.x": sink,
        "$JS.API.STREAM.INFO.KV_sessions": gate,
        "$JS.API.STREAM.INFO.KV_owners": gate,
        "$JS.API.STREAM.MSG.GET.KV_sessions": gate,
        "$JS.API.STREAM.MSG.GET.KV_owners": gate,
        "$JS.API.CONSUMER.CREATE.KV_sessions.x": gate,
        "$JS.API.CONSUMER.DELETE.KV_sessions.x": gate,
        "$JS.API.STREAM.PURGE.KV_owners": gate,
    }
    refused = [
        *("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.MSG.GET.AUDIT", "STREAM.CREATE.THIEF"),
        *(f"STREAM.{verb}.{of}" for verb in ("UPDATE", "SNAPSHOT", "RESTORE") for of in ("AUDIT", "KV_sessions")),
        *("CONSUMER.CREATE.AUDIT.other.x", "CONSUMER.DURABLE.CREATE.AUDIT.other", "CONSUMER.MSG.NEXT.AUDIT.other"),
        *("CONSUMER.MSG.NEXT.KV_sessions.x", "CONSUMER.CREATE.KV_owners.x", "STREAM.PEER.REMOVE.AUDIT"),
        *("CONSUMER.DURABLE.CREATE.KV_sessions.other", "CONSUMER.CREATE.AUDIT", "DIRECT.GET.AUDIT", "ACCOUNT.PURGE.X"),
    ]
    # The provisioner may ask for all of it, and so the streams are gone afterwards.
    destructive = [
        f"STREAM.{verb}.{of}" for verb in ("DELETE", "PURGE", "MSG.DELETE") for of in ("AUDIT", "KV_sessions")
    ]
    cells = [Cell(subject, users | {"provisioner"}) for subject, users in granted.items()]
    cells += [Cell(f"$JS.API.{name}", {"provisioner"}) for name in refused]
    cells += [Cell(f"$JS.API.{name}", {"provisioner"}) for name in destructive]
    cells += [Cell(f"$JS.ACK.AUDIT.sink.{rest}", sink) for rest in ("1.1.1.1.1", "x")]
    cells += [Cell("$JS.ACK.AUDIT.other.1.1.1.1.1"), Cell("$JS.EVENT.ADVISORY.API")]
    return [
        *cells,
        Cell("$KV.sessions.x", gate),
        Cell("$KV.owners.x", gate),
        Cell("$KV.other.x"),
        Cell("$JS.FC.x", gate),
    ]


def system() -> list[Cell]:
    kicks = {"kicker"}
    asked = ("SERVER.PING", "SERVER.PING.VARZ", "SERVER.x.RELOAD", "SERVER.x.CONNZ", "ACCOUNT.PING.CONNZ", "USER.INFO")
    return [
        Cell("$SYS.REQ.SERVER.PING.CONNZ", kicks),
        Cell("$SYS.REQ.SERVER.x.KICK", kicks),
        *(Cell(f"$SYS.REQ.{name}") for name in asked),
        Cell("$SYS.REQ.USER.AUTH", queue={"callout"}),
        Cell("$SYS.ACCOUNT.RPC.CONNECT"),
        Cell("$SYS._INBOX.x", {"callout"}),
    ]


async def test_nobody_does_on_any_subject_what_the_contracts_do_not_give_him(plane, root, record_property):
    """And what they give is not refused: else this would also hold on a bus that refuses everything."""
    await root.ask(token.create_service_account, name="edge")
    bearer = (await root.ask(token.issue_service_account_token, name="edge")).bearer
    labs = {}
    for site in ("lab", "shop"):
        await root.ask(token.create_service_account, name=site, router_site=site)
        labs[site] = (await root.ask(token.issue_service_account_token, name=site)).bearer
    plane.settings.bus_anonymous_edge = True
    await plane.restart_registry()
    who = {
        **{f"{user}": plane.nats.keys / f"{user}.nk" for user in nats_config.USERS},
        **{auditor.user: plane.nats.keys / f"{auditor.user}.nk" for auditor in (ALL_AUDITOR, WEB_AUDITOR)},
        "edge-1": AdmittedIdentity("gateway", bearer),
        "edge-2": AdmittedIdentity("gateway"),
        "operator-1": AdmittedIdentity("operator", root.bearer),
        "operator-2": AdmittedIdentity("operator", bearer),
        "login": AdmittedIdentity("login"),
        "lab-1": AdmittedIdentity("router", labs["lab"], site="lab"),
        "lab-2": AdmittedIdentity("router", labs["lab"], site="lab"),
        "shop": AdmittedIdentity("router", labs["shop"], site="shop"),
    }
    callers = {user: (user, user) for user in ACTORS}
    callers |= {user: (it.role, it.caller) for user, it in who.items() if isinstance(it, AdmittedIdentity)}
    cells = table(callers)
    assert len({cell.subject for cell in cells}) > 500
    tried, wrong = 0, []
    for user, identity in who.items():
        raw = await RawNats.connect(plane.nats.url, identity)
        for act in ("publish", "subscribe", f"queue {user}", f"queue {FOREIGN_QUEUE}"):
            refused = await attempt(raw, act, cells)
            tried += len(cells)
            wrong += [
                f"{user} {'may' if cell.subject not in refused else 'may not'} {act} {cell.subject}"
                for cell in cells
                if cell.allows(user, act) == (cell.subject in refused)
            ]
        await raw.close()
        if user == "provisioner":
            await provision.provision(plane.nats.url, plane.nats.keys)
    record_property("cells", tried)
    assert not wrong, "\n".join(wrong)


async def attempt(raw: RawNats, act: str, cells: list[Cell]) -> set[str]:
    """Return the subjects that the server refuses."""
    refused = []
    for start in range(0, len(cells), 200):
        part = cells[start : start + 200]
        if act == "publish":
            for cell in part:
                raw.publish(cell.subject)
        else:
            queue = act.removeprefix("queue ") if act != "subscribe" else ""
            for sid in [raw.subscribe(cell.subject, queue) for cell in part]:
                raw.unsubscribe(sid)
        refused += await raw.barrier()
    pattern = re.compile(r'Permissions Violation for (?:Publish to|Subscription to) "([^"]+)"')
    return {pattern.match(line)[1] for line in refused}
