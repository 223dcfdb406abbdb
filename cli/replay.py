"""`apply --dry-run --replay`: how the calls of the ledger would be decided if documents were applied."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mcpctl.bus.contract import Outcome, Ref
from mcpctl.bus.contracts import audit, rbac
from mcpctl.bus.contracts.audit import Filter, Use
from mcpctl.bus.contracts.rbac import Definition, RecordedCall, Replayed
from mcpctl.cli.output import print_table, say
from mcpctl.cli.session import Session
from mcpctl.cli.usage import counted, number, what

PAGE = 300
"""Calls that are decided in one transaction: it keeps others from writing."""

REGROUPING = ("group", "user", "service_account")
RESTORES = ("token.restore", "rbac.restore")
MEMBERSHIP = (*(f"token.{verb}_{kind}" for verb in ("create", "edit", "delete") for kind in REGROUPING), *RESTORES)
"""Kinds of events after which a user may be in other groups than before."""

NO_ACCESS = "no access to project "
LISTED = "view"
OWN = "the project's own"
KINDS = {"token": "McpToken", "user": "User", "sa": "ServiceAccount"}
WORDS = {"token": "mcptoken", "user": "user", "sa": "service account"}


@dataclass
class Decided:
    """Calls of one kind: what the ledger says, and what the documents would make of it."""

    use: Use
    now: Replayed
    count: int

    @property
    def would(self) -> str:
        """`same`, `unknown`, or the decision that would be another one."""
        return "same" if self.now.outcome == self.use.outcome else self.now.outcome

    @property
    def data(self) -> dict[str, Any]:
        use = self.use
        return {
            "would": self.would,
            "principal": use.principal,
            "token_sha": use.token_sha,
            "project": use.project,
            "what": what(use),
            "calls": self.count,
            "was": use.outcome,
            "rule": use.rule,
            "reason": self.now.reason,
        }


@dataclass(frozen=True)
class Replay:
    """All calls between two moments, decided again. `others` were refused by what no definition rules."""

    since: datetime
    until: datetime
    decided: Sequence[Decided]
    others: int

    @property
    def data(self) -> dict[str, Any]:
        changed = [each.data for each in self.decided if each.would != "same"]
        sums = {would: self._calls(would) for would in ("deny", "allow", "unknown", "same")}
        sums["same"] += self.others
        return {"since": self.since.isoformat(), "until": self.until.isoformat(), "calls": sums, "items": changed}

    def _calls(self, would: str) -> int:
        return sum(each.count for each in self.decided if each.would == would)

    def show(self) -> None:
        """Print the sums, and a line for each kind of call that is not decided as before."""
        sums = self.data["calls"]
        calls = {would: number(count, "call") for would, count in sums.items()}
        all_calls = number(sum(sums.values()), "call")
        say(f"Replayed {all_calls} since {self.since.astimezone():%Y-%m-%d %H:%M}. Under these documents:")
        say(f"  would deny {calls['deny']}{self._by('deny')}")
        say(f"  would allow {calls['allow']} that {'was' if sums['allow'] == 1 else 'were'} denied{self._by('allow')}")
        say(f"  unknown: {calls['unknown']}{self._by('unknown')}")
        say(f"  as before: {calls['same']}")
        shown = [each for each in self.decided if each.would != "same"]
        if shown:
            titles = ("WOULD", "WHO", "PROJECT", "WHAT", "CALLS", "WAS", "WHY")
            print_table(titles, [_cells(each) for each in shown])

    def _by(self, would: str) -> str:
        who = {
            (e.use.principal, e.use.token_sha if _kind(e.use) == "token" else None)
            for e in self.decided
            if e.would == would
        }
        counts = {kind: sum(1 for label, _ in who if (label or "").startswith(f"{kind}-")) for kind in WORDS}
        parts = [number(n, WORDS[kind]) for kind, n in counts.items() if n]
        return f" by {' and '.join(parts)}" if parts else ""


def _cells(each: Decided) -> tuple[object, ...]:
    use = each.use
    return each.would, use.principal, use.project, what(use), each.count, f"{use.outcome}: {use.rule}", each.now.reason


async def replay(
    opened: Session, definitions: Sequence[Definition], remove: Sequence[Ref], plan: Iterable[Outcome], since: datetime
) -> Replay:
    """Decide the calls since a moment again. `plan` is what applying would do. Raises `BusError`."""
    until = datetime.now(UTC)
    steps = list(plan)
    project = _only_project(definitions, steps)
    regrouped = await _regrouped(opened, since, steps)
    uses = await _recorded(opened, since, until, project, regrouped.at)
    asked: list[tuple[Use, RecordedCall]] = []
    decided: list[Decided] = []
    others = 0
    for use in uses:
        call = _question(use, regrouped=regrouped.concerns(use))
        if isinstance(call, RecordedCall):
            asked.append((use, call))
        elif call is not None:
            decided.append(Decided(use, Replayed(outcome="unknown", reason=call), use.count))
        else:
            others += use.count
    for start in range(0, len(asked), PAGE):
        page = asked[start : start + PAGE]
        calls = tuple(call for _, call in page)
        answer = await opened.ask(rbac.replay, definitions=tuple(definitions), remove=tuple(remove), calls=calls)
        decided += [Decided(use, now, use.count) for (use, _), now in zip(page, answer.items, strict=True)]
    return Replay(since, until, _together(decided), others)


def _only_project(definitions: Sequence[Definition], plan: Iterable[Outcome]) -> str | None:
    """Return the project outside of which nothing can be decided otherwise, if there is one."""
    removed = [
        (step.before or {}).get("project") for step in plan if step.ref.kind == "rbac" and step.action == "removed"
    ]
    projects = {*(each.project for each in definitions), *removed}
    return projects.pop() if len(projects) == 1 else None


@dataclass(frozen=True)
class Regrouped:
    """Whose groups may be others now than when a call was made: of users by name, and (`at` ms) of everybody."""

    at: int
    users: dict[str, int]
    everybody: bool

    def concerns(self, use: Use) -> bool:
        return self.everybody or use.first <= max(self.at, self.users.get(use.user or "", 0))


async def _regrouped(opened: Session, since: datetime, plan: Iterable[Outcome]) -> Regrouped:
    wanted = Filter(since=since, outcome="allow")
    changes = await counted(opened, wanted, None, kinds=MEMBERSHIP)
    of_all = [use.last for use in changes if use.kind in RESTORES or use.kind.endswith("_group")]
    users = {use.name: use.last for use in changes if use.name is not None}
    planned = [
        step.ref for step in plan if step.ref.kind in ("group", "user", "serviceaccount") and step.action != "unchanged"
    ]
    forever = 2**53
    users |= {ref.name: forever for ref in planned if ref.kind != "group"}
    return Regrouped(max(of_all, default=0), users, any(ref.kind == "group" for ref in planned))


async def _recorded(opened: Session, since: datetime, until: datetime, project: str | None, cut: int) -> list[Use]:
    """Return the decisions on calls, those before and after `cut` (milliseconds since 1970) apart."""
    at = datetime.fromtimestamp(cut / 1000, UTC)
    spans = [(since, until)] if not since < at < until else [(since, at), (at + timedelta(milliseconds=1), until)]
    found: list[Use] = []
    for first, last in spans:
        found += await counted(opened, Filter(kind="call", since=first, until=last), project)
    return found


def _kind(use: Use) -> str:
    return (use.principal or "").partition("-")[0]


def _question(use: Use, *, regrouped: bool) -> RecordedCall | str | None:
    """Return what was asked, or why that cannot be told; None for what no definition decides."""
    rule, kind = use.rule or "", _kind(use)
    name = use.token_sha if kind == "token" else use.user
    if use.project is None or kind not in KINDS or name is None:
        return None
    if use.outcome == "deny" and not rule.startswith((*audit.RIGHTS, NO_ACCESS)):
        return None
    asked: dict[str, Any] = {"verb": "view", "resource": "servers", "name": use.server}
    if rule.startswith(NO_ACCESS) or rule == LISTED or (rule == OWN and use.method == "tools/call"):
        asked = {"verb": "view", "resource": "projects", "name": use.project}
    elif rule == OWN:
        asked = {"verb": "view", "resource": "prompts", "name": use.name}
    elif use.server is None:
        return "the event does not say of which server it was"
    elif use.method == "tools/call":
        asked = {"verb": "run", "resource": "tools", "name": f"{use.server}/{use.name}"}
    return RecordedCall(subject=f"{KINDS[kind]}:{name}", project=use.project, regrouped=regrouped, **asked)


def _together(decided: Iterable[Decided]) -> list[Decided]:
    """Return what is told alike as one: denials first, the most frequent first."""
    found: dict[tuple[object, ...], Decided] = {}
    for each in decided:
        use = each.use
        key = (each.would, use.principal, use.token_sha, use.project, what(use), use.rule, each.now.reason)
        if key in found:
            found[key].count += each.count
        else:
            found[key] = each
    order = ("deny", "allow", "unknown", "same")
    return sorted(found.values(), key=lambda each: (order.index(each.would), -each.count))
