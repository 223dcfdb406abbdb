"""Keys are rotated while parts run: nothing fails meanwhile, what is old opens, and in the end the old key can go."""

import asyncio
import os

import pytest
from sqlmodel import select

from mcpctl.actors.catalog.rows import SecretRow
from mcpctl.actors.upstream_router.request_state import KEYRING, Seal
from mcpctl.bus.contracts import catalog, sealing
from mcpctl.bus.errors import Forbidden
from mcpctl.cli import keys
from mcpctl.cli.keys import Ring
from tests.actors import test_catalog
from tests.actors.test_catalog import http, project

root, actor, router, user = test_catalog.root, test_catalog.actor, test_catalog.router, test_catalog.user


def ids(path):
    return list(keys._Held.read(Ring.SEALING, None, path).keys)


async def test_secrets_open_while_their_key_is_rotated_and_the_old_one_goes_once_they_are_sealed_anew(
    plane, root, router, actor, user, capsys
):
    path = plane.settings.data_dir / "keys" / "sealing.json"
    await root.ask(catalog.create_secret, name="key", value="the value")
    await root.ask(catalog.create_server, spec=http("git", headers={"x-key": "secret:key"}))
    await root.ask(catalog.create_project, spec=project("web", "git"))
    bearer = (await root.issue("web", "ci")).bearer
    asked = catalog.Unseal(bearer=bearer, project="web", server="git")
    opened, going_on = [], True

    async def open_it():
        while going_on:
            opened.append((await router.call(catalog.unseal, asked)).headers["x-key"])

    async def sealed_with():
        return {row.name: row.key_id for row in await actor._store.read(lambda s: s.exec(select(SecretRow)).all())}

    before = await root.ask(catalog.get_secret, name="key")
    revision = (await router.call(catalog.unseal, asked)).revision
    (first,) = ids(path)
    opening = [asyncio.create_task(open_it()) for _ in range(4)]
    await asyncio.to_thread(keys.rotate, Ring.SEALING, prepare=True, data=plane.settings.data_dir)
    assert len(ids(path)) == 2
    await root.ask(catalog.create_secret, name="between", value="x")
    assert await sealed_with() == {"key": first, "between": first}
    await asyncio.to_thread(keys.rotate, Ring.SEALING, data=plane.settings.data_dir)
    _, second = ids(path)
    await root.ask(catalog.create_secret, name="later", value="y")
    assert await sealed_with() == {"key": first, "between": first, "later": second}

    writer = await user("writer", "role:create,resource:secrets")
    with pytest.raises(Forbidden):
        await writer.ask(sealing.reseal)
    assert await root.ask(sealing.reseal) == sealing.Resealed(key=second, secrets=2)
    assert set((await sealed_with()).values()) == {second}
    held = keys._Held.read(Ring.SEALING, None, path)
    del held.keys[first]
    held.write()
    known = len(opened)
    async with asyncio.timeout(20):
        while len(opened) < known + 8:
            await asyncio.sleep(0)
    going_on = False
    await asyncio.gather(*opening)
    assert set(opened) == {"the value"}
    assert (await router.call(catalog.unseal, asked)).revision == revision  # no connection is opened anew for that
    assert await root.ask(catalog.get_secret, name="key") == before

    path.write_text("not a keyring")  # what cannot be read is not used
    assert (await router.call(catalog.unseal, asked)).headers["x-key"] == "the value"
    assert held.keys[second] not in capsys.readouterr().out


def test_what_clients_carry_for_the_routers_opens_after_a_rotation_until_its_key_is_retired(tmp_path):
    path = tmp_path / KEYRING
    one, other = Seal(b"the seed", path), Seal(b"the seed", path)
    of_seed = one.seal("state", b"0", b"bound")
    keys.rotate(Ring.ROUTERS, file=path)
    of_first = one.seal("state", b"1", b"bound")
    keys.rotate(Ring.ROUTERS, file=path)
    of_second = one.seal("state", b"2", b"bound")
    for seal in (one, other, Seal(b"the seed", path)):
        assert [seal.unseal("state", text, b"bound") for text in (of_seed, of_first, of_second)] == [b"0", b"1", b"2"]
    with pytest.raises(ValueError, match="not made here"):
        Seal(b"the seed").unseal("state", of_first, b"bound")

    keys.retire(Ring.ROUTERS, file=path)
    assert other.unseal("state", of_second, b"bound") == b"2"
    with pytest.raises(ValueError, match="not made here"):
        other.unseal("state", of_first, b"bound")
    path.chmod(0o644)
    os.utime(path)
    assert other.unseal("state", of_second, b"bound") == b"2"  # what others may read is not read again
