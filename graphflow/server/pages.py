"""What is served beside the API: health, metrics, the document, sessions, and the page that the printed link opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response

from graphflow.operations.home import Home
from graphflow.orchestration.hooks import receive
from graphflow.server.access import COOKIE, PUBLIC, SESSION_SECONDS, Access
from graphflow.server.metrics import metrics_text
from graphflow.server.problems import problem
from graphflow.server.routes import problem_responses

__all__ = ["page_routes"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>graphflow</title>
<link rel="icon" href="data:,"></head>
<body><h1>graphflow</h1><p id="state">This server has an API; its document is <a href="api/openapi.json">api/openapi.json</a>.</p>
<script src="login.js"></script></body></html>
"""
_LOGIN = """"use strict";
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  history.replaceState(null, "", location.pathname);
  fetch("api/v1/session", {method: "POST", headers: {Authorization: "Bearer " + token, "X-Graphflow": "1"}})
    .then((answer) => {
      document.getElementById("state").textContent = answer.ok ? "You are signed in." : "The link is not valid any more.";
    });
}
"""


def page_routes(app: FastAPI, home: Home, access: Access) -> None:
    """Add these routes."""

    def add(
        path: str, handler: Callable[..., Any], role: Any, method: str = "GET", shown: bool = False
    ) -> None:
        app.add_api_route(
            path,
            handler,
            methods=[method],
            dependencies=[Depends(access.require(role))],
            include_in_schema=shown,
            response_class=Response,
            responses=problem_responses(),
        )

    def healthz() -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "ok"})

    def readyz() -> Response:
        """Say that the catalog can be read."""
        home.stores.events.last(limit=1)
        return JSONResponse({"status": "ready"})

    def document() -> Response:
        return JSONResponse(app.openapi())

    def page() -> Response:
        return HTMLResponse(_PAGE)

    def login() -> Response:
        return Response(_LOGIN, media_type="text/javascript")

    def metrics() -> Response:
        """Return figures for Prometheus."""
        text, media_type = metrics_text(home)
        return Response(text, media_type=media_type)

    async def hook(name: str, request: Request) -> Response:
        """Take a webhook; its signature is its token."""
        access.check_changes()
        body = await request.body()
        answer = await run_in_threadpool(
            receive, home.stores, name, dict(request.headers), body, home.stores.clock.wall()
        )
        if answer.status >= 400:
            return problem(answer.status, str(answer.document.get("detail", "")))
        return JSONResponse(dict(answer.document), status_code=answer.status)

    def begin_session(request: Request) -> Response:
        """Exchange the token in `Authorization` for a cookie."""
        answer = JSONResponse({"status": "signed in"})
        answer.set_cookie(
            COOKIE,
            access.session(request),
            max_age=int(SESSION_SECONDS),
            path=access.rules.prefix or "/",
            httponly=True,
            samesite="strict",
            secure=access.rules.is_https,
        )
        return answer

    def end_session() -> Response:
        """Remove the cookie."""
        answer = JSONResponse({"status": "signed out"})
        answer.delete_cookie(COOKIE, path=access.rules.prefix or "/", httponly=True, samesite="strict")
        return answer

    add("/healthz", healthz, PUBLIC, shown=True)
    add("/readyz", readyz, PUBLIC, shown=True)
    add("/metrics", metrics, "viewer")
    add("/api/openapi.json", document, "viewer")
    add("/", page, PUBLIC)
    add("/login.js", login, PUBLIC)
    add("/hooks/{name}", hook, PUBLIC, "POST", shown=True)
    # Signing in changes nothing in the home, so a server that is read-only has it too.
    add("/api/v1/session", begin_session, PUBLIC, "POST")
    add("/api/v1/session", end_session, PUBLIC, "DELETE")
