"""Ids that follow from what they name, so that no number of processes makes the same thing twice."""

from __future__ import annotations

import hashlib

from graphflow.common import ids

__all__ = ["action_id", "deployment_id", "rule_id", "run_id_of", "schedule_id"]


def deployment_id(flow_name: str, name: str) -> str:
    """Return the id of a deployment: the same whenever it is made."""
    return _digest("deployment", flow_name, name)[:24]


def schedule_id(deployment: str, slug: str) -> str:
    """Return the id of a schedule of a deployment."""
    return _digest("schedule", deployment, slug)[:24]


def run_id_of(schedule: str, nominal: float, *, again: int = 0) -> str:
    """Return the id of the run of a fire, which sorts by its nominal time; `again` numbers repetitions."""
    digest = bytes.fromhex(_digest("run", schedule, f"{nominal:.3f}", str(again)))
    return ids.run_id(now=max(0.0, nominal), entropy=digest[:10])


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def rule_id(name: str) -> str:
    """Return the id of an automation: the same whenever it is made."""
    return _digest("rule", name)[:24]


def action_id(rule: str, event_id: str, place: int) -> str:
    """Return the id of what a rule does for an event, at a place among its actions."""
    return _digest("action", rule, event_id, str(place))[:24]
