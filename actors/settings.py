"""Settings of the actors' processes."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ActorSettings(BaseSettings):
    """What a process of actors is told by its environment."""

    model_config = SettingsConfigDict(env_prefix="MCPCTL_", extra="ignore")

    nats_url: str = Field("nats://127.0.0.1:4222", description="The bus.")
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
    upstream_timeout_ms: int = Field(120_000, ge=100, description="Longest wait for an upstream's answer to a call.")
    list_timeout_ms: int = Field(5_000, ge=100, description="Longest wait for one upstream's part of a merged list.")
    stdio_idle_ms: int = Field(600_000, ge=1000, description="A stdio server without calls for so long is stopped.")
    ready_fd: int | None = Field(None, description="Descriptor to which `ready` is written once all actors answer.")

    @property
    def keys(self) -> Path:
        return self.nats_keys or self.data_dir / "nats" / "keys"
