"""Settings of the gateway's process. It keeps nothing on disk."""

import ssl
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcpctl.bus.nats_url import is_loopback


class GatewaySettings(BaseSettings):
    """What a gateway is told by its environment. Only `MCPCTL_NATS_URL` must be right."""

    model_config = SettingsConfigDict(env_prefix="MCPCTL_", extra="ignore")

    nats_url: str = Field("nats://127.0.0.1:4222", description="The bus.")
    nats_token: SecretStr | None = Field(
        None, description="A service account's bearer, where the bus asks gateways for one."
    )
    nats_token_file: Path | None = Field(
        None,
        description="File with that bearer, or with the service-account token of a Kubernetes pod; read anew as it "
        "changes.",
    )
    nats_ca: Path | None = Field(
        None, description="PEM file of the CAs that may have signed the bus's certificate; default the system's."
    )
    http_host: str = Field("127.0.0.1", description="Address to listen on.")
    http_port: int = Field(3200, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    tls_cert: Path | None = Field(None, description="PEM file of the certificate with which HTTPS is served.")
    tls_key: Path | None = Field(None, description="PEM file of its key.")
    tls: Literal["terminated-by-proxy"] | None = Field(
        None,
        validate_default=True,
        description="`terminated-by-proxy`: something in front speaks TLS, for HTTP and for the bus beyond loopback.",
    )
    public_url: str | None = Field(None, description="URL under which clients reach the gateway; its host is admitted.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further host names (with or without a port) that `Host` and `Origin` may name, comma separated.",
    )
    body_limit: int = Field(4 * 1024 * 1024, ge=1024, le=7 * 1024 * 1024, description="Longest request body, in bytes.")
    header_limit: int = Field(
        128 * 1024, ge=4096, le=1024 * 1024, description="Longest request line and headers together, in bytes."
    )
    header_count: int = Field(128, ge=16, description="Headers of one request at the most.")
    json_depth: int = Field(64, ge=8, le=512, description="Levels of arrays and objects in a body at the most.")
    number_digits: int = Field(512, ge=32, le=4096, description="Digits of a number in a body at the most.")
    header_timeout_ms: int = Field(
        10_000, ge=100, description="Longest time from the first byte of a request's head, or the connect, to its end."
    )
    body_timeout_ms: int = Field(
        30_000, ge=100, description="Longest time from the end of the head to that of the body."
    )
    idle_timeout_ms: int = Field(75_000, ge=100, description="How long a connection may wait for its next request.")
    write_timeout_ms: int = Field(
        30_000, ge=100, description="Longest time in which a client takes less than 16 KiB of what waits for it."
    )
    call_buffer: int = Field(
        64 * 1024 * 1024,
        ge=8 * 1024 * 1024,
        description="Bytes held for a client that reads slower than its call answers.",
    )
    token_streams: int = Field(
        32, ge=0, description="Open streams of changes of one bearer at the most, at one gateway; 0: any number."
    )
    waiting_requests: int = Field(
        2048,
        ge=2,
        description="Requests that may wait for routers that do not keep up, of one project half; one more is 503.",
    )
    address_connections: int = Field(
        64,
        ge=0,
        description="Open connections of one address at the most (a trusted proxy's are not counted); 0: any number.",
    )
    address_refusals: int = Field(
        20,
        ge=0,
        description="Refused bearers a second of one address, five times that at once; past it 429. 0: any number.",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description="Addresses and networks, comma separated, whose `X-Forwarded-For` is believed.",
    )
    call_timeout_ms: int = Field(300_000, ge=100, description="Longest time for one MCP request.")
    drain_ms: int = Field(
        0,
        ge=0,
        description="How long the gateway goes on to serve after the signal to stop, while `/readyz` says 503: "
        "longer than a load balancer takes to notice.",
    )
    grace_ms: int = Field(10_000, ge=0, description="How long the calls at hand may take after that, in milliseconds.")
    token_positive_ttl_ms: int = Field(30_000, ge=0, description="How long a resolved bearer is kept.")
    token_negative_ttl_ms: int = Field(5_000, ge=0, description="How long a refused bearer is kept.")
    metrics_host: str = Field("127.0.0.1", description="Address of the port for metrics and probes.")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Port of `/metrics`, `/healthz` and `/readyz` for whoever watches this process; none by default.",
    )
    start_fd: int | None = Field(
        None,
        description="Descriptor whose other end is closed when the process may begin; it loads its program before.",
    )
    ready_fd: int | None = Field(None, description="Descriptor to which `ready` is written once requests are served.")

    @field_validator("allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("tls")
    @classmethod
    def _is_encrypted(cls, value: str | None, info: ValidationInfo) -> str | None:
        certificate, key = info.data.get("tls_cert"), info.data.get("tls_key")
        if (certificate is None) != (key is None):
            raise ValueError("MCPCTL_TLS_CERT and MCPCTL_TLS_KEY belong together")
        host = str(info.data.get("http_host"))
        if value is None and certificate is None and not is_loopback(host):
            raise ValueError(
                f"{host} is beyond loopback: set MCPCTL_TLS_CERT and MCPCTL_TLS_KEY, or MCPCTL_TLS=terminated-by-proxy "
                "where something in front speaks TLS"
            )
        return value

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must begin with http:// or https:// and name a host")
        return value

    def https(self) -> ssl.SSLContext | None:
        """Return with what HTTPS is served, None for plain HTTP. Raises `ValueError` where the files are not fit."""
        if self.tls_cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"cannot use {self.tls_cert} and {self.tls_key}: {error.strerror or error}") from error
        return context

    def bus_bearer(self) -> str:
        """Return the bearer for the bus, or an empty text. Raises `OSError` where its file cannot be read."""
        if self.nats_token_file is not None:
            return self.nats_token_file.read_text().strip()
        return self.nats_token.get_secret_value() if self.nats_token is not None else ""
