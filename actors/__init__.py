import mcpctl.bus  # noqa: F401 - before structlog, of which it loads less
