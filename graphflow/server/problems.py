"""Errors as `application/problem+json` (RFC 9457): one mapping of exceptions, and one handler for all."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from graphflow.errors import (
    AccessDenied,
    AlreadyExists,
    BackendError,
    GraphflowError,
    HistoryError,
    LeaseHeld,
    NotFound,
    RequestRefused,
    ResultStoreError,
    RevisionChanged,
    ValueUnavailable,
)

__all__ = ["MEDIA_TYPE", "Refused", "install", "problem"]

logger = logging.getLogger("graphflow.server")
MEDIA_TYPE = "application/problem+json"
TYPES = "urn:graphflow:problem:"
_STATUSES: Sequence[tuple[type[BaseException], int]] = (
    (AccessDenied, 403),
    (NotFound, 404),
    (LeaseHeld, 409),
    (RequestRefused, 409),
    (ValueUnavailable, 409),
    (AlreadyExists, 409),
    (RevisionChanged, 412),
    (HistoryError, 503),
    (ResultStoreError, 503),
    (BackendError, 503),
    (TimeoutError, 503),
    (ValueError, 422),
)
"""The first that fits counts."""


class Refused(Exception):
    """A request that is refused before an operation begins."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def problem(
    status: int,
    detail: str,
    *,
    error: str = "",
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem document: `detail` says what to do, `error` names the exception, `errors` the places."""
    title = HTTPStatus(status).phrase
    document: dict[str, Any] = {
        "type": TYPES + (error or title.replace(" ", "")),
        "title": title,
        "status": status,
        "detail": detail,
    }
    if errors:
        document["errors"] = list(errors)
    # A name in a path may hold halves of characters.
    content = json.dumps(document)
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Let all errors of an application be problem documents."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(GraphflowError, _ours)
    app.add_exception_handler(TimeoutError, _ours)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, error.detail, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # What was sent is not repeated: it may be a secret.
    errors = [
        {"place": ".".join(map(str, each["loc"])), "message": str(each["msg"])} for each in error.errors()
    ]
    first = f"{errors[0]['place']}: {errors[0]['message']}" if errors else "see the API reference"
    return problem(422, f"the request is wrong: {first}", error="ParameterError", errors=errors)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        404: "there is nothing at this address; the addresses are in /api/openapi.json",
        405: f"{request.method} is not possible here; see /api/openapi.json",
        400: "the body is not JSON",
    }.get(error.status_code, str(error.detail))
    return problem(error.status_code, detail, headers=error.headers)


async def _ours(request: Request, error: Exception) -> Response:
    status = next((number for kind, number in _STATUSES if isinstance(error, kind)), 409)
    headers = {"Retry-After": "1"} if status == 503 else {}
    if status == 503:
        logger.warning("%s %s: %s", request.method, request.url.path, error)
    return problem(status, str(error), error=type(error).__name__, headers=headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(
        500, "the server failed; this is a bug in graphflow: please report it, with the traceback in its log"
    )
