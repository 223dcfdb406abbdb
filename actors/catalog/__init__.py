"""The Catalog actor: projects, upstream servers and sealed secrets."""

from mcpctl.actors.catalog.actor import Catalog

__all__ = ["Catalog"]
