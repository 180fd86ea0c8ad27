"""A proxy in front of an S3 server on loopback that fails as networks and servers do, by plan.

Requests are counted. What matches no fault, or one that is used up, goes through unchanged.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

__all__ = ["Fault", "S3Proxy", "Seen"]

_HOP_BY_HOP = ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding")
_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message><RequestId>1</RequestId></Error>"""
_ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


@dataclass(kw_only=True)
class Fault:
    """What happens to requests of a method to paths that hold a text, to each `every`-th, at most `times` times (None: always).

    With a `status`, the client gets that answer: `before` the server saw the request, or `after` it did what was asked,
    which the client then does not hear. Without one the connection is broken, also `halfway` through a body: of the
    request where it has one, else of the answer. `hangs` gives no answer until the proxy is closed or reset. With
    `delay_seconds`, the request goes through unharmed, so much later.
    """

    method: str = ""
    path: str = ""
    times: int | None = 1
    when: Literal["before", "halfway", "after"] = "before"
    status: int | None = None
    code: str = ""
    message: str = "by plan"
    hangs: bool = False
    every: int = 1
    delay_seconds: float = 0.0
    hits: int = field(default=0, init=False)
    fits: int = field(default=0, init=False)

    def takes(self, method: str, path: str) -> bool:
        """Return whether it is this fault's turn; counts."""
        if self.method not in ("", method) or self.path not in path:
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.fits += 1
        if self.fits % self.every:
            return False
        self.hits += 1
        return True


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came, with the status that its client got; 0 where it got none."""

    method: str
    path: str
    status: int


class S3Proxy:
    """The proxy, which serves from its start on.

    Parameters
    ----------
    upstream
        The URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[Seen] = []
        self._hidden: set[str] | None = None
        self._released = threading.Event()
        self.keeps_conditions = True
        """Whether the server hears of `If-None-Match`, which not all that speak the protocol know."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def plan(self, *faults: Fault) -> None:
        """Plan these faults, of which the first that matches a request happens; earlier plans are dropped."""
        with self._lock:
            self._faults = list(faults)

    def seen(self, method: str = "", path: str = "") -> list[Seen]:
        """Return the requests of a method to paths that hold a text, so far."""
        with self._lock:
            return [each for each in self._seen if method in ("", each.method) and path in each.path]

    def forget(self) -> None:
        """Reset the counter."""
        with self._lock:
            self._seen.clear()

    def lag_listings(self) -> None:
        """Hide from listings what is written from now on; it can be read all the same."""
        with self._lock:
            self._hidden = set()

    def catch_up(self) -> None:
        """Show it."""
        with self._lock:
            self._hidden = None

    def reset(self) -> None:
        """Reset to the initial state: no faults, nothing counted, hidden or hanging."""
        with self._lock:
            self._faults, self._seen, self._hidden = [], [], None
            hanging, self._released = self._released, threading.Event()
        hanging.set()
        self.keeps_conditions = True

    def close(self) -> None:
        """Stop it."""
        self.reset()
        self._server.shutdown()
        self._server.server_close()

    # -- what the handlers ask -----------------------------------------------------------------------------

    def fault(self, method: str, path: str) -> Fault | None:
        """Return what happens to a request."""
        with self._lock:
            return next((each for each in self._faults if each.takes(method, path)), None)

    def saw(self, method: str, path: str, status: int) -> None:
        """Note a request."""
        with self._lock:
            self._seen.append(Seen(method, path, status))

    def wrote(self, path: str) -> None:
        """Note what was written."""
        with self._lock:
            if self._hidden is not None:
                self._hidden.add(unquote(path.partition("?")[0]).strip("/").partition("/")[2])

    def wait(self, seconds: float | None = None) -> None:
        """Hang, for so long or until the proxy is closed or reset."""
        self._released.wait(seconds)

    def listing(self, body: bytes) -> bytes:
        """Return a listing without what is hidden."""
        with self._lock:
            hidden = None if self._hidden is None else set(self._hidden)
        if not hidden:
            return body

        def shown(entry: re.Match[bytes]) -> bytes:
            key = _KEY.search(entry[0])
            return b"" if key and unquote(key[1].decode()) in hidden else entry[0]

        return _ENTRY.sub(shown, body)

    def forward(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> _Answer:
        """Forward a request to the server."""
        connection = HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer: HTTPResponse = connection.getresponse()
            found = [each for each in answer.getheaders() if each[0].lower() not in _HOP_BY_HOP]
            length = answer.getheader("Content-Length") or "0"
            data = answer.read()
            return _Answer(answer.status, found, data, length if method == "HEAD" else str(len(data)))
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: str


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what it is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: S3Proxy

    def _serve(self) -> None:
        method, path = self.command, self.path
        fault = self.owner.fault(method, path)
        if fault is not None and fault.delay_seconds:
            self.owner.wait(fault.delay_seconds)
            fault = None
        length = self._length()
        if fault is not None and fault.when == "halfway" and length:
            self.rfile.read(length // 2)
            self._break(method, path)
            return
        body = self._body(length)
        if fault is not None and fault.when == "before":
            self._fail(fault, method, path)
            return
        left_out = _HOP_BY_HOP if self.owner.keeps_conditions else (*_HOP_BY_HOP, "if-none-match")
        headers = [each for each in self.headers.items() if each[0].lower() not in left_out]
        answer = self.owner.forward(method, path, headers, body)
        if method in ("PUT", "POST") and answer.status < 300:
            self.owner.wrote(path)
        if fault is not None and fault.when == "after":
            self._fail(fault, method, path)
            return
        data = self.owner.listing(answer.body) if "list-type=2" in path else answer.body
        self._answer(answer, data, halves=fault is not None, method=method, path=path)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _answer(self, answer: _Answer, data: bytes, *, halves: bool, method: str, path: str) -> None:
        self.owner.saw(method, path, 0 if halves else answer.status)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", answer.length if method == "HEAD" else str(len(data)))
        self.end_headers()
        if halves:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._cut()
        elif method != "HEAD":
            self.wfile.write(data)

    def _fail(self, fault: Fault, method: str, path: str) -> None:
        if fault.hangs:
            self.owner.saw(method, path, 0)
            self.owner.wait()
            self._cut()
        elif fault.status is None:
            self._break(method, path)
        else:
            self.owner.saw(method, path, fault.status)
            body = _ERROR.format(code=fault.code, message=fault.message).encode()
            self.send_response(fault.status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if method != "HEAD":
                self.wfile.write(body)

    def _break(self, method: str, path: str) -> None:
        self.owner.saw(method, path, 0)
        self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            # Closed with a reset, like a connection that broke.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self, length: int) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
