"""Every contract module: permissions, the REST API and `docs/contracts.md` are derived from these."""

from mcpctl.bus.contracts import audit, catalog, gate, rbac, router, session, token

CONTRACTS = (token, rbac, catalog, session, gate, router, audit)
