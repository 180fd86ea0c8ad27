"""Deployments, under the name that Prefect's users import them by."""

from __future__ import annotations

from graphflow.authoring.deployments import ConcurrencyLimitConfig, Deployment, run_deployment
from graphflow.authoring.serving import serve

__all__ = ["ConcurrencyLimitConfig", "Deployment", "run_deployment", "serve"]
