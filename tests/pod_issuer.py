"""A small issuer of Kubernetes' service-account tokens: real keys, discovery and JWKS over HTTPS."""

import base64
import json
import ssl
import time
import uuid
from typing import Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.certificates import Certificates

ACCOUNT = "mcpctl/gateway"
AUDIENCE = "mcpctl"


class PodIssuer:
    """Serves while it is entered. `keys` are private keys by kid; `asked` counts the requests for keys."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.keys: dict[str, Any] = {}
        self.withdrawn: set[str] = set()
        self.asked = 0
        self.bearers: list[str] = []
        self.url = ""
        self.says: dict[str, Any] = {}
        self.add("rsa-1", "RSA")
        self.add("ec-1", "EC")

    def add(self, kid: str, kind: str) -> None:
        self.keys[kid] = (
            rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
        )

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/openid/v1/jwks", self._jwks)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        port = int(self.url.rpartition(":")[2] or 0)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificates.certificate, self.certificates.key)
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls)
        await site.start()
        self.url = f"https://localhost:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        self.bearers.append(request.headers.get("Authorization", ""))
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/openid/v1/jwks"} | self.says)

    async def _jwks(self, _request: web.Request) -> web.Response:
        self.asked += 1
        public = [self._public(kid) for kid in self.keys if kid not in self.withdrawn]
        return web.json_response({"keys": public})

    def _public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid]
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig", "alg": name}

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return the claims that a kubelet's token has; those that are None are left out."""
        now = int(time.time())
        namespace, name = ACCOUNT.split("/")
        bound = {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "b9b7a9c4-6f3d-4f0e-8f4e-0d1a2b3c4d5e"},
            "pod": {"name": "gateway-7f9c-abcde", "uid": "0f5d3c1e-8b7a-4c6d-9e2f-1a2b3c4d5e6f"},
            "serviceaccount": {"name": name, "uid": "5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9"},
            "warnafter": now + 3607,
        }
        claims = {
            "aud": [AUDIENCE],
            "exp": now + 3600,
            "iat": now,
            "iss": self.url,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": bound,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(
        self, kid: str = "rsa-1", *, algorithm: str = "", head: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        algorithm = algorithm or ("RS256" if kid.startswith("rsa") else "ES256")
        return jwt.encode(self.claims(**changed), self.keys[kid], algorithm, {"kid": kid} | (head or {}))


def forged(head: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """Return a JWT as no library would make it."""
    parts = (json.dumps(head).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
