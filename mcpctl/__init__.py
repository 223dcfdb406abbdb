"""mcpctl: a control plane and gateway for MCP, built of independent actors on NATS."""

__version__ = "0.1.0"
