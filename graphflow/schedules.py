"""Schedules: when a deployment is due."""

from __future__ import annotations

from graphflow.authoring.schedules import (
    At,
    Cron,
    CronSchedule,
    Interval,
    IntervalSchedule,
    RRule,
    RRuleSchedule,
)

__all__ = ["At", "Cron", "CronSchedule", "Interval", "IntervalSchedule", "RRule", "RRuleSchedule"]
