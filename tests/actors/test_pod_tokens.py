"""Kubernetes' tokens of gateways' pods at the auth callout, with an issuer that serves real keys."""

import asyncio
import hashlib
import hmac
import time

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.token_registry import pod_tokens
from mcpctl.actors.token_registry.pod_tokens import PodTokens, Trusted
from mcpctl.actors.token_registry.rows import epoch_ms
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import Unauthenticated, Unavailable
from mcpctl.bus.identity import AdmittedIdentity
from tests.certificates import Certificates
from tests.pod_issuer import ACCOUNT, AUDIENCE, PodIssuer, forged


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def issuer(certificates):
    async with PodIssuer(certificates) as serving:
        yield serving


def trusting(issuer, **changed):
    known = {"issuer": issuer.url, "audience": AUDIENCE, "accounts": (ACCOUNT,), "ca": issuer.certificates.ca}
    return PodTokens(Trusted(**known | changed), epoch_ms)


async def refusal(tokens, bearer):
    with pytest.raises(Unauthenticated) as refused:
        await tokens.check(bearer)
    said = str(refused.value)
    assert all(part not in said for part in bearer.split(".") if len(part) > 8), "it repeats the token"
    return said


async def test_a_pods_token_is_good_by_either_kind_of_key_and_the_keys_are_asked_for_once(issuer, tmp_path):
    bearer = tmp_path / "token"
    bearer.write_text("of-the-actors-own-pod\n")
    tokens = trusting(issuer, token_file=bearer)

    pods = [await tokens.check(issuer.token(kid)) for kid in ("rsa-1", "ec-1", "rsa-1")]

    assert {(pod.account, pod.name) for pod in pods} == {(ACCOUNT, "gateway-7f9c-abcde")}
    assert all(0 < pod.expires_at - epoch_ms() <= 3_600_000 for pod in pods)
    assert issuer.asked == 1
    assert issuer.bearers == ["Bearer of-the-actors-own-pod"]


async def test_whatever_is_wrong_with_a_token_is_refused_and_named(issuer):
    tokens, now = trusting(issuer), int(time.time())
    await tokens.check(issuer.token())
    public = issuer.keys["rsa-1"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    shared = forged({"alg": "HS256", "kid": "rsa-1"}, issuer.claims())
    shared = (
        shared + forged({}, {}, hmac.digest(public, shared.rstrip(".").encode(), hashlib.sha256)).rpartition(".")[2]
    )
    stranger = rsa.generate_private_key(65537, 2048)
    known, issuer.keys["rsa-1"] = issuer.keys["rsa-1"], stranger
    of_stranger = issuer.token()
    issuer.keys["rsa-1"] = known
    namespace, name = ACCOUNT.split("/")
    wrong = {
        "it is for another audience": [
            issuer.token(aud="api"),
            issuer.token(aud=5),
            issuer.token(aud=["https://kubernetes.default.svc"]),
        ],
        "it is of another issuer": [
            issuer.token(iss="https://evil.example"),
            issuer.token(iss=issuer.url + "/"),
            issuer.token(iss=None),
        ],
        "it has expired": [issuer.token(exp=now), issuer.token("ec-1", exp=now - 5)],
        "it is not valid yet": [issuer.token(nbf=now + 60), issuer.token(iat=now + 60)],
        "its service account is none of MCPCTL_POD_ACCOUNTS": [
            issuer.token(sub=f"system:serviceaccount:{namespace}:other"),
            issuer.token(sub=f"system:serviceaccount:other:{name}"),
            issuer.token(sub=f"system:serviceaccount:{namespace}:{name}:{name}"),
            issuer.token(sub=ACCOUNT),
            issuer.token(sub=f"system:node:{ACCOUNT}"),
        ],
        "it is not signed with": [
            forged({"alg": "none", "kid": "rsa-1"}, issuer.claims()),
            forged({"alg": "None"}, issuer.claims()),
            shared,
            issuer.token(algorithm="RS512"),
            issuer.token(algorithm="PS256"),
        ],
        "its signature is wrong": [of_stranger, issuer.token()[:-8] + "AAAAAAAA"],
        "it is signed in another way": [forged({"alg": "ES256", "kid": "rsa-1"}, issuer.claims(), b"x" * 64)],
        "it has no claim": [
            issuer.token(exp=None),
            issuer.token(aud=None),
            issuer.token(iat=None),
            issuer.token(sub=None),
        ],
        "its key is not one of": [issuer.token(head={"kid": "gone"}), issuer.token(head={"kid": ""})],
        "it is no JWT": ["eyJ..", "eyJhbGciOiJSUzI1NiJ9.e30", "x.y.z", "eyJ\0.a.b", forged({}, {}) + ".x"],
        "it is longer than": ["eyJ" + "a" * pod_tokens.LONGEST + ".b.c"],
        "its claims are not": [issuer.token(exp="soon"), issuer.token(exp=True)],
    }

    for reason, bearers in wrong.items():
        for bearer in bearers:
            assert reason in await refusal(tokens, bearer), bearer

    assert await tokens.check(issuer.token(iat=now + 3, nbf=now + 3)), "clocks differ a little"
    assert await tokens.check(issuer.token(exp=now + 5))


async def test_a_new_key_is_found_and_a_flood_of_unknown_ones_asks_the_issuer_once(issuer):
    tokens = trusting(issuer)
    await tokens.check(issuer.token())
    issuer.add("ec-2", "EC")
    assert "its key is not one of" in await refusal(tokens, issuer.token("ec-2"))
    tokens._issuer._asked_at -= pod_tokens.AGAIN_SECONDS

    assert await tokens.check(issuer.token("ec-2"))
    asked = issuer.asked
    flood = [issuer.token("ec-1", head={"kid": f"made-up-{number}"}) for number in range(100)]
    said = await asyncio.gather(*(refusal(tokens, bearer) for bearer in flood))

    assert (asked, issuer.asked) == (2, 2), "the last question was a moment ago"
    assert all("its key is not one of" in reason for reason in said)
    assert await tokens.check(issuer.token("ec-2"))


async def test_known_keys_go_on_without_the_issuer_others_are_refused_with_the_reason_and_withdrawn_ones_end(
    certificates, monkeypatch
):
    monkeypatch.setattr(pod_tokens, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(pod_tokens, "STALE_SECONDS", 0.0)
    issuer = PodIssuer(certificates)
    async with issuer:
        tokens = trusting(issuer)
        await tokens.check(issuer.token())

    assert await tokens.check(issuer.token()), "its issuer is down"
    with structlog.testing.capture_logs() as logs:
        assert "the issuer's keys cannot be read: cannot connect to localhost" in await refusal(
            trusting(issuer), issuer.token("ec-1")
        )
    assert [line["event"] for line in logs] == ["the pods' issuer cannot be asked"]

    async with issuer:
        issuer.withdrawn.add("rsa-1")
        assert "its key is not one of" in await refusal(tokens, issuer.token())
        assert await tokens.check(issuer.token("ec-1"))
        assert "certificate" in await refusal(trusting(issuer, ca=None), issuer.token())
        issuer.says = {"jwks_uri": "http://keys.example/jwks"}
        assert "beyond loopback" in await refusal(trusting(issuer), issuer.token())
        issuer.says = {"issuer": "https://other.example"}
        assert "names another issuer" in await refusal(trusting(issuer), issuer.token())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pod_issuer": "http://issuer.example", "pod_accounts": ACCOUNT}, "over https:// alone"),
        ({"pod_issuer": "https://issuer.example"}, "is missing beside MCPCTL_POD_ISSUER"),
        ({"pod_accounts": "system:serviceaccount:a:b"}, "is not namespace/name"),
    ],
)
def test_settings_that_could_not_be_meant_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ActorSettings(**wrong)


async def test_a_pod_is_let_in_until_its_token_ends_and_no_token_is_logged(plane, issuer, capsys):
    plane.settings.pod_issuer, plane.settings.pod_accounts = issuer.url, (ACCOUNT,)
    plane.settings.pod_issuer_ca = issuer.certificates.ca
    await plane.restart_registry()
    root = await plane.bootstrap()
    good, ending, stale = issuer.token(), issuer.token("ec-1", exp=int(time.time()) + 6), issuer.token(exp=1)

    with structlog.testing.capture_logs() as logs:
        gateway = await plane.connect(AdmittedIdentity("gateway", good))
        short = await plane.connect(AdmittedIdentity("gateway", ending))
        for identity in (
            AdmittedIdentity("gateway", stale),
            AdmittedIdentity("operator", good),
            AdmittedIdentity("login", good),
            AdmittedIdentity("gateway", issuer.token(aud="api")),
            AdmittedIdentity("gateway", issuer.token(padding="x" * 5000)),
        ):
            with pytest.raises(Unavailable):
                await Bus.connect(plane.nats.url, identity)
        async with asyncio.timeout(20):
            await short.closed.wait()
        assert time.time() < issuer.claims()["exp"] - 3600 + 2

    resolved = await gateway.call(token.resolve, token.ResolveBearer(bearer=root.bearer))
    assert resolved.principal.name == "root", "it was not ended with the bearers that are unknown"
    text = repr(logs) + "".join(capsys.readouterr())
    assert "it has expired" in text
    assert "gateway-7f9c-abcde" in text
    assert all(part not in text for bearer in (good, ending, stale) for part in bearer.split(".")[1:])


async def test_without_an_issuer_no_pod_is_let_in_although_anonymous_gateways_are(plane, issuer):
    plane.settings.bus_anonymous_edge = True
    await plane.restart_registry()

    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable, match=r"(?i)authorization"):
        await Bus.connect(plane.nats.url, AdmittedIdentity("gateway", issuer.token()))

    assert "MCPCTL_POD_ISSUER is not set" in repr(logs)
