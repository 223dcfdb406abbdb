"""The Catalog actor: projects, upstream servers, prompts and sealed secrets."""

from mcpctl.actors.catalog.actor import Catalog

__all__ = ["Catalog"]
