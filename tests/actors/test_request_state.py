"""Texts that clients carry for the routers: only a router opens them, and only for the request they were made for."""

import time

import pytest

from mcpctl.actors.upstream_router.request_state import Seal

SEAL = Seal(b"the seed of all routers")


def test_another_router_with_the_same_seed_opens_it():
    sealed = SEAL.seal("cursor", b'{"a":1}', b"bound")

    assert Seal(b"the seed of all routers").unseal("cursor", sealed, b"bound") == b'{"a":1}'


@pytest.mark.parametrize(
    ("seal", "purpose", "bound"),
    [
        pytest.param(SEAL, "cursor", b"another request", id="for another request"),
        pytest.param(SEAL, "request state", b"bound", id="for another purpose"),
        pytest.param(Seal(b"another seed"), "cursor", b"bound", id="under another seed"),
    ],
)
def test_it_opens_for_nothing_else(seal, purpose, bound):
    sealed = SEAL.seal("cursor", b"text", b"bound")

    with pytest.raises(ValueError, match="not made here"):
        seal.unseal(purpose, sealed, bound)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "ä", "A" * 80, "!"])
def test_what_was_never_sealed_is_refused(text):
    with pytest.raises(ValueError, match="not made here"):
        SEAL.unseal("cursor", text, b"bound")


def test_every_change_of_a_character_is_noticed():
    sealed = SEAL.seal("cursor", b"text", b"bound")
    for at, character in enumerate(sealed):
        changed = sealed[:at] + ("A" if character != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(ValueError, match="not made here"):
            SEAL.unseal("cursor", changed, b"bound")


def test_it_expires(monkeypatch):
    sealed = SEAL.seal("cursor", b"text", b"bound")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601)

    with pytest.raises(ValueError, match="expired"):
        SEAL.unseal("cursor", sealed, b"bound", max_age=600)
    assert SEAL.unseal("cursor", sealed, b"bound") == b"text"
