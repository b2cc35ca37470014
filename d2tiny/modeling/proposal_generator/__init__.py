"""Proposal generators."""

from d2tiny.modeling.proposal_generator.tiny_rpn import TinyRPN

__all__ = ["TinyRPN"]
