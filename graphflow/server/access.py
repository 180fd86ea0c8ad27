"""Who may ask for what: the one check of tokens and roles, and the guard before all routes.

Deny by default: each route names the least role, or `PUBLIC`, and the application does not start with one that names neither.
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graphflow.common.acting import ACTOR
from graphflow.errors import GraphflowError
from graphflow.model.access import ROLES, Role
from graphflow.orchestration.stores.tokens import StoredToken, Tokens, digest_of
from graphflow.server.problems import Refused, problem

__all__ = ["COOKIE", "PUBLIC", "Access", "CheckedRoute", "Guard", "Rules", "check_roles", "route_role"]

COOKIE = "graphflow_session"
PUBLIC: Literal["public"] = "public"
SESSION_SECONDS = 12 * 3_600.0
FAILED_AT_MOST = 10
FAILED_WITHIN_SECONDS = 60.0
ADDRESSES_KEPT = 10_000
MOST_NBYTES = 1 << 20
BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
logger = logging.getLogger("graphflow.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a server may be reached."""

    hosts: frozenset[str]
    """Names and addresses, with port where that is not the scheme's own, that a request may be meant for."""
    origins: frozenset[str]
    """Pages that may send requests."""
    is_read_only: bool = False
    is_behind_proxy: bool = False
    """Whether the last `X-Forwarded-For` says who asks."""
    is_https: bool = False
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    role: Role
    is_by_cookie: bool = False


class Access:
    """The tokens that are accepted, sessions made of them, and how often an address was refused.

    Parameters
    ----------
    tokens
        Those that are stored.
    rules
        How the server may be reached.
    link_token
        The text of a token of this process alone, which is an admin's; it ends with the process.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        tokens: Tokens,
        rules: Rules,
        *,
        link_token: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self._tokens = tokens
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._link: StoredToken | None = None
        if link_token:
            self._link = StoredToken(
                name="link", digest=digest_of(link_token), role="admin", created=time.time()
            )
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    # -- the check ------------------------------------------------------------------------------------------

    def require(self, role: Role | Literal["public"]) -> Callable[[Request], Any]:
        """Return the dependency of a route that needs a role."""

        async def check(request: Request) -> None:
            if role == PUBLIC or hasattr(request.state, "caller"):
                return
            caller = await run_in_threadpool(self.caller_of, request)
            self._check(caller, role, request)
            # For what runs within this request; its task ends with it.
            ACTOR.set({"who": f"token:{caller.name}", "from": self.address_of(request)})
            request.state.caller = caller

        check.role = role  # type: ignore[attr-defined]
        return check

    def _check(self, caller: Caller, role: Role, request: Request) -> None:
        if ROLES.index(caller.role) < ROLES.index(role):
            raise Refused(
                403,
                f"this needs the role {role}, and the token {caller.name!r} is a {caller.role}'s; use another token:"
                f" graphflow token create NAME --role {role}",
            )
        if request.method in SAFE_METHODS:
            return
        if caller.is_by_cookie and request.headers.get("x-graphflow") != "1":
            raise Refused(403, "a change that is asked for with a cookie needs the header X-Graphflow: 1")
        self.check_changes()

    def check_changes(self) -> None:
        """Refuse a change where the server is read-only."""
        if self.rules.is_read_only:
            raise Refused(403, "this server is read-only; start it without --read-only to change anything")

    def caller_of(self, request: Request) -> Caller:
        """Return who asks, by the token in `Authorization`, else by the cookie.

        Raises
        ------
        Refused
            401 without a token that is known, 429 after too many of them.
        """
        address = self.address_of(request)
        self._check_failures(address)
        given = request.headers.get("authorization")
        if given is not None:
            kind, _, text = given.partition(" ")
            token = self._known(digest_of(text.strip())) if kind.lower() == "bearer" and text else None
        else:
            token = self._of_session(request.cookies.get(COOKIE, ""))
        if token is None:
            if given is not None or COOKIE in request.cookies:
                self._note_failure(address)
            raise Refused(
                401,
                "a token is needed, and this is none or one that is not known any more; send Authorization: Bearer TOKEN, and"
                " make one with: graphflow token create NAME --role viewer",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Caller(token.name, token.role, is_by_cookie=given is None)

    def _known(self, digest: str) -> StoredToken | None:
        if self._link is not None and hmac.compare_digest(digest, self._link.digest):
            return self._link
        return self._tokens.by_digest(digest)

    def address_of(self, request: Request) -> str:
        """Return the address of who asks; behind a proxy, the last one that the proxy tells of."""
        forwarded = request.headers.get("x-forwarded-for", "") if self.rules.is_behind_proxy else ""
        return forwarded.rpartition(",")[2].strip() or (request.client.host if request.client else "")

    # -- sessions --------------------------------------------------------------------------------------------

    def session(self, request: Request) -> str:
        """Return the cookie of a session of the token that a request has; it ends with the token, or with this process."""
        digest = digest_of(request.headers.get("authorization", "").partition(" ")[2].strip())
        if self._known(digest) is None:
            raise Refused(401, "a session is made with a token: send Authorization: Bearer TOKEN")
        body = json.dumps({"digest": digest, "until": self._clock() + SESSION_SECONDS}).encode()
        return f"{base64.urlsafe_b64encode(body).decode()}.{self._sign(body)}"

    def _of_session(self, cookie: str) -> StoredToken | None:
        text, _, mac = cookie.partition(".")
        try:
            body = base64.urlsafe_b64decode(text.encode())
            if not hmac.compare_digest(self._sign(body).encode(), mac.encode()):
                return None
            given = json.loads(body)
        except ValueError:
            return None
        return self._known(given["digest"]) if given["until"] > self._clock() else None

    def _sign(self, body: bytes) -> str:
        return hmac.new(self._key, body, "sha256").hexdigest()

    # -- failures --------------------------------------------------------------------------------------------

    def _check_failures(self, address: str) -> None:
        with self._lock:
            failed = self._failed.get(address)
            if failed is None:
                return
            while failed and failed[0] <= self._clock() - FAILED_WITHIN_SECONDS:
                failed.popleft()
            if len(failed) >= FAILED_AT_MOST:
                seconds = max(1, round(failed[0] + FAILED_WITHIN_SECONDS - self._clock()))
                raise Refused(
                    429,
                    f"{FAILED_AT_MOST} wrong tokens came from {address} within a minute; try again in {seconds} s",
                    headers={"Retry-After": str(seconds)},
                )

    def _note_failure(self, address: str) -> None:
        with self._lock:
            self._failed.setdefault(address, deque(maxlen=FAILED_AT_MOST)).append(self._clock())
            self._failed.move_to_end(address)
            while len(self._failed) > ADDRESSES_KEPT:
                self._failed.popitem(last=False)
        logger.warning("a wrong token from %s", address)


class CheckedRoute(APIRoute):
    """A route whose role is checked before its body is read: FastAPI parses JSON before it asks dependencies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        checks = [each.dependency for each in self.dependencies if hasattr(each.dependency, "role")]

        async def checked(request: Request) -> Response:
            for check in checks:
                await check(request)  # type: ignore[misc]
            return await handle(request)

        return checked


class Guard:
    """What each request passes first: its host, its origin, the size of its body; and the headers of each answer."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Websockets are not offered.
            await self._app(scope, receive, send)
            return
        prefix = self._rules.prefix
        if prefix and scope["path"].startswith(f"{prefix}/"):
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send_secured)
            return
        if scope["method"] in BODY_METHODS:
            body = await _body_of(receive)
            if body is None:
                large = problem(
                    413, f"the body is larger than {MOST_NBYTES:,} bytes; store it, and send its place"
                )
                await large(scope, receive, send_secured)
                return
            receive = _replay(body, receive)
        await self._app(scope, receive, send_secured)

    def _refusal(self, headers: Mapping[str, str]) -> Any:
        host = headers.get("host", "").lower()
        if host not in self._rules.hosts:
            return problem(
                421,
                f"this server is not {host!r}; it answers to {', '.join(sorted(self._rules.hosts))}. Behind a proxy, start it with"
                " --proxy https://NAME",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self._rules.origins:
            return problem(403, f"pages of {origin!r} may not send requests to this server")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return problem(403, "pages of other sites may not send requests to this server")
        length = headers.get("content-length", "")
        if length.isdigit() and len(length) < 19 and int(length) > MOST_NBYTES:
            return problem(
                413, f"the body is larger than {MOST_NBYTES:,} bytes; store it, and send its place"
            )
        return None


async def _body_of(receive: Receive) -> bytes | None:
    """Return a body whole, or None if it is too large; what comes after that is not read."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_NBYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_first = True

    async def replayed() -> Message:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def route_role(route: Any) -> str | None:
    """Return the role that a route names; None if it names none."""
    if isinstance(route, APIRoute):
        for each in route.dependant.dependencies:
            found = getattr(each.call, "role", None)
            if found is not None:
                return str(found)
    return None


def check_roles(app: FastAPI) -> None:
    """Refuse an application with a route that names no role.

    Raises
    ------
    GraphflowError
        If there is one.
    """
    for route in app.routes:
        if route_role(route) is None:
            path = route.path if isinstance(route, Route) else repr(route)
            raise GraphflowError(
                f"the route {path} names no role; use dependencies=[Depends(access.require(...))]"
            )


def rules_of(
    host: str,
    port: int,
    *,
    proxy: str = "",
    prefix: str = "",
    is_read_only: bool = False,
) -> Rules:
    """Return how a server at a place may be reached: by its own address, from this machine, and by its proxy's name."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if host not in ("0.0.0.0", "::", ""):
        names.add(f"[{host}]" if ":" in host else host.lower())
    hosts = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
    origins = {f"http://{each}" for each in hosts}
    public = urlsplit(proxy)
    if proxy:
        hosts.add(public.netloc.lower())
        origins.add(f"{public.scheme}://{public.netloc}".lower())
    return Rules(
        hosts=frozenset(hosts),
        origins=frozenset(origins),
        is_read_only=is_read_only,
        is_behind_proxy=bool(proxy),
        is_https=public.scheme == "https",
        prefix=prefix,
    )


__all__ += ["rules_of"]
