"""Settings of the actors' processes."""

from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mcpctl.bus.contract import Role
from mcpctl.bus.contracts.catalog import demand_http
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.names import Label
from mcpctl.bus.networks import Networks


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
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("mcpctl"), description="Folder of databases and keys."
    )
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL URL; without one, SQLite files below the data folder."
    )
    bootstrap_file: Path | None = Field(
        None, description="File with the one-time secret that may create the first user."
    )
    bus_anonymous_edge: bool = Field(False, description="Admit gateways that present no credential.")
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
    ready_fd: int | None = Field(None, description="Descriptor to which `ready` is written once all actors answer.")

    @property
    def keys(self) -> Path:
        return self.nats_keys or self.data_dir / "nats" / "keys"

    @field_validator("upstream_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        Networks.parse(text)
        return text

    @field_validator("stdio_commands", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def identity(self, role: Role) -> ActorIdentity:
        """Return how an actor of this process names and proves itself on the bus."""
        return ActorIdentity(role, self.keys, self.nats_ca)

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
