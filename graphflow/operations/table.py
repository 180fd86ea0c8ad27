"""All operations in one table: the server's routes, the client's methods and who may do what are made of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel

from graphflow.errors import GraphflowError, NotFound, ParameterError
from graphflow.model.access import Role
from graphflow.operations import automations, deployments, events, limits, pools, runs
from graphflow.operations.home import Home

__all__ = ["HEADERS", "OPERATIONS", "Operation", "plain_errors"]

HEADERS = {"idempotency_key": "Idempotency-Key", "if_match": "If-Match"}
"""Parameters that go as headers."""
Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked for: a function of a home, its address, and the least role that may ask."""

    name: str
    """`resource.verb`."""
    method: Method
    path: str
    """Below `/api/v1`; `{deployment}` is `flow/name`."""
    role: Role
    function: Callable[..., BaseModel]
    status: int = 200
    can_repeat: bool = False
    """Whether a client may send it again without knowing what became of the first time; each GET, PUT and DELETE may be."""

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Its parameters but for the home, with their types."""
        found = dict(inspect.signature(self.function, eval_str=True).parameters)
        found.pop("home")
        return found

    @cached_property
    def answer(self) -> type[BaseModel]:
        """The model of its answer."""
        found: type[BaseModel] = inspect.signature(self.function, eval_str=True).return_annotation
        return found

    @cached_property
    def body(self) -> str | None:
        """The parameter that goes as the body."""
        for name, each in self.parameters.items():
            if isinstance(each.annotation, type) and issubclass(each.annotation, BaseModel):
                return name
        return None

    def is_in_path(self, name: str) -> bool:
        """Return whether a parameter is a part of the address."""
        return f"{{{name}}}" in self.path

    def call(self, home: Home, arguments: dict[str, Any]) -> BaseModel:
        """Carry it out; what a user got wrong is an error of graphflow."""
        with plain_errors():
            return self.function(home, **arguments)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn wrong names, states and numbers into errors of graphflow."""
    try:
        yield
    except GraphflowError:
        raise
    except (KeyError, IndexError) as error:
        raise NotFound(str(error.args[0] if error.args else error)) from error
    except ValueError as error:
        raise ParameterError(str(error)) from error


OPERATIONS: tuple[Operation, ...] = (
    Operation("runs.list", "GET", "/runs", "viewer", runs.list_runs),
    Operation("runs.show", "GET", "/runs/{run}", "viewer", runs.show),
    Operation("runs.nodes", "GET", "/runs/{run}/nodes", "viewer", runs.nodes),
    Operation("runs.items", "GET", "/runs/{run}/items", "viewer", runs.items),
    Operation("runs.failures", "GET", "/runs/{run}/failures", "viewer", runs.failures),
    Operation("runs.logs", "GET", "/runs/{run}/logs", "viewer", runs.logs),
    Operation("runs.events", "GET", "/runs/{run}/events", "viewer", runs.events),
    Operation("runs.result", "GET", "/runs/{run}/result", "viewer", runs.result),
    Operation("runs.cancel", "POST", "/runs/{run}/cancel", "operator", runs.cancel),
    Operation("runs.pause", "POST", "/runs/{run}/pause", "operator", runs.pause),
    Operation("runs.resume", "POST", "/runs/{run}/resume", "operator", runs.resume),
    Operation("runs.retry", "POST", "/runs/{run}/retry", "operator", runs.retry),
    Operation("runs.rerun", "POST", "/runs/{run}/rerun", "operator", runs.rerun, status=201),
    Operation("runs.update", "POST", "/runs/{run}/update", "operator", runs.update),
    Operation("deployments.list", "GET", "/deployments", "viewer", deployments.list_deployments),
    Operation("deployments.show", "GET", "/deployments/{deployment}", "viewer", deployments.show),
    Operation("deployments.put", "PUT", "/deployments/{deployment}", "admin", deployments.put),
    Operation("deployments.remove", "DELETE", "/deployments/{deployment}", "admin", deployments.remove),
    Operation(
        "deployments.run", "POST", "/deployments/{deployment}/runs", "operator", deployments.run, status=201
    ),
    Operation(
        "deployments.validate",
        "POST",
        "/deployments/{deployment}/validate",
        "viewer",
        deployments.validate,
        can_repeat=True,
    ),
    Operation("deployments.pause", "POST", "/deployments/{deployment}/pause", "operator", deployments.pause),
    Operation(
        "deployments.resume", "POST", "/deployments/{deployment}/resume", "operator", deployments.resume
    ),
    Operation(
        "deployments.backfill", "POST", "/deployments/{deployment}/backfill", "operator", deployments.backfill
    ),
    Operation("deployments.fires", "GET", "/deployments/{deployment}/fires", "viewer", deployments.fires),
    Operation(
        "deployments.preview", "GET", "/deployments/{deployment}/preview", "viewer", deployments.preview
    ),
    Operation("pools.list", "GET", "/pools", "viewer", pools.list_pools),
    Operation("pools.show", "GET", "/pools/{pool}", "viewer", pools.show_pool),
    Operation("pools.put", "PUT", "/pools/{pool}", "admin", pools.put_pool),
    Operation("pools.pause", "POST", "/pools/{pool}/pause", "operator", pools.pause_pool),
    Operation("pools.resume", "POST", "/pools/{pool}/resume", "operator", pools.resume_pool),
    Operation("queues.put", "PUT", "/pools/{pool}/queues/{queue}", "operator", pools.put_queue),
    Operation("workers.list", "GET", "/workers", "viewer", pools.list_workers),
    Operation("limits.list", "GET", "/limits", "viewer", limits.list_limits),
    Operation("limits.show", "GET", "/limits/{limit}", "viewer", limits.show_limit),
    Operation("limits.set", "PUT", "/limits/{limit}", "operator", limits.set_limit),
    Operation("limits.remove", "DELETE", "/limits/{limit}", "operator", limits.remove_limit),
    Operation("rates.list", "GET", "/rates", "viewer", limits.list_rates),
    Operation("rates.set", "PUT", "/rates/{rate}", "operator", limits.set_rate),
    Operation("rates.remove", "DELETE", "/rates/{rate}", "operator", limits.remove_rate),
    Operation("automations.list", "GET", "/automations", "viewer", automations.list_automations),
    Operation("automations.show", "GET", "/automations/{automation}", "viewer", automations.show),
    Operation("automations.pause", "POST", "/automations/{automation}/pause", "operator", automations.pause),
    Operation(
        "automations.resume", "POST", "/automations/{automation}/resume", "operator", automations.resume
    ),
    Operation("automations.remove", "DELETE", "/automations/{automation}", "admin", automations.remove),
    Operation("automations.test", "POST", "/automations/test", "operator", automations.test, can_repeat=True),
    Operation("hooks.list", "GET", "/hooks", "viewer", automations.list_hooks),
    Operation("hooks.remove", "DELETE", "/hooks/{hook}", "admin", automations.remove_hook),
    Operation("events.list", "GET", "/events", "viewer", events.list_events),
    Operation("events.emit", "POST", "/events", "operator", events.emit, status=201),
    Operation("tokens.list", "GET", "/tokens", "admin", events.list_tokens),
    Operation("tokens.create", "POST", "/tokens", "admin", events.create_token, status=201),
    Operation("tokens.remove", "DELETE", "/tokens/{token}", "admin", events.remove_token),
    Operation("settings.show", "GET", "/settings", "viewer", events.settings),
    Operation("settings.set", "PUT", "/settings", "admin", events.set_settings),
)
"""Operations, in the order of the documents made of them."""
