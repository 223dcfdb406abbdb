"""Nobody is ever given a right that the giver did not hold: random sequences on the real actors and a real bus."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from mcpctl.bus.contract import Call, Ref
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import ADMINS, Binding, Definition
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound
from tests.actors.conftest import PASSWORD, Operator, plane, postgres_url, root  # noqa: F401 - fixtures
from tests.end_to_end.ceiling_model import PLACES, QUESTIONS, Issued, Model, Written, answered_by, shown

SEQUENCES, STEPS = 10, 50
PATIENCE = 20.0
"""Seconds for one call, on a machine that does other things too."""

REFUSALS = (Forbidden, Conflict, NotFound, BadRequest)
BUILT_IN = ["role:edit,resource:*", "role:run,resource:*", "action:*"]
MAY_TRY = [f"role:edit,resource:{noun}" for noun in ("rbac", "users", "groups", "serviceaccounts", "mcptokens")]
"""What the actors of the play hold everywhere, so that nothing but the ceiling stops them."""

GLOBS: dict[str, tuple[str | None, ...]] = {
    "servers": (None, "alpha", "al*", "alpha*", "*", "[ab]*", "al?s", "b*"),
    "tools": (None, "alpha/*", "alpha/get", "al*", "*/get", "alp*", "*", "alps/*", "a*/get", "alpha*"),
    "prompts": (None, "a*", "alpha", "*"),
    "*": (None, "a*", "*"),
}
CONDITIONS: tuple[dict[str, Any], ...] = (
    {},
    {"repo": {"equals": "acme/x"}},
    {"repo": {"in": ["acme/x", "acme/y"]}},
    {"repo": {"glob": "acme/*"}},
    {"repo": {"glob": "*"}},
    {"n": {"min": 1}},
    {"n": {"min": 1, "max": 5}},
    {"n": {"max": 9}},
    {"n": {"equals": 7}},
    {"repo": {"glob": "acme/*"}, "n": {"max": 5}},
)
ROLES = ("view", "create", "delete", "edit", "run")


def text_of(role: str, resource: str, name: str | None, when: dict[str, Any]) -> str:
    conditional = role == "run" and resource in ("tools", "servers")
    fields = {"role": role, "resource": resource, "name": name, "when": when if conditional else {}}
    return str(Binding.model_validate(fields))


@st.composite
def fresh(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(["action:logs", "action:backup", "action:*", "action:escalate", *MAY_TRY]))
    resource = draw(st.sampled_from(sorted(GLOBS)))
    name = draw(st.sampled_from(GLOBS[resource]))
    return text_of(draw(st.sampled_from(ROLES)), resource, name, draw(st.sampled_from(CONDITIONS)))


@st.composite
def given(draw: st.DrawFn, own: Sequence[str]) -> str:
    """Return something near to what one holds: the same, or another in one respect; or anything."""
    if not own or draw(st.integers(0, 4)) == 0:
        return draw(fresh())
    text = draw(st.sampled_from(own))
    binding = Binding.parse(text)
    if binding.resource not in GLOBS:
        return text
    role, resource, name, when = binding.role, binding.resource, binding.name, binding.model_dump()["when"]
    match draw(st.sampled_from(["nothing", "role", "resource", "name", "when"])):
        case "role":
            role = draw(st.sampled_from(ROLES))
        case "resource":
            resource = draw(st.sampled_from(sorted(GLOBS)))
        case "name":
            name = draw(st.sampled_from(GLOBS[resource]))
        case "when":
            when = draw(st.sampled_from(CONDITIONS))
    return text_of(role, resource, name, when)


@dataclass
class Stage:
    """The real actors, asked from hypothesis' own thread; and how often each call was let through and refused."""

    root: Operator
    loop: asyncio.AbstractEventLoop
    numbers: "count[int]" = field(default_factory=count)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def ask(self, bearer: str | None, call: Call[Any, Any], **members: Any) -> Any:
        authority = {} if bearer is None else {"bearer": bearer}
        asking = self.root.bus.call(call, call.request(**authority, **members), timeout=PATIENCE)
        return asyncio.run_coroutine_threadsafe(asking, self.loop).result(PATIENCE * 2)


class Ceiling(RuleBasedStateMachine):
    """Users, service accounts and mcptokens who try to give each other things."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.model = stage, Model()
        self.prefix = f"e{next(stage.numbers)}"
        self.bearers: dict[str, str] = {}
        self.current: dict[str, str] = {}
        self.steps = 0

    # --- the play ---

    @initialize(data=st.data())
    def set_up(self, data: st.DataObject) -> None:
        self.model.groups[ADMINS] = set()
        self.model.definitions[ADMINS] = Written(None, {f"Group:{ADMINS}"}, BUILT_IN)
        for name in ("devs", "ops"):
            self.root(token.create_group, name=self.named(name))
            self.model.groups[self.named(name)] = set()
        for name in ("ann", "bob"):
            self.root(token.create_user, name=self.named(name), password=PASSWORD)
            self.enter(f"User:{self.named(name)}", ())
            self.log_in(f"User:{self.named(name)}")
        self.root(token.create_service_account, name=self.named("bot"))
        self.enter(f"ServiceAccount:{self.named('bot')}", ())
        issued = self.root(token.issue_service_account_token, name=self.named("bot"))
        self.bearers[f"ServiceAccount:{self.named('bot')}"] = issued.bearer
        self.grant("base", None, list(self.model.owners), MAY_TRY)
        for subject in (*self.model.owners, f"Group:{self.named('devs')}"):
            held = data.draw(st.lists(fresh(), min_size=2, max_size=4))
            project = data.draw(st.sampled_from(PLACES))
            self.grant(f"own-{subject.rpartition('-')[2]}", project, [subject], held)

    @rule(data=st.data())
    def define(self, data: st.DataObject) -> None:
        who = self.anyone(data)
        name = self.named(data.draw(st.sampled_from(["d0", "d1", "d2", "d3"])))
        wanted = self.drawn_definition(data, who, name, data.draw(st.sampled_from(PLACES)))
        self.do(who, rbac.define, lambda _: self.written(wanted), definition=wanted)

    @rule(data=st.data())
    def redefine(self, data: st.DataObject) -> None:
        who = self.anyone(data)
        wanted = self.changed_definition(data, who, self.a_definition(data))
        self.do(who, rbac.redefine, lambda _: self.written(wanted), definition=wanted)

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        who = self.anyone(data)
        first, second = self.a_definition(data), self.named(data.draw(st.sampled_from(["d0", "d4", "d5"])))
        wanted = [self.changed_definition(data, who, first)]
        if second != first:
            project = self.model.definitions[second].project if second in self.model.definitions else None
            wanted.append(self.drawn_definition(data, who, second, project))
        others = sorted(name for name in self.model.definitions if name.startswith(f"{self.prefix}-d"))
        gone = [name for name in others if name not in (first, second)][: data.draw(st.integers(0, 1))]

        def learn(_: object) -> None:
            for definition in wanted:
                self.written(definition)
            for name in gone:
                del self.model.definitions[name]

        refs = tuple(Ref(kind="rbac", name=name) for name in gone)
        self.do(who, rbac.apply, learn, definitions=tuple(wanted), remove=refs)

    @rule(data=st.data())
    def remove_definition(self, data: st.DataObject) -> None:
        name = self.a_definition(data)
        gone = self.model.definitions
        self.do(self.anyone(data), rbac.delete_definition, lambda _: gone.pop(name), name=name)

    @rule(data=st.data())
    def take_away(self, data: st.DataObject) -> None:
        """An admin narrows what somebody was given at the beginning."""
        own = [name for name in self.model.definitions if name.startswith(f"{self.prefix}-own")]
        if own:
            name = data.draw(st.sampled_from(own))
            was = self.model.definitions[name]
            self.grant(name.removeprefix(f"{self.prefix}-"), was.project, sorted(was.subjects), was.bindings[1:])

    @rule(data=st.data())
    def create_group(self, data: st.DataObject) -> None:
        name = self.named(data.draw(st.sampled_from(["g0", "g1"])))
        groups, members = self.some_groups(data), self.some_members(data)

        def learn(_: object) -> None:
            self.model.groups[name] = set(groups)
            for member in members:
                self.groups_of(member).add(name)

        self.do(self.anyone(data), token.create_group, learn, name=name, groups=groups, members=members)

    @rule(data=st.data())
    def nest_group(self, data: st.DataObject) -> None:
        name, groups = self.a_group(data), self.some_groups(data)

        def learn(_: object) -> None:
            self.model.groups[name] = set(groups)

        self.do(self.anyone(data), token.edit_group, learn, name=name, groups=groups)

    @rule(data=st.data())
    def change_members(self, data: st.DataObject) -> None:
        name, joins, leaves = self.a_group(data), self.some_members(data), self.some_members(data)

        def learn(_: object) -> None:
            for member in joins:
                self.groups_of(member).add(name)
            for member in leaves:
                self.groups_of(member).discard(name)

        self.do(self.anyone(data), token.edit_group, learn, name=name, add_members=joins, remove_members=leaves)

    @rule(data=st.data())
    def delete_group(self, data: st.DataObject) -> None:
        name = self.a_group(data)
        self.do(self.anyone(data), token.delete_group, lambda _: self.model.forget_group(name), name=name)

    @rule(data=st.data())
    def create_owner(self, data: st.DataObject) -> None:
        groups, name = self.some_groups(data), self.named(data.draw(st.sampled_from(["x0", "x1"])))
        if data.draw(st.booleans()):
            made = f"User:{name}"

            def learn(_: object) -> None:
                self.enter(made, groups)
                self.log_in(made)

            self.do(self.anyone(data), token.create_user, learn, name=name, password=PASSWORD, groups=groups)
        else:
            made = f"ServiceAccount:{name}"
            learning = lambda _: self.enter(made, groups)  # noqa: E731 - as short as that
            self.do(self.anyone(data), token.create_service_account, learning, name=name, groups=groups)

    @rule(data=st.data())
    def change_groups(self, data: st.DataObject) -> None:
        owner, groups = data.draw(st.sampled_from(list(self.model.owners))), self.some_groups(data)
        kind, _, name = owner.partition(":")
        call: Call[Any, Any] = token.edit_user if kind == "User" else token.edit_service_account
        self.do(self.anyone(data), call, lambda _: self.enter(owner, groups), name=name, groups=groups)

    @rule(data=st.data())
    def take_over(self, data: st.DataObject) -> None:
        """Whoever sets a password or issues a bearer could act as that one, and so must hold what that one holds."""
        who, owner = self.anyone(data), data.draw(st.sampled_from(list(self.model.owners)))
        if who == owner:
            return
        kind, _, name = owner.partition(":")
        power = {place: self.model.power_of(who, place) for place in PLACES}

        def learn(answer: Any) -> None:
            for place in PLACES:
                more = self.model.held_by(owner, place) & ~power[place]
                assert not more, f"{who} took over {owner}, who holds in {place} more: {shown(more)}"
            if kind == "User":
                self.log_in(owner)
            else:
                self.bearers[owner] = answer.bearer

        if kind == "User":
            self.do(who, token.edit_user, learn, name=name, password=PASSWORD)
        else:
            self.do(who, token.issue_service_account_token, learn, name=name)

    @rule(data=st.data())
    def delete_owner(self, data: st.DataObject) -> None:
        made = [each for each in self.model.owners if each.rpartition("-")[2] in ("x0", "x1")]
        if not made:
            return
        owner = data.draw(st.sampled_from(made))
        kind, _, name = owner.partition(":")

        def learn(_: object) -> None:
            self.forget_inactive()
            del self.model.owners[owner]
            self.bearers.pop(owner, None)
            self.model.forget(owner)

        who = self.anyone(data)
        if who != owner and not who.startswith("McpToken:"):
            call: Call[Any, Any] = token.delete_user if kind == "User" else token.delete_service_account
            self.do(who, call, learn, name=name)

    @rule(data=st.data())
    def issue(self, data: st.DataObject) -> None:
        who, project = self.anyone(data), data.draw(st.sampled_from(PLACES[:2]))
        bindings = self.some_bindings(data, who)
        if data.draw(st.booleans()):
            bindings.append("role:edit,resource:mcptokens")  # so that it issues others
        above = self.model.tokens.get(who.removeprefix("McpToken:"))
        parents = () if above is None else (*above.parents, who.removeprefix("McpToken:"))
        name = self.named(f"t{len(self.current)}")
        clone = data.draw(st.integers(0, 3)) == 0

        def learn(issued: token.IssuedToken) -> None:
            owner = who if above is None else above.owner
            kept = self.issued(issued, Issued(name, project, owner, parents))
            assert clone or kept == set(bindings)

        members = {"bindings": tuple(map(Binding.parse, bindings)), "rbac": "clone" if clone else "empty"}
        self.do(who, token.issue, learn, project=project, name=name, **members)

    @rule(data=st.data())
    def rotate(self, data: st.DataObject) -> None:
        if not self.current:
            return
        who, name = self.anyone(data), data.draw(st.sampled_from(list(self.current)))
        old = self.model.tokens.get(self.current[name])
        if old is None:
            return
        issuer = self.model.tokens.get(who.removeprefix("McpToken:"))
        owner = who if issuer is None else issuer.owner
        parents = old.parents if owner == old.owner else ()

        def learn(issued: token.IssuedToken) -> None:
            self.issued(issued, Issued(name, old.project, owner, parents))
            self.forget_inactive()

        overlap = data.draw(st.sampled_from([0, 3600]))
        self.do(who, token.rotate, learn, project=old.project, name=name, overlap_seconds=overlap)

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        live = [each for each in self.model.tokens.values() if self.current]
        if live:
            old = data.draw(st.sampled_from(live))
            who = self.anyone(data)
            self.do(who, token.revoke, lambda _: self.forget_inactive(), project=old.project, name=old.name)

    def teardown(self) -> None:
        for principal in self.bearers:
            for project in PLACES[:2]:
                self.compare(principal, project)

    # --- doing, and comparing ---

    def do(self, who: str, call: Call[Any, Any], learn: Callable[[Any], object], **members: Any) -> None:
        """Have somebody do something; where it is done, nobody has gained anything that the doer did not hold."""
        before = self.model.held()
        power = {place: self.model.power_of(who, place) for place in PLACES}
        self.steps += 1
        try:
            answer = self.stage.ask(self.bearers[who], call, **members)
        except REFUSALS:
            self.stage.refused[call.name] += 1
        else:
            self.stage.accepted[call.name] += 1
            learn(answer)
            for (principal, place), mask in self.model.held().items():
                gained = mask & ~before.get((principal, place), 0) & ~power[place]
                assert not gained, (
                    f"by {call.name} of {members} {who} gave {principal} in {place or 'all'} "
                    f"what it did not hold: {shown(gained)[:5]}"
                )
        known = list(self.bearers)
        self.compare(known[self.steps % len(known)], PLACES[self.steps % 2])

    def compare(self, principal: str, project: str) -> None:
        """Ask the real actors what a principal may do, in three ways."""
        expected = self.model.held_by(principal, project)
        scope = self.stage.ask(self.bearers[principal], rbac.scope, project=project).scope
        differ = answered_by(scope) ^ expected
        assert not differ, f"{principal} in {project}: the scope and the model differ on {shown(differ)[:5]}"
        for bearer, subject in ((self.bearers[principal], None), (self.stage.root.bearer, principal)):
            bit = (self.steps * 37 + (subject is None) * 53) % len(QUESTIONS)
            own = self.model.tokens.get(principal.removeprefix("McpToken:"))
            if subject is not None and own is not None and own.project != project:
                continue
            asked = QUESTIONS[bit].asked | {"project": project, "subject": subject}
            verdict = self.stage.ask(bearer, rbac.check, **asked)
            assert verdict.allowed == bool(expected >> bit & 1), f"{principal}: {asked}: {verdict.reason}"

    def root(self, call: Call[Any, Any], **members: Any) -> Any:
        return self.stage.ask(self.stage.root.bearer, call, **members)

    def grant(self, name: str, project: str | None, subjects: Sequence[str], bindings: Sequence[str]) -> None:
        """Have an admin write a definition."""
        held = tuple(map(Binding.parse, bindings))
        wanted = Definition(name=self.named(name), project=project, subjects=tuple(subjects), bindings=held)
        self.root(rbac.redefine if wanted.name in self.model.definitions else rbac.define, definition=wanted)
        self.written(wanted)

    # --- what the model learns ---

    def named(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def enter(self, owner: str, groups: Sequence[str]) -> None:
        self.model.owners[owner] = set(groups)

    def log_in(self, user: str) -> None:
        name = user.removeprefix("User:")
        self.bearers[user] = self.stage.ask(None, token.login, user=name, password=PASSWORD).bearer

    def written(self, wanted: Definition) -> None:
        texts = [str(binding) for binding in wanted.bindings]
        self.model.definitions[wanted.name] = Written(wanted.project, set(wanted.subjects), texts)

    def issued(self, issued: token.IssuedToken, made: Issued) -> set[str]:
        sha = issued.token.id
        self.model.tokens[sha], self.current[made.name] = made, sha
        self.bearers[f"McpToken:{sha}"] = issued.bearer
        kept = self.root(rbac.get_bindings, project=made.project, name=made.name, sha=sha).bindings
        texts = [str(binding) for binding in kept]
        if texts:
            self.model.definitions[f"mcptoken-{sha[:32]}"] = Written(made.project, {f"McpToken:{sha}"}, texts)
        return set(texts)

    def forget_inactive(self) -> None:
        active = {item.id for item in self.root(token.list_tokens).items if item.status == "active"}
        for sha in [sha for sha in self.model.tokens if sha not in active]:
            del self.model.tokens[sha], self.bearers[f"McpToken:{sha}"]
            self.model.forget(f"McpToken:{sha}")

    def groups_of(self, subject: str) -> set[str]:
        kind, _, name = subject.partition(":")
        return self.model.groups[name] if kind == "Group" else self.model.owners[subject]

    # --- what is drawn ---

    def anyone(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.bearers)))

    def a_group(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.model.groups)))

    def some_groups(self, data: st.DataObject) -> tuple[str, ...]:
        return tuple(data.draw(st.lists(st.sampled_from(list(self.model.groups)), max_size=2, unique=True)))

    def some_members(self, data: st.DataObject) -> tuple[str, ...]:
        groups = [f"Group:{name}" for name in self.model.groups if name != ADMINS]
        return tuple(data.draw(st.lists(st.sampled_from([*self.model.owners, *groups]), max_size=1)))

    def a_definition(self, data: st.DataObject) -> str:
        kept = (ADMINS, self.named("base"))
        return data.draw(st.sampled_from([name for name in self.model.definitions if name not in kept] or [ADMINS]))

    def some_bindings(self, data: st.DataObject, who: str) -> list[str]:
        own = self.model.bindings_of(who)
        return data.draw(st.lists(given(own), max_size=2, unique=True))

    def some_subjects(self, data: st.DataObject) -> list[str]:
        to_come = [f"{kind}:{self.named(name)}" for kind in ("User", "ServiceAccount") for name in ("x0", "x1")]
        groups = [f"Group:{self.named(name)}" for name in ("devs", "ops", "g0", "g1")]
        tokens = [f"McpToken:{sha}" for sha in self.model.tokens]
        known = [*dict.fromkeys([*self.model.owners, *to_come, *groups, *tokens])]
        return data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True))

    def drawn_definition(self, data: st.DataObject, who: str, name: str, project: str | None) -> Definition:
        held = tuple(map(Binding.parse, self.some_bindings(data, who)))
        return Definition(name=name, project=project, subjects=tuple(self.some_subjects(data)), bindings=held)

    def changed_definition(self, data: st.DataObject, who: str, name: str) -> Definition:
        was = self.model.definitions[name]
        subjects, bindings = sorted(was.subjects), list(was.bindings)
        if data.draw(st.booleans()):
            subjects = [*subjects[data.draw(st.integers(0, 1)) :], *self.some_subjects(data)]
        if data.draw(st.booleans()):
            bindings = [*bindings[data.draw(st.integers(0, 1)) :], *self.some_bindings(data, who)]
        held = tuple(map(Binding.parse, dict.fromkeys(bindings)))
        return Definition(name=name, project=was.project, subjects=tuple(dict.fromkeys(subjects)), bindings=held)


ALWAYS_TRIED = (rbac.define, rbac.redefine, rbac.apply, token.issue, token.edit_group, token.edit_user)


async def test_nobody_is_ever_given_what_the_giver_does_not_hold(root):  # noqa: F811 - the fixture
    stage = Stage(root, asyncio.get_running_loop())
    profile = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    await asyncio.to_thread(run_state_machine_as_test, lambda: Ceiling(stage), settings=profile)

    untried = [call.name for call in ALWAYS_TRIED if not (stage.accepted[call.name] and stage.refused[call.name])]
    assert not untried, "neither always let through nor always refused"
