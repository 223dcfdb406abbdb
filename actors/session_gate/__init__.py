"""Sessions of legacy MCP clients, and which router owns their state."""

from mcpctl.actors.session_gate.gate import SessionGate

__all__ = ["SessionGate"]
