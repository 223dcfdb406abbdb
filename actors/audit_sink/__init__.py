"""The AuditSink actor: the ledger of what was done and decided."""

from mcpctl.actors.audit_sink.sink import AuditSink

__all__ = ["AuditSink"]
