"""The least NATS permissions of every role, derived from the contracts."""

from dataclasses import dataclass, field

from mcpctl.bus.contract import ACTORS, PREFIX, Call, Event, Role, declared
from mcpctl.bus.contracts import audit, catalog
from mcpctl.bus.contracts.every import CONTRACTS
from mcpctl.bus.frames import EVERY_ROUTER, heard_subject, present_subject, quota_subject, router_subject
from mcpctl.bus.identity import INBOX, SERVICE_INBOX, inbox_of, router_id, site_of
from mcpctl.bus.peer_frames import EVERY_GATEWAY

SESSIONS_BUCKET = "sessions"
OWNERS_BUCKET = "owners"
SINK_CONSUMER = "sink"
AUTH_CALLOUT = "$SYS.REQ.USER.AUTH"
AUTH_QUEUE = "callout"
KICKER = "kicker"


@dataclass
class Permissions:
    """Subjects that a NATS user may publish and subscribe; all others are denied. `subject queue` is a queue group."""

    publish: list[str] = field(default_factory=list)
    subscribe: list[str] = field(default_factory=list)


def of(role: Role, caller: str) -> Permissions:
    """Return the permissions of a connection in the account RPC, under the name `caller`."""
    granted = Permissions(subscribe=[f"{inbox_of(caller)}.>"])
    for module in CONTRACTS:
        for item in declared(module):
            if isinstance(item, Call) and role in item.asked_by:
                granted.publish.append(item.subject(caller))
            if isinstance(item, Call) and role == item.actor:
                granted.subscribe.append(item.subject("*") + ("" if item.everyone else f" {role}"))
            if isinstance(item, Event) and role in item.listeners:
                granted.subscribe.append(item.subject)
    granted.publish += [subject.format(caller=caller) for subject in _PUBLISH.get(role, ())]
    granted.subscribe += [subject.format(caller=caller) for subject in _SUBSCRIBE.get(role, ())]
    if role in ACTORS:
        # The right to answer is static: `allow_responses` expires long streams and can be aimed at any subject.
        granted.publish += [f"{INBOX}.>", f"{audit.APPEND}.{caller}"]
    if role in (*ACTORS, "gateway"):
        granted.subscribe += [f"$SRV.{verb}{of}" for verb in SERVICE_VERBS for of in ("", f".{role}", f".{role}.*")]
    return granted


SERVICE_VERBS = ("PING", "INFO", "STATS")
_ASK_SERVICES = tuple(f"$SRV.{verb}{of}" for verb in SERVICE_VERBS for of in ("", ".>"))

_PUBLISH: dict[Role, tuple[str, ...]] = {
    "gateway": (
        *_ASK_SERVICES,
        f"{INBOX}.*.{SERVICE_INBOX}.>",
        f"{PREFIX}.mcp.*.{{caller}}",
        f"{PREFIX}.router.*.{{caller}}",
        f"{PREFIX}.gateway.*.{{caller}}",
        f"{audit.APPEND}.{{caller}}",
    ),
    "operator": _ASK_SERVICES,
    "router": (f"{PREFIX}.router.*.{{caller}}", quota_subject("", "*", "{caller}")),
}
"""What a role may publish beside the calls of the contracts."""

_SUBSCRIBE: dict[Role, tuple[str, ...]] = {
    "gateway": (f"{PREFIX}.gateway.{{caller}}.*", f"{PREFIX}.gateway.{EVERY_GATEWAY}.*"),
    "router": (
        f"{PREFIX}.mcp.*.* router",
        f"{PREFIX}.router.*.*",
        present_subject("*", "*"),
        quota_subject("", "*", "*"),
    ),
    "audit": (audit.TAIL,),
}


def site_router(caller: str) -> Permissions:
    """Return the permissions of a router that was admitted for a site, under the name `caller`, which ends with it.

    It takes no request but those sent to it by name, answers where somebody waits for it alone, and hears of no bearer
    of an operator. What it asks on the authority of a bearer, the bearer's holder may ask; the rest is checked by the
    site in its name.
    """
    site, granted = site_of(caller), Permissions(subscribe=[f"{inbox_of(caller)}.>"])
    for item in (item for module in CONTRACTS for item in declared(module)):
        if isinstance(item, Call) and "router" in item.asked_by and item != catalog.unseal_model:
            granted.publish.append(item.subject(caller))
        if isinstance(item, Event) and "router" in item.listeners:
            granted.subscribe.append(item.subject)
    granted.publish += [
        f"{INBOX}.*.{SERVICE_INBOX}.>",
        f"{audit.APPEND}.{caller}",
        present_subject(site, caller),
        heard_subject(site, caller),
        quota_subject(site, "*", caller),
    ]
    granted.subscribe += [
        router_subject(router_id(caller), "*"),
        router_subject(EVERY_ROUTER, "*"),
        heard_subject(site, "*"),
        quota_subject(site, "*", "*"),
        *(f"$SRV.{verb}{of}" for verb in SERVICE_VERBS for of in ("", ".router", ".router.*")),
    ]
    return granted


def events_writer(role: Role) -> Permissions:
    """Return the permissions of an actor's connection in EVENTS: to publish its own events, and to hear nothing."""
    events = (item for module in CONTRACTS for item in declared(module) if isinstance(item, Event))
    granted = Permissions(publish=[item.subject for item in events if item.actor == role])
    if role == "audit":
        granted.publish.append(audit.TAIL)
    return granted


def callout_user() -> Permissions:
    """Return the permissions of the TokenRegistry's connection in AUTH: to hear the server's questions, and answer."""
    return Permissions(publish=["$SYS._INBOX.>"], subscribe=[f"{AUTH_CALLOUT} {AUTH_QUEUE}"])


def kicker() -> Permissions:
    """Return the permissions of the TokenRegistry's connection in SYS: to see who is connected, and to end that."""
    return Permissions(
        publish=["$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.KICK"], subscribe=[f"{inbox_of(KICKER)}.>"]
    )


def auditor(project: str | None) -> Permissions:
    """Return the permissions of an auditor's connection in EVENTS: to hear what the ledger has, of a project or all."""
    return Permissions(subscribe=[f"{PREFIX}.audit.>" if project is None else f"{PREFIX}.audit.{project}.>"])


def streams_user(role: Role) -> Permissions:
    """Return the permissions of the SessionGate's and the AuditSink's connection in STREAMS."""
    inbox = f"{inbox_of(f'{role}-streams')}.>"
    if role == "audit":
        of_stream = [f"$JS.API.STREAM.INFO.{audit.STREAM}"]
        of_consumer = [
            f"$JS.API.CONSUMER.{verb}.{audit.STREAM}.{SINK_CONSUMER}" for verb in ("INFO", "MSG.NEXT", "UNPIN")
        ]
        created = [f"$JS.API.CONSUMER.CREATE.{audit.STREAM}.{SINK_CONSUMER}.>"]
        acks = [f"$JS.ACK.{audit.STREAM}.{SINK_CONSUMER}.>"]
        return Permissions(publish=of_stream + of_consumer + created + acks, subscribe=[inbox])
    sessions, owners = f"KV_{SESSIONS_BUCKET}", f"KV_{OWNERS_BUCKET}"
    return Permissions(
        publish=[
            *(f"$JS.API.STREAM.{verb}.{bucket}" for bucket in (sessions, owners) for verb in ("INFO", "MSG.GET")),
            f"$JS.API.CONSUMER.CREATE.{sessions}.>",
            f"$JS.API.CONSUMER.DELETE.{sessions}.>",
            f"$JS.API.STREAM.PURGE.{owners}",
            f"$KV.{SESSIONS_BUCKET}.>",
            f"$KV.{OWNERS_BUCKET}.>",
            "$JS.FC.>",
        ],
        subscribe=[inbox],
    )
