"""Groups, users and service accounts brought to their documents: all or none."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlmodel import Session

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands, Guarded, Right
from mcpctl.actors.token_registry.groups import GroupChange, create_group, delete_group, edit_group, find_group
from mcpctl.actors.token_registry.membership import in_order
from mcpctl.actors.token_registry.notes import Notes
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import GroupRow, Records, ServiceAccountRow, UserRow
from mcpctl.actors.token_registry.service_accounts import (
    AccountChange,
    create_account,
    delete_account,
    edit_account,
    find_account,
)
from mcpctl.actors.token_registry.users import (
    UserChange,
    create_user,
    delete_user,
    demand_affordable,
    edit_user,
    find_user,
)
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Applied, Outcome, Ref
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import BadRequest, BusError

Kind = Literal["group", "user", "serviceaccount"]
Action = Literal["created", "configured", "unchanged", "removed"]
Spec = token.GroupSpec | token.UserSpec | token.ServiceAccountSpec

RESOURCE = {"group": "groups", "user": "users", "serviceaccount": "serviceaccounts"}
NOUN = {"group": "group", "user": "user", "serviceaccount": "service_account"}
VERB: dict[Action, Literal["create", "edit", "view", "delete"]] = {
    "created": "create",
    "configured": "edit",
    "unchanged": "view",
    "removed": "delete",
}


class Applying:
    """Applies documents, each as the single verb would have done it."""

    def __init__(self, records: Records, guarded: Guarded, resolving: Resolving, ask: RbacCalls, notes: Notes) -> None:
        self._records, self._guarded, self._resolving = records, guarded, resolving
        self._ask, self._notes = ask, notes

    @handles(token.apply_principals)
    async def apply(self, request: token.ApplyPrincipals, _caller: Caller) -> Applied:
        asker: token.Principal | None = None
        try:
            asker = (await self._resolving.find(request.bearer))[0].principal
            return await self._apply(request, asker)
        except BusError as error:
            await self._notes.failed(token.apply_principals.name, asker, error)
            raise

    async def _apply(self, request: token.ApplyPrincipals, asker: token.Principal) -> Applied:
        _demand_once(request)
        for user in request.users:
            demand_affordable(user.name, user.password_hash)
        await self._demand_rights(request)
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> _Run:
            run = _Run(changing, demands, asker, now)
            run.apply(request)
            return run

        planned, demands = await self._guarded.rehearse(work)
        verdicts = await self._guarded.check(request.bearer, demands)
        if request.dry_run:
            return Applied(items=tuple(planned.items))
        done = await self._guarded.commit(work, demands)
        await self._ask.forget(*done.gone)
        await self._note(done, verdicts)
        return Applied(items=tuple(done.items))

    async def _demand_rights(self, request: token.ApplyPrincipals) -> None:
        """Raise `Forbidden` for one who lacks a right, before anything is rehearsed, which others would wait for.

        The right to view comes first: who has not even that is not told what there is.
        """
        seen = {Right("view", RESOURCE[kind], name) for kind, name in _named(request)}
        await self._guarded.check(request.bearer, Demands(rights=seen))
        wanted = await self._records.read(lambda session: _rights(session, request))
        await self._guarded.check(request.bearer, Demands(rights=wanted - seen))

    async def _note(self, done: "_Run", verdicts: dict[Right, Verdict]) -> None:
        for item in done.items:
            if item.action != "unchanged":
                verb = VERB[item.action]
                verdict = verdicts[Right(verb, RESOURCE[item.ref.kind], item.ref.name)]
                await self._notes.done(f"token.{verb}_{NOUN[item.ref.kind]}", verdict, item.ref.name)


def _demand_once(request: token.ApplyPrincipals) -> None:
    """Raise `BadRequest` for one that is named twice, or is of a kind that is not kept here."""
    seen: set[tuple[str, str]] = set()
    for kind, name in _named(request):
        if kind not in RESOURCE:
            raise BadRequest(f"a {kind} cannot be removed here: only a group, a user or a serviceaccount")
        if (kind, name) in seen:
            raise BadRequest(f"{kind} {name} is named twice: leave one of the two out")
        seen.add((kind, name))


def _named(request: token.ApplyPrincipals) -> list[tuple[str, str]]:
    """Return kind and name of all that a request is about."""
    return [
        *(("group", spec.name) for spec in request.groups),
        *(("user", spec.name) for spec in request.users),
        *(("serviceaccount", spec.name) for spec in request.service_accounts),
        *((ref.kind, ref.name) for ref in request.remove),
    ]


def _rights(session: Session, request: token.ApplyPrincipals) -> set[Right]:
    """Return the right that each document takes, as things are."""
    found = {Right("delete", RESOURCE[ref.kind], ref.name) for ref in request.remove}
    for group in request.groups:
        row = session.get(GroupRow, group.name)
        found.add(_right("groups", group, None if row is None else _group_spec(row)))
    for user in request.users:
        person = session.get(UserRow, user.name)
        new_hash = person is not None and user.password_hash not in (None, person.password_hash)
        found.add(_right("users", user, None if person is None else _user_spec(person), is_other=new_hash))
    for account in request.service_accounts:
        machine = session.get(ServiceAccountRow, account.name)
        found.add(_right("serviceaccounts", account, None if machine is None else _account_spec(machine)))
    return found


def _right(resource: str, wanted: Spec, was: Spec | None, *, is_other: bool = False) -> Right:
    if was is None:
        return Right("create", resource, wanted.name)
    return Right("view" if _same(was, wanted) and not is_other else "edit", resource, wanted.name)


@dataclass
class _Run:
    """One run over the documents, in a transaction."""

    changing: Changing
    demands: Demands
    asker: token.Principal
    now: int

    def __post_init__(self) -> None:
        self.items: list[Outcome] = []
        self.gone: list[str] = []

    def apply(self, request: token.ApplyPrincipals) -> None:
        fresh = self._create_groups(request.groups)
        for group in request.groups:
            self._group(group, fresh=group.name in fresh)
        for user in request.users:
            self._user(user)
        for account in request.service_accounts:
            self._account(account)
        for ref in sorted(request.remove, key=lambda ref: ref.kind == "group"):
            self._remove(ref)

    def _create_groups(self, specs: Iterable[token.GroupSpec]) -> set[str]:
        """Create what groups are missing, in no other yet: they may name each other in any order."""
        missing = [spec for spec in specs if self.changing.session.get(GroupRow, spec.name) is None]
        for spec in missing:
            create_group(self.changing, spec.name, dict(spec.labels), spec.description, self.now)
        return {spec.name for spec in missing}

    def _group(self, spec: token.GroupSpec, *, fresh: bool) -> None:
        row = find_group(self.changing.session, spec.name)
        before = _group_spec(row)
        if fresh:
            edit_group(self.changing, self.demands, row, GroupChange(groups=spec.groups))
            self._note("group", spec.name, "created")
        elif _same(before, spec):
            self._note("group", spec.name, "unchanged", before)
        else:
            edit_group(self.changing, self.demands, row, GroupChange(spec.labels, spec.description, spec.groups))
            self._note("group", spec.name, "configured", before)

    def _user(self, spec: token.UserSpec) -> None:
        row = self.changing.session.get(UserRow, spec.name)
        if row is None:
            made = UserRow(
                name=spec.name,
                labels=spec.labels,
                password_hash=spec.password_hash or "",
                groups=in_order(spec.groups),
                disabled=spec.disabled,
                created_at=self.now,
            )
            create_user(self.changing, self.demands, made)
            self._note("user", spec.name, "created")
            return
        before = _user_spec(row)
        new_hash = spec.password_hash if spec.password_hash != row.password_hash else None
        if _same(before, spec) and new_hash is None:
            self._note("user", spec.name, "unchanged", before)
            return
        wanted = UserChange(spec.labels, spec.groups, spec.disabled, new_hash)
        edit_user(self.changing, self.demands, row, wanted, asker=self.asker, now=self.now)
        self._note("user", spec.name, "configured", before)

    def _account(self, spec: token.ServiceAccountSpec) -> None:
        row = self.changing.session.get(ServiceAccountRow, spec.name)
        if row is None:
            made = ServiceAccountRow(
                name=spec.name,
                labels=spec.labels,
                groups=in_order(spec.groups),
                description=spec.description,
                router_site=spec.router_site,
                created_at=self.now,
            )
            create_account(self.changing, self.demands, made)
            self._note("serviceaccount", spec.name, "created")
            return
        before = _account_spec(row)
        if _same(before, spec):
            self._note("serviceaccount", spec.name, "unchanged", before)
            return
        if spec.router_site != before.router_site:
            raise BadRequest(f"the router site of service account {spec.name} cannot be changed: delete it first")
        edit_account(self.changing, self.demands, row, AccountChange(spec.labels, spec.groups, spec.description))
        self._note("serviceaccount", spec.name, "configured", before)

    def _remove(self, ref: Ref) -> None:
        before = REMOVE[ref.kind](self, ref.name)
        self._note(ref.kind, ref.name, "removed", before)

    def _remove_group(self, name: str) -> Spec:
        row = find_group(self.changing.session, name)
        before = _group_spec(row)
        delete_group(self.changing, self.demands, row)
        self.gone.append(f"Group:{name}")
        return before

    def _remove_user(self, name: str) -> Spec:
        row = find_user(self.changing.session, name)
        before = _user_spec(row)
        self.gone += delete_user(self.changing, self.demands, row, self.now)
        return before

    def _remove_account(self, name: str) -> Spec:
        row = find_account(self.changing.session, name)
        before = _account_spec(row)
        self.gone += delete_account(self.changing, self.demands, row, self.now)
        return before

    def _note(self, kind: str, name: str, action: Action, before: Spec | None = None) -> None:
        self.demands.rights.add(Right(VERB[action], RESOURCE[kind], name))
        was = None if before is None else _as_json(before)
        self.items.append(Outcome(ref=Ref(kind=kind, name=name), action=action, before=was))


REMOVE: dict[str, Callable[[_Run, str], Spec]] = {
    "group": _Run._remove_group,  # noqa: SLF001 - methods of the class above
    "user": _Run._remove_user,  # noqa: SLF001
    "serviceaccount": _Run._remove_account,  # noqa: SLF001
}


def _same(was: Spec, wanted: Spec) -> bool:
    first, second = _as_json(was), _as_json(wanted)
    second["groups"] = in_order(wanted.groups)
    return first == second


def _as_json(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"password_hash"})


def _group_spec(row: GroupRow) -> token.GroupSpec:
    return token.GroupSpec(
        name=row.name, labels=row.labels, description=row.description, groups=tuple(in_order(row.groups))
    )


def _user_spec(row: UserRow) -> token.UserSpec:
    return token.UserSpec(name=row.name, labels=row.labels, groups=tuple(in_order(row.groups)), disabled=row.disabled)


def _account_spec(row: ServiceAccountRow) -> token.ServiceAccountSpec:
    return token.ServiceAccountSpec(
        name=row.name,
        labels=row.labels,
        description=row.description,
        groups=tuple(in_order(row.groups)),
        router_site=row.router_site,
    )
