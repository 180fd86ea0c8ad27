"""The routes of `/api/v1`, made of the table of operations: parse, call one function, return its model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from pydantic import BaseModel

from graphflow.operations.home import Home
from graphflow.operations.table import HEADERS, OPERATIONS, Operation
from graphflow.server.access import Access
from graphflow.server.problems import MEDIA_TYPE, Refused

__all__ = ["ANY_FLOW", "operation_routes", "problem_responses"]

ANY_FLOW = "-"
"""In an address, in place of a flow's name: a deployment by its own name, where that is clear."""
MOST_KEY = 255


def operation_routes(app: FastAPI, home: Home, access: Access) -> None:
    """Add a route for each operation."""
    for each in OPERATIONS:
        app.add_api_route(
            _address(each),
            _endpoint(each, home),
            methods=[each.method],
            status_code=each.status,
            response_model=each.answer,
            response_model_exclude_unset=True,
            dependencies=[Depends(access.require(each.role)), Depends(_query_check(each))],
            operation_id=each.name,
            tags=[each.name.partition(".")[0]],
            description=f"{inspect.getdoc(each.function)}\n\nNeeds the role `{each.role}`.",
            summary=each.name,
            responses=problem_responses(),
        )


def _address(operation: Operation) -> str:
    # A limit has the name of any tag, which may have a `/` in it.
    found = operation.path.replace("{deployment}", "{flow}/{name}")
    return "/api/v1" + found.replace("{limit}", "{limit:path}").replace("{rate}", "{rate:path}")


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """Return how problems are told of in the OpenAPI document."""
    schema = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"type": "object"}},
        },
    }
    return {"default": {"description": "Problem", "content": {MEDIA_TYPE: {"schema": schema}}}}


def _endpoint(operation: Operation, home: Home) -> Callable[..., BaseModel]:
    """Return a handler whose signature is that of the operation, for FastAPI to read."""

    def handle(**given: Any) -> BaseModel:
        if "flow" in given and "{deployment}" in operation.path and "name" in given:
            flow, name = given.pop("flow"), given.pop("name")
            given["deployment"] = name if flow == ANY_FLOW else f"{flow}/{name}"
        return operation.call(home, given)

    handle.__name__ = operation.name.replace(".", "_")
    handle.__signature__ = inspect.Signature(list(_parameters(operation)))  # type: ignore[attr-defined]
    return handle


def _parameters(operation: Operation) -> list[inspect.Parameter]:
    found = []
    if "{deployment}" in operation.path:
        found += [_parameter(name, Annotated[str, Path()]) for name in ("flow", "name")]
    for name, each in operation.parameters.items():
        if name == "deployment" and operation.is_in_path(name):
            continue
        annotation: Any = each.annotation
        if operation.is_in_path(name):
            annotation = Annotated[annotation, Path()]
        elif name in HEADERS:
            annotation = Annotated[annotation, Header(alias=HEADERS[name], min_length=1, max_length=MOST_KEY)]
        elif name != operation.body:
            annotation = Annotated[annotation, Query()]
        found.append(_parameter(name, annotation, each.default))
    return found


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _query_check(operation: Operation) -> Callable[[Request], Any]:
    known = {
        name
        for name in operation.parameters
        if not operation.is_in_path(name) and name not in HEADERS and name != operation.body
    }

    async def check(request: Request) -> None:
        unknown = [name for name in request.query_params if name not in known]
        if unknown:
            raise Refused(
                422,
                f"unknown query name {unknown[0]!r}; {operation.name} takes {', '.join(sorted(known)) or 'none'}",
            )

    return check
