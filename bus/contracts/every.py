"""Every contract module: permissions, the REST API and `docs/contracts.md` are derived from these."""

from mcpctl.bus.contracts import audit, catalog, gate, pins, rbac, router, sealing, session, token

CONTRACTS = (token, rbac, catalog, pins, sealing, session, gate, router, audit)
