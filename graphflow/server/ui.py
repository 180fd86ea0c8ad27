"""Pages beside the API: each route asks `dashboard` for parts, and answers with the page, or with those that changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode
from zoneinfo import ZoneInfo

from fastapi import Depends, FastAPI, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from graphflow.common.moments import parse_moment
from graphflow.common.times import moment
from graphflow.dashboard import lists, nodepage, plots, runpage
from graphflow.dashboard.rendering import asset, asset_name, render
from graphflow.dashboard.report import report_html
from graphflow.errors import NotFound, RunNotFound
from graphflow.operations.home import Home
from graphflow.operations.table import plain_errors
from graphflow.runs.documents import run_document
from graphflow.runs.recorded import RecordedRun
from graphflow.server.access import PUBLIC, Access
from graphflow.server.kept import KeptRuns

__all__ = ["PAGE_POLICY", "problem_page", "ui_routes"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-elem 'self' 'unsafe-inline'; style-src-attr 'none';"
    " img-src 'self' data:; connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Bokeh writes `<style>` elements into its own trees, hence the one exception."""
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'none'; sandbox allow-scripts"
)
LINES = 500
PAGE = 50
DAY = 86_400.0
BARS = 60
DUE = 8
_NEXT = re.compile(r"[\w~%.@:-][\w/~%.@:&=?+,-]*|")
Index = Annotated[int, Path(ge=0, le=2**53)]
Start = Annotated[int, Query(ge=0, le=2**53)]
Text = Annotated[str, Query(max_length=500)]


def ui_routes(app: FastAPI, home: Home, access: Access) -> None:
    """Add the pages of a home."""
    base = f"{access.rules.prefix}/"
    kept = KeptRuns(home)
    app.state.problem_page = lambda request, status, title, detail: problem_page(
        request, status, title, detail, base
    )

    def add(path: str, handler: Callable[..., Any], role: Any = "viewer") -> None:
        app.add_api_route(
            path,
            handler,
            methods=["GET"],
            dependencies=[Depends(access.require(role))],
            include_in_schema=False,
            response_class=Response,
        )

    def overview(request: Request) -> Response:
        now = home.stores.clock.wall()
        failed = home.runs.runs(state=lists.FAILED, since=now - DAY, limit=10)
        ended = [each for each in home.runs.runs(since=now - DAY, limit=2 * BARS) if each.ended][:BARS]
        html = lists.overview_page(
            base=base,
            running=home.runs.runs(state=lists.ACTIVE, limit=20),
            failed=failed,
            ended=ended,
            due=_due(home),
        )
        return _page(
            request,
            "overview.html",
            ({"overview": html}, None, False),
            page="overview",
            title="Overview",
            base=base,
        )

    def runs(
        request: Request,
        q: Text = "",
        flow: Text = "",
        state: Annotated[list[str] | None, Query()] = None,
        since: Text = "",
        cursor: str | None = None,
    ) -> Response:
        note = ""
        with plain_errors():
            if q.strip():
                try:
                    return RedirectResponse(f"{base}runs/{home.runs.run(q.strip()).id}", status_code=303)
                except RunNotFound as error:
                    note = str(error)
            found = home.runs.runs(
                flow=flow or None,
                state=state,
                since=parse_moment(since) if since else None,
                limit=PAGE + 1,
                before=cursor,
            )
        html = lists.runs_page(
            found[:PAGE],
            base=base,
            following=found[PAGE - 1].id if len(found) > PAGE else None,
            flow=flow,
            state=state or (),
            since=since,
            note=note,
        )
        return _page(
            request, "runs.html", ({"runs": html}, None, False), page="runs", title="Runs", base=base
        )

    def run_page(
        request: Request,
        run: str,
        node: Text | None = None,
        launch: Annotated[int | None, Query(ge=1)] = None,
        opened: Annotated[list[str] | None, Query(alias="open")] = None,
    ) -> Response:
        folds = frozenset(opened or ())

        def make(found: RecordedRun) -> tuple[str, nodepage.Page]:
            made = runpage.run_parts(found, base=base, node=node or None, launch=launch, opened=folds)
            return found.name, (runpage.rendered_parts(made), dict(made.columns), made.is_over)

        with plain_errors():
            title, shown = kept.page(run, ("run", node, launch, folds), make)
        return _page(request, "run.html", shown, title=title, base=base)

    def node_page(request: Request, run: str, node: str, state: Text = "", start: Start = 0) -> Response:
        def make(found: RecordedRun) -> nodepage.Page:
            return nodepage.node_page(found, node, base=base, state=state, start=start)

        with plain_errors():
            shown = kept.page(run, ("node", node, state, start), make)
        return _page(request, "node.html", shown, title=node, base=base)

    def item_page(request: Request, run: str, node: str, index: Index) -> Response:
        def make(found: RecordedRun) -> nodepage.Page:
            return nodepage.item_page(found, node, index, base=base)

        with plain_errors():
            shown = kept.page(run, ("item", node, index), make)
        return _page(request, "item.html", shown, title=f"{node}[{index}]", base=base)

    def log_page(
        request: Request, run: str, level: Text = "", node: Text = "", q: Text = "", cursor: Start = 0
    ) -> Response:
        with plain_errors(), kept.run(run) as found:
            lines = found.logs.where(node=node or None, level=level or None)
            dropped, names = lines.dropped, [each.name for each in found.nodes if not each.is_builtin]
            name, here = found.name, f"{base}runs/{found.id}"
            chosen = [each for each in lines if q.lower() in each.message.lower()] if q else list(lines)
        kept_query = {key: value for key, value in (("level", level), ("node", node), ("q", q)) if value}
        shown = chosen[cursor : cursor + LINES]
        text = render(
            "log.html",
            **_frame(request, base, "runs", f"Log of {name}"),
            run={"name": name},
            here=here,
            lines=[runpage.log_line(each) for each in shown],
            first=cursor,
            count=len(chosen),
            dropped=dropped,
            names=names[:200],
            level=level.upper(),
            node=node,
            q=q,
            address=f"{here}/log?{urlencode(kept_query)}{'&' if kept_query else ''}",
            following=cursor + LINES if cursor + LINES < len(chosen) else None,
        )
        return _html(request, text)

    def report(request: Request, run: str, plots: bool = True) -> Response:
        with plain_errors(), kept.run(run) as found:
            text = report_html(found, run_document(found, values=False), has_plots=plots)
        return _html(request, text, policy=REPORT_POLICY)

    def login(request: Request, next: Annotated[str, Query(max_length=2_000)] = "") -> Response:
        # Never to another place: what does not look like a path below this one is left out.
        target = base + (next if _NEXT.fullmatch(next) and ":" not in next.split("/")[0] else "")
        text = render("login.html", **_frame(request, base, "", "Sign in"), next=target)
        return _html(request, text)

    def static(request: Request, name: str) -> Response:
        return _static(request, name)

    add("/", overview)
    add("/login", login, PUBLIC)
    add("/static/{name}", static, PUBLIC)
    add("/runs", runs)
    add("/runs/{run}", run_page)
    add("/runs/{run}/log", log_page)
    add("/runs/{run}/report.html", report)
    add("/runs/{run}/nodes/{node:path}/items/{index}", item_page)
    add("/runs/{run}/nodes/{node:path}", node_page)


def _due(home: Home) -> list[dict[str, Any]]:
    """Return the next fires of all schedules that are not paused: here, and as the schedule's zone says."""
    found: list[tuple[float, dict[str, Any]]] = []
    for stored in home.stores.plans.all():
        for each in stored.schedules:
            if each.next_due is not None:
                zone = each.schedule.zone
                at = moment(each.next_due)
                there = at.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")
                name = stored.deployment.full_name
                row = {"key": each.id, "deployment": name, "at": at, "there": f"{there} {zone}"}
                found.append((each.next_due, row))
    found.sort(key=lambda each: each[0])
    return [row for _, row in found[:DUE]]


def _frame(request: Request, base: str, page: str, title: str) -> dict[str, Any]:
    """Return what each page has around its parts."""
    theme = request.query_params.get("theme", "")
    return {
        "base": base,
        "page": page,
        "title": title,
        "theme": theme if theme in ("light", "dark") else "",
        "style": asset_name("style.css"),
        "script": asset_name("app.js"),
        "plots": plots.plots_name(),
        "bokeh": bokeh_name(),
    }


def _page(
    request: Request, template: str, shown: nodepage.Page, *, base: str, title: str, page: str = "runs"
) -> Response:
    """Return a page, or with `?part=live` what changed of it since the tag that is given."""
    parts, columns, is_over = shown
    hashes = {name: _hash(html) for name, html in parts.items()}
    if columns is not None:
        hashes["columns"] = _hash(json.dumps(columns, default=str))
    tag = ".".join(f"{name}-{value}" for name, value in [*hashes.items(), ("over", str(int(is_over)))])
    if request.query_params.get("part") != "live":
        frame = _frame(request, base, page, title)
        text = render(template, **frame, parts=parts, columns=columns or {}, is_over=is_over, tag=tag)
        return _html(request, text)
    given = request.headers.get("if-none-match", "").strip().removeprefix("W/").strip('"')
    headers = {"ETag": f'"{tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if given == tag:
        return Response(status_code=304, headers=headers)
    known = dict(each.rpartition("-")[::2] for each in given.split("."))
    changed = {name: html for name, html in parts.items() if known.get(name) != hashes[name]}
    document: dict[str, Any] = {"html": changed, "over": is_over, "tag": tag}
    if columns is not None and known.get("columns") != hashes["columns"]:
        document["columns"] = columns
    text = json.dumps(document, default=str)
    return _packed(request, text.encode(), "application/json", headers)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _html(request: Request, text: str, *, status: int = 200, policy: str = PAGE_POLICY) -> Response:
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "same-origin",
        "Vary": "Accept-Encoding",
    }
    return _packed(
        request, text.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8", headers, status
    )


def _packed(
    request: Request, body: bytes, media_type: str, headers: Mapping[str, str], status: int = 200
) -> Response:
    """Return a body, compressed where that is understood and worth it."""
    given = dict(headers)
    if len(body) > 1_000 and "gzip" in request.headers.get("accept-encoding", ""):
        body, given["Content-Encoding"] = gzip.compress(body, 5), "gzip"
    return Response(body, status_code=status, media_type=media_type, headers=given)


@cache
def bokeh_name() -> str:
    """Return the name of Bokeh's script, which changes with its version."""
    return f"bokeh-{version('bokeh')}.min.js"


@cache
def _files() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Return the files that pages refer to, by name: media type, and what reads them."""
    return {
        asset_name("style.css"): ("text/css; charset=utf-8", lambda: asset("style.css").encode()),
        asset_name("app.js"): ("text/javascript; charset=utf-8", lambda: asset("app.js").encode()),
        plots.plots_name(): ("application/json", lambda: plots.skeletons().encode()),
        bokeh_name(): ("text/javascript; charset=utf-8", plots.bokeh_script),
    }


@cache
def _compressed(name: str) -> bytes:
    return gzip.compress(_files()[name][1](), 6)


def _static(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise NotFound(f"there is no file {name!r} among those of the pages")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = _compressed(name)
        headers["Content-Encoding"] = "gzip"
    else:
        body = found[1]()
    return Response(body, media_type=found[0], headers=headers)


def problem_page(request: Request, status: int, title: str, detail: str, base: str) -> Response | None:
    """Return a problem as a page where a person looks at pages, the sign-in where that is missing; None for programs."""
    path = request.url.path
    wants = "text/html" in request.headers.get("accept", "")
    if request.method != "GET" or not wants or path.startswith(("/api/", "/static/")):
        return None
    if status == 401:
        query = [(name, value) for name, value in parse_qsl(request.url.query) if name != "part"]
        target = path.lstrip("/") + (f"?{urlencode(query)}" if query else "")
        return RedirectResponse(f"{base}login?next={quote(target, safe='')}", status_code=303)
    text = render("problem.html", **_frame(request, base, "", title), detail=detail)
    return _html(request, text, status=status)
