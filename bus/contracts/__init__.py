"""What the parts say to each other, one module an actor."""

from mcpctl.bus.contracts import audit, catalog, rbac, router, session, token

CONTRACTS = (token, rbac, catalog, session, router, audit)
"""Every contract module: permissions and `docs/contracts.md` are derived from these."""
