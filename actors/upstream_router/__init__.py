"""The UpstreamRouter: from one MCP request on the bus to an upstream server and back."""

from mcpctl.actors.upstream_router.router import UpstreamRouter

__all__ = ["UpstreamRouter"]
