"""Audit events in the shape of OCSF 1.3, class API Activity (6003): what security data lakes take."""

import mcpctl
from mcpctl.bus.contracts.audit import Entry, Event

CLASS, CATEGORY = 6003, 6
CREATE, READ, UPDATE, DELETE, OTHER = 1, 2, 3, 4, 99
SUCCESS, FAILURE = 1, 2
ALLOWED, DENIED = 1, 2
INFORMATIONAL, LOW = 1, 2
USER, SYSTEM, OTHER_USER = 1, 3, 99

ACTIVITIES = {
    "create": CREATE,
    "issue": CREATE,
    "define": CREATE,
    "bootstrap": CREATE,
    "list": READ,
    "get": READ,
    "backup": READ,
    "edit": UPDATE,
    "redefine": UPDATE,
    "rotate": UPDATE,
    "restore": UPDATE,
    "delete": DELETE,
    "revoke": DELETE,
    "purge": DELETE,
}
"""What a verb of the control plane does; calls of tools and all else are `Other`."""


def api_activity(entry: Entry) -> dict[str, object]:
    """Return an entry as an API Activity; what the class has no place for stands in `unmapped`."""
    event = entry.event
    verb = event.kind.rpartition(".")[2].partition("_")[0]
    activity = ACTIVITIES.get(verb, OTHER)
    good = event.outcome == "allow"
    found: dict[str, object] = {
        "class_uid": CLASS,
        "category_uid": CATEGORY,
        "activity_id": activity,
        "activity_name": event.kind if activity == OTHER else None,
        "type_uid": CLASS * 100 + activity,
        "time": event.at,
        "duration": None if event.ms is None else round(event.ms),
        "severity_id": INFORMATIONAL if good else LOW,
        "status_id": SUCCESS if good else FAILURE,
        "status_code": event.outcome,
        "status_detail": event.detail or event.rule,
        "action_id": DENIED if event.outcome == "deny" else ALLOWED,
        "metadata": {
            "version": "1.3.0",
            "profiles": ["security_control"],
            "product": {"name": "mcpctl", "vendor_name": "mcpctl", "version": mcpctl.__version__},
            "uid": event.id,
            "sequence": entry.seq,
            "correlation_uid": event.correlation,
        },
        "actor": {"user": _user(event), "session": _named("uid", event.session)},
        "api": {
            "operation": event.method or event.kind,
            "service": _named("name", event.server),
            "request": _named("uid", event.correlation),
        },
        "src_endpoint": {"svc_name": event.gateway or event.router or "control-plane"},
        "resources": [{"name": event.name, "type": "tool" if event.server else "resource"}] if event.name else None,
        "unmapped": {
            "kind": event.kind,
            "project": event.project,
            "number": entry.number,
            "hash": entry.hash,
            "args": event.args,
            "trace": event.trace,
        },
    }
    return _without_nothing(found)


def _user(event: Event) -> dict[str, object]:
    kind = USER if event.user else OTHER_USER if event.principal else SYSTEM
    return {"name": event.principal or "mcpctl", "uid": event.token_sha, "uid_alt": event.user, "type_id": kind}


def _named(name: str, value: object) -> dict[str, object] | None:
    return None if value is None else {name: value}


def _without_nothing(members: dict[str, object]) -> dict[str, object]:
    return {
        name: _without_nothing(value) if isinstance(value, dict) else value
        for name, value in members.items()
        if value is not None
    }
