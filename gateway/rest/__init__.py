"""The control plane over HTTP: `/api/v1/…`, derived from the contracts."""
