"""Settings of the actors' processes."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcpctl.bus.contract import Role
from mcpctl.bus.contracts.catalog import demand_http
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity, Identity
from mcpctl.bus.names import Label
from mcpctl.bus.nats_url import demand_encrypted
from mcpctl.bus.networks import Networks

_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class ActorSettings(BaseSettings):
    """What a process of actors is told by its environment."""

    model_config = SettingsConfigDict(env_prefix="MCPCTL_", extra="ignore")

    nats_url: str = Field("nats://127.0.0.1:4222", description="The bus.")
    nats_ca: Path | None = Field(
        None, description="PEM file of the CAs that may have signed the bus's certificate; default the system's."
    )
    tls: Literal["terminated-by-proxy"] | None = Field(
        None, description="`terminated-by-proxy`: something in front speaks TLS, where the bus is beyond loopback."
    )
    nats_keys: Path | None = Field(
        None, description="Folder of the actors' nkey seeds; default `nats/keys` below the data folder."
    )
    router_site: Label | None = Field(
        None, description="The site of a router that runs beside its upstreams: it serves what is placed there."
    )
    nats_token: SecretStr | None = Field(
        None, description="The bearer of a service account with this router site: what such a router proves itself by."
    )
    nats_token_file: Path | None = Field(None, description="File with that bearer, instead.")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("mcpctl"), description="Folder of databases and keys."
    )
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL URL; without one, SQLite files below the data folder."
    )
    database_url_file: Path | None = Field(None, description="File with that URL, instead.")
    bootstrap_file: Path | None = Field(
        None, description="File with the one-time secret that may create the first user."
    )
    bus_anonymous_edge: bool = Field(False, description="Admit gateways that present no credential.")
    pod_issuer: str | None = Field(
        None, description="Issuer (URL) of the Kubernetes service-account tokens that gateways' pods present."
    )
    pod_audience: str = Field("mcpctl", min_length=1, description="Audience that these tokens are for.")
    pod_accounts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validate_default=True,
        description="Service accounts of gateways' pods, as `namespace/name`, comma separated.",
    )
    pod_issuer_ca: Path | None = Field(
        None, description="PEM file of the issuer's CA, where it is none of the system's."
    )
    pod_issuer_token_file: Path | None = Field(
        None, description="File with the bearer for the issuer's keys, where it answers nobody without one."
    )
    token_positive_ttl_ms: int = Field(30_000, ge=0, description="How long the router keeps a resolved bearer.")
    token_negative_ttl_ms: int = Field(5_000, ge=0, description="How long the router keeps a refused bearer.")
    token_ungate_ttl_ms: int = Field(
        3_600_000, ge=1000, le=86_400_000, description="How long a bearer stays through a gate once it was opened."
    )
    llm_base_url: str | None = Field(
        None,
        description="Chat-completions endpoint that chooses prompts in gated projects without an `llm` of their own.",
    )
    llm_model: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        validate_default=True,
        description="The model to ask for at `MCPCTL_LLM_BASE_URL`.",
    )
    llm_secret_ref: Label | None = Field(None, description="The secret that holds the key of `MCPCTL_LLM_BASE_URL`.")
    llm_timeout_ms: int = Field(5_000, ge=100, le=30_000, description="How long to wait for that model's choice.")
    upstream_timeout_ms: int = Field(120_000, ge=100, description="Longest wait for an upstream's answer to a call.")
    upstream_start_ms: int = Field(
        60_000, ge=100, description="Longest wait for an upstream to start, or to connect and agree on a revision."
    )
    upstream_requests: int = Field(
        256,
        ge=1,
        description="Requests that one router has at one upstream at once, for one project 8/9 of them; more are 503.",
    )
    breaker_failures: int = Field(
        5, ge=1, description="Failures in a row after which calls to an upstream are refused until it is probed."
    )
    breaker_first_ms: int = Field(
        1_000, ge=10, description="Pause before the first probe of a failing upstream; doubled with each that fails."
    )
    breaker_last_ms: int = Field(
        30_000, ge=10, description="Longest pause between probes; where credentials are refused, ten times that."
    )
    list_timeout_ms: int = Field(5_000, ge=100, description="Longest wait for one upstream's part of a merged list.")
    stdio_idle_ms: int = Field(600_000, ge=1000, description="A stdio server without calls for so long is stopped.")
    upstream_networks: str = Field(
        "public",
        description="Addresses that a router may reach: CIDR ranges and the words `public`, `private`, `loopback`, "
        "comma separated. `mcpctl up` says all three. Link-local and metadata addresses are never reached.",
    )
    stdio_commands: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Commands that a router may start, comma separated: a path, or a name on its own `PATH`, and any "
        "arguments with which the command must begin. `*` is any command; `mcpctl up` says that.",
    )
    stdio_memory_limit: int = Field(
        4 << 30,
        ge=0,
        description="Largest data segment (`RLIMIT_DATA`) of a stdio server's process, in bytes; 0 sets no limit.",
    )
    stdio_files_limit: int = Field(
        1024, ge=16, description="Files that each process of a stdio server may have open at once."
    )
    result_limit: int = Field(
        8 << 20, ge=1024, le=64 << 20, description="Longest single message of an upstream, in bytes."
    )
    grace_ms: int = Field(
        10_000, ge=0, description="How long the calls at hand may take after the signal to stop, in milliseconds."
    )
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
    ready_fd: int | None = Field(None, description="Descriptor to which `ready` is written once all actors answer.")

    @property
    def keys(self) -> Path:
        return self.nats_keys or self.data_dir / "nats" / "keys"

    @model_validator(mode="after")
    def _read_database_url(self) -> Self:
        """Take the URL from its file. Raises `OSError` for one that cannot be read."""
        if self.database_url is None and self.database_url_file is not None:
            self.database_url = SecretStr(self.database_url_file.read_text().strip())
        return self

    @field_validator("upstream_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        Networks.parse(text)
        return text

    @field_validator("stdio_commands", "pod_accounts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("pod_issuer")
    @classmethod
    def _is_issuer(cls, url: str | None) -> str | None:
        if url is not None:
            demand_encrypted(url)
        return url

    @field_validator("pod_accounts")
    @classmethod
    def _are_accounts(cls, accounts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for account in accounts:
            if not _ACCOUNT.fullmatch(account):
                raise ValueError(f"{account!r} is not namespace/name")
        if not accounts and info.data.get("pod_issuer") is not None:
            raise ValueError("is missing beside MCPCTL_POD_ISSUER: namespace/name of the gateways' service account")
        return accounts

    def identity(self, role: Role) -> Identity:
        """Return how an actor of this process names and proves itself on the bus.

        Raises `OSError` where its bearer cannot be read, and `ValueError` where a site's router has none.
        """
        if self.router_site is None:
            return ActorIdentity(role, self.keys, self.nats_ca)
        if role != "router":
            raise ValueError(f"MCPCTL_ROUTER_SITE is for a router: the actor {role} runs beside the bus")
        bearer = self.nats_token.get_secret_value() if self.nats_token is not None else ""
        if self.nats_token_file is not None:
            bearer = self.nats_token_file.read_text().strip()
        if not bearer:
            raise ValueError("MCPCTL_ROUTER_SITE needs a credential: set MCPCTL_NATS_TOKEN_FILE")
        return AdmittedIdentity("router", bearer, ca=self.nats_ca, site=self.router_site)

    @field_validator("llm_base_url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None:
            demand_http(url, "it", "MCPCTL_LLM_SECRET_REF")
        return url

    @field_validator("llm_model")
    @classmethod
    def _is_named(cls, model: str | None, info: ValidationInfo) -> str | None:
        if model is None and info.data.get("llm_base_url") is not None:
            raise ValueError("is missing beside MCPCTL_LLM_BASE_URL")
        return model
