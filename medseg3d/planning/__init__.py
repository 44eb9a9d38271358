"""From a data set to a task file: a fingerprint, choices with their reasons, YAML that a person can read."""

from __future__ import annotations

from medseg3d.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]
