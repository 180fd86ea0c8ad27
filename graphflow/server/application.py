"""The application: all routes behind one guard and one check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from graphflow.operations.home import Home
from graphflow.server import problems
from graphflow.server.access import Access, CheckedRoute, Guard, check_roles
from graphflow.server.pages import page_routes
from graphflow.server.routes import operation_routes
from graphflow.server.streams import Feed, stream_routes

__all__ = ["make_application"]


def make_application(home: Home, access: Access) -> FastAPI:
    """Return the application of a home.

    Raises
    ------
    GraphflowError
        If a route names no role.
    """
    feed = Feed(home)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        feed.end()

    app = FastAPI(
        title="graphflow",
        version=version("graphflow"),
        summary="Runs, deployments, pools, workers and events of a graphflow home.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.feed = feed
    app.router.route_class = CheckedRoute
    problems.install(app)
    # Before `/events/...` of the table could take its address.
    stream_routes(app, home, access, feed)
    operation_routes(app, home, access)
    page_routes(app, home, access)
    check_roles(app)
    app.add_middleware(Guard, rules=access.rules)
    return app
