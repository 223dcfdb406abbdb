"""Who may do what: definitions, and the decisions that follow from them."""

from mcpctl.actors.rbac_evaluator.evaluator import RbacEvaluator

__all__ = ["RbacEvaluator"]
