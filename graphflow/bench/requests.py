"""A small HTTP server that answers late, and a client for it: the requests of W8, by the stdlib alone."""

from __future__ import annotations

import asyncio
import sys
from weakref import WeakKeyDictionary

__all__ = ["request", "serve"]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_IDLE: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Connection]] = WeakKeyDictionary()


async def request(value: int, port: int, milliseconds: int) -> int:
    """Request `value` from the server on loopback; connections are kept open and reused."""
    idle = _IDLE.setdefault(asyncio.get_running_loop(), [])
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{milliseconds}/{value} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length:")[2].split(b"\r\n", 1)[0])
    body = await reader.readexactly(length)
    idle.append((reader, writer))
    return int(body)


class _Answering(asyncio.Protocol):
    """One connection: answers `GET /MILLISECONDS/VALUE` with the value, so many milliseconds later."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            _, milliseconds, value = head.split(b" ", 2)[1].split(b"/")
            asyncio.get_running_loop().call_later(int(milliseconds) / 1000, self._answer, value)

    def _answer(self, value: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(value), value))


async def serve() -> None:
    """Serve on loopback, print the port on stdout, and exit when stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answering, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
