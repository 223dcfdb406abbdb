"""Every contract module: permissions, the REST API and `docs/contracts.md` are derived from these."""

from mcpctl.bus.contracts import audit, catalog, gate, pins, rbac, router, session, token

CONTRACTS = (token, rbac, catalog, pins, session, gate, router, audit)
