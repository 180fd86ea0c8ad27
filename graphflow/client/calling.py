"""How operations are carried out: in this process, or by a server over HTTP. Both answer with the same models and errors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from pydantic import BaseModel, TypeAdapter, ValidationError

from graphflow import errors
from graphflow.errors import AccessDenied, ApiError, GraphflowError, ParameterError
from graphflow.model.views import EventView
from graphflow.operations.events import event_view
from graphflow.operations.home import Home
from graphflow.operations.table import HEADERS, OPERATIONS, Operation

__all__ = ["Caller", "LocalCaller", "RemoteCaller"]

POLL_SECONDS = 0.2
TRIES = 6
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Longer than the server waits for a driver, or its catalog, before it answers."""
BY_NAME = {each.name: each for each in OPERATIONS}
_PROBLEM = "urn:graphflow:problem:"


class Caller(Protocol):
    """What a connection asks."""

    def call(self, name: str, **arguments: Any) -> Any:
        """Carry out an operation; return its model."""

    def follow(self, *, type: str, subject: str, after: int | None) -> Iterator[EventView]:
        """Yield events as they happen."""

    def close(self) -> None:
        """Close what is open."""


class LocalCaller:
    """Carries operations out in this process."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def call(self, name: str, **arguments: Any) -> Any:
        operation = BY_NAME[name]
        return operation.call(self._home, _checked(operation, arguments))

    def follow(self, *, type: str, subject: str, after: int | None) -> Iterator[EventView]:
        events = self._home.stores.events
        if after is None:
            last = events.last(limit=1)
            after = last[0].seq if last else 0
        return self._events(type, subject, after)

    def _events(self, type: str, subject: str, after: int) -> Iterator[EventView]:
        events, pause = self._home.stores.events, threading.Event()
        while True:
            found = events.after(after, type=type, subject=subject)
            for each in found:
                after = each.seq
                yield event_view(each)
            if not found:
                pause.wait(POLL_SECONDS)

    def close(self) -> None:
        self._home.close()


def _checked(operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments as a server would read them."""
    found = {}
    for name, value in arguments.items():
        try:
            found[name] = TypeAdapter(operation.parameters[name].annotation).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (name, *first["loc"])))
            raise ParameterError(f"the request is wrong: {place}: {first['msg']}") from None
    return found


class RemoteCaller:
    """Sends operations to a server.

    What can be repeated is sent again, with growing pauses, where the server is busy or cannot be reached: what reads, what sets
    a value, and what has an idempotency key.

    Parameters
    ----------
    url
        The server's address, such as `https://host/prefix`.
    token
        What it is asked with.
    sleep
        Waits for some seconds.
    """

    def __init__(self, url: str, token: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ApiError(
                f"{url!r} is not the address of a server; use one such as https://host or http://127.0.0.1:8790"
            )
        if not token.isascii() or not token.isprintable():
            raise AccessDenied("the token has characters that no token has; copy it again")
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._token = token
        self._sleep = sleep
        # Redirects are not followed: the token would go along.
        self._pool = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        )

    def close(self) -> None:
        self._pool.clear()

    def call(self, name: str, **arguments: Any) -> Any:
        operation = BY_NAME[name]
        given = {key: value for key, value in arguments.items() if value is not None}
        path, query, headers, body = operation.path, [], dict(self._headers), None
        for key, value in given.items():
            if key == "deployment" and operation.is_in_path(key):
                flow, slash, own = str(value).partition("/")
                address = f"{_quoted(flow)}/{_quoted(own)}" if slash else f"-/{_quoted(flow)}"
                path = path.replace("{deployment}", address)
            elif operation.is_in_path(key):
                path = path.replace(f"{{{key}}}", _quoted(str(value)))
            elif key in HEADERS:
                headers[HEADERS[key]] = str(value)
            elif key == operation.body:
                adapter = TypeAdapter(operation.parameters[key].annotation)
                body = adapter.dump_json(_checked(operation, {key: value})[key], exclude_unset=True)
                headers["Content-Type"] = "application/json"
            else:
                values = value if isinstance(value, list | tuple) else [value]
                query += [(key, _text(each)) for each in values]
        url = f"{self._base}/api/v1{path}" + (f"?{urlencode(query)}" if query else "")
        can_repeat = operation.method != "POST" or operation.can_repeat or "idempotency_key" in given
        answer = self._send(operation.method, url, headers, body, can_repeat=can_repeat)
        return self._read(operation.answer, answer.data, url)

    def follow(self, *, type: str, subject: str, after: int | None) -> Iterator[EventView]:
        """Yield events as they happen; a broken stream is begun again where it was."""
        if after is None:
            # From this call on, not from when its first event is asked for.
            last = self.call("events.list", limit=1).events
            after = last[-1].seq if last else 0
        return self._events(type, subject, after)

    def _events(self, type: str, subject: str, after: int) -> Iterator[EventView]:
        url = f"{self._base}/api/v1/events/stream?{urlencode({'type': type, 'subject': subject})}"
        seen = str(after)
        while True:
            headers = {**self._headers, "Accept": "text/event-stream", "Last-Event-ID": seen}
            answer = self._send("GET", url, headers, None, can_repeat=True, is_stream=True)
            try:
                for document in _documents(answer):
                    event = self._read(EventView, document, url)
                    seen = str(event.seq)
                    yield event
            except (urllib3.exceptions.HTTPError, OSError):
                pass
            finally:
                answer.close()
            self._sleep(FIRST_PAUSE_SECONDS)

    @property
    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json",
            "User-Agent": "graphflow",
        }

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        *,
        can_repeat: bool,
        is_stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Return an answer that is no error."""
        pause = FIRST_PAUSE_SECONDS
        for number in range(1, TRIES + 1):
            is_last = number == TRIES or not can_repeat
            try:
                answer = self._pool.request(
                    method, url, headers=headers, body=body, redirect=False, preload_content=not is_stream
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if is_last:
                    again = "" if can_repeat else "; it may have been carried out: look before you ask again"
                    raise ApiError(f"{self._base} does not answer: {error}{again}") from error
                wanted = 0.0
            else:
                if answer.status < 300:
                    return answer
                data = answer.data
                if is_last or answer.status not in (429, 503):
                    raise _error_of(answer.status, data, self._base)
                asked = answer.headers.get("Retry-After", "")
                wanted = float(asked) if asked.isdigit() else 0.0
                if wanted > LONGEST_PAUSE_SECONDS:
                    raise _error_of(answer.status, data, self._base)
            self._sleep(max(pause, wanted))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _read(self, model: type[BaseModel], data: bytes | str, url: str) -> Any:
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise ApiError(
                f"the answer of {url} is not one of graphflow's, or of another version: {error.errors()[0]['msg']}"
            ) from error


def _quoted(text: str) -> str:
    # A name of dots alone would be taken for a folder.
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _documents(answer: urllib3.BaseHTTPResponse) -> Iterator[str]:
    """Yield the data of server-sent events."""
    rest = b""
    data: list[bytes] = []
    while part := answer.read1(65_536):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode()
                data = []


def _error_of(status: int, data: bytes, base: str) -> Exception:
    """Return the exception that a problem document tells of."""
    try:
        document = json.loads(data)
        detail, kind = str(document["detail"]), str(document["type"])
    except (ValueError, KeyError, TypeError):
        return ApiError(
            f"{base} answered with {status}, and nothing of graphflow's; is it the right address?",
            status=status,
        )
    if status in (401, 403):
        return AccessDenied(detail)
    name = kind.removeprefix(_PROBLEM)
    if name == "TimeoutError":
        return TimeoutError(detail)
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, GraphflowError) and found is not errors.RemoteError:
        return found(detail)
    return ApiError(detail, status=status)
