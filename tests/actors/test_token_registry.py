"""Users, service accounts and bearers, asked over the bus."""

import pytest

from mcpctl.bus.contracts import token


async def test_the_first_user_is_an_admin_and_the_secret_works_once(plane, root):
    me = await root.ask(token.whoami)

    assert (me.kind, me.name, me.owner.groups) == ("User", "root", ("admins",))
    assert not plane.settings.bootstrap_file.exists()


async def test_an_issued_token_resolves_to_its_principal(plane, root):
    issued = await root.issue("web", "ci", "role:view,resource:servers")

    principal = await plane.resolve(issued.bearer)

    assert (principal.kind, principal.name, principal.project) == ("McpToken", "ci", "web")
    assert principal.owner.name == "root"
