"""Who is this? Users, service accounts and every bearer."""

from mcpctl.actors.token_registry.registry import TokenRegistry

__all__ = ["TokenRegistry"]
