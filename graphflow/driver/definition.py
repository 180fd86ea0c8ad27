"""A flow as its runs need it, and what a run's history needs to know of a run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from graphflow.common.secrets import mask
from graphflow.errors import FlowTimedOut
from graphflow.model.flow_options import FlowOptions

__all__ = ["Definition", "RunFacts", "as_call"]

logger = logging.getLogger("graphflow.authoring.flows")


class RunFacts(Protocol):
    """What is written down of a run when it begins."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def flow_name(self) -> str: ...
    @property
    def created(self) -> float: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Definition:
    """A flow as its calls need it; `subject` is what hooks get as the flow."""

    fn: Callable[..., Any]
    options: FlowOptions
    subject: Any

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.options.name

    def call(self, parameters: Mapping[str, Any]) -> Any:
        """Call the body; the values that a generator yields are its value, as a list."""
        args, kwargs = as_call(self.fn, parameters)
        value = self.fn(*args, **kwargs)
        if inspect.isasyncgen(value):
            return _collected(value)
        return list(value) if inspect.isgenerator(value) else value

    def run_name(self, parameters: Mapping[str, Any], run_id: str) -> str:
        """Return the name of a run; the default if `flow_run_name` raises."""
        label = self.options.flow_run_name
        try:
            if isinstance(label, str):
                return mask(label.format_map({"flow_name": self.name, "run_id": run_id, **parameters}))
            if callable(label):
                return mask(str(label()))
        except Exception:
            logger.debug("flow_run_name of %s raised; the default is used", self.name, exc_info=True)
        return f"{self.name}-{run_id[-6:].lower()}"

    def timed_out(self) -> FlowTimedOut:
        """Return the error of a run whose time was up."""
        return FlowTimedOut(
            f"flow {self.name!r} ran longer than timeout_seconds={self.options.timeout_seconds:g}"
        )


async def _collected(values: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in values]


def as_call(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from parameters by name."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if name not in parameters:
            continue
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
            parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and not kwargs
        ):
            args.append(parameters[name])
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(parameters[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.update(parameters[name])
        else:
            kwargs[name] = parameters[name]
    return args, kwargs
