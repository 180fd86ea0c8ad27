"""The server's port and thread: bound before anything is served, so that a port in use is an error at once."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from graphflow.common.service import Service
from graphflow.errors import SettingsError
from graphflow.operations.home import Home
from graphflow.orchestration.stores.tokens import new_text
from graphflow.server.access import Access, rules_of
from graphflow.server.application import make_application

__all__ = ["PORT", "ApiServer", "ServerOptions"]

PORT = 8790
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a server listens, and who reaches it."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0 takes a free one."""
    proxy: str = ""
    """The address of a proxy before it, such as `https://flows.example.org`."""
    prefix: str = ""
    """What the proxy's addresses begin with, such as `/graphflow`."""
    is_read_only: bool = False


class ApiServer:
    """The API of a home, served from `start` to `stop`.

    Raises
    ------
    SettingsError
        If the port is in use or not allowed, an option is wrong, or it would be reached from elsewhere without a token.
    """

    def __init__(self, home: Home, options: ServerOptions) -> None:
        _check(home, options)
        self.options = options
        self._socket = _bound(options)
        self.port: int = self._socket.getsockname()[1]
        self._token = new_text()
        rules = rules_of(
            options.host,
            self.port,
            proxy=options.proxy,
            prefix=options.prefix,
            is_read_only=options.is_read_only,
        )
        self.access = Access(home.stores.tokens, rules, link_token=self._token)
        self._app = make_application(home, self.access)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=32 << 10,
        )
        self._server = uvicorn.Server(config)
        self._service = Service(self._serve, name="graphflow-server", interval=0.0)

    @property
    def url(self) -> str:
        """Its address on this machine."""
        host = self.options.host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}"

    @property
    def link(self) -> str:
        """The address that signs a browser in: its token is in the fragment, which no browser sends."""
        return f"{self.options.proxy.rstrip('/') or self.url}{self.options.prefix}/#token={self._token}"

    @property
    def token(self) -> str:
        """The token of the link, an admin's; it ends with this process."""
        return self._token

    def lines(self) -> list[str]:
        """Return what a person is told at the start."""
        kind = ", read-only" if self.options.is_read_only else ""
        return [f"API{kind}: {self.url}/api/v1", f"  {self.link}"]

    def start(self) -> None:
        """Serve in the background."""
        self._service.start()

    def stop(self) -> None:
        """End: streams first, then what is being answered."""
        self._server.should_exit = True
        self._app.state.feed.end()
        self._service.stop(STOP_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def _check(home: Home, options: ServerOptions) -> None:
    if options.prefix and (not options.prefix.startswith("/") or options.prefix.endswith("/")):
        raise SettingsError(f"--prefix {options.prefix!r} is not a path; use one such as /graphflow")
    public = urlsplit(options.proxy)
    if options.proxy and (
        public.scheme not in ("http", "https") or not public.netloc or public.path not in ("", "/")
    ):
        raise SettingsError(
            f"--proxy {options.proxy!r} is not the address of a proxy; use one such as https://flows.example.org, and --prefix for"
            " a path"
        )
    if not _is_loopback(options.host) and not home.stores.tokens.all():
        raise SettingsError(
            f"--host {options.host} is reached from other machines, and no token is there; make one first: graphflow token create"
            " NAME --role operator"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(options: ServerOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # Only of a socket that says so does asyncio know that it is TCP, and sends small answers without delay.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((options.host, options.port))
        made.listen(2_048)
    except (OSError, OverflowError) as error:
        made.close()
        place = f"{options.host}:{options.port}"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"the port {place} is in use, perhaps by another `graphflow serve`; use --port 0 for a free one, or another number"
            ) from None
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            f"the server cannot listen on {place}: {reason}; use another --host or --port"
        ) from None
    return made
