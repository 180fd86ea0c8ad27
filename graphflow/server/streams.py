"""Events as they happen, by server-sent events: one reader of the catalog for all who listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from graphflow.model.happening import Happening
from graphflow.operations.events import event_view
from graphflow.operations.home import Home
from graphflow.server.access import Access
from graphflow.server.problems import Refused

__all__ = ["Feed", "stream_routes"]

POLL_SECONDS = 0.2
BEAT_SECONDS = 15.0
"""How often a stream says that it is there, so that proxies keep it open."""
MOST_BEHIND = 10_000
MOST_LISTENERS = 500
_PAGE = 1_000


class Feed:
    """New events for those who listen; the catalog is looked at while there are any."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._queues: set[asyncio.Queue[Happening | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    def listen(self) -> asyncio.Queue[Happening | None]:
        """Return a queue of what is new from now on; None in it is the end."""
        if len(self._queues) >= MOST_LISTENERS:
            raise Refused(
                503, f"{MOST_LISTENERS} streams are open; try again later", headers={"Retry-After": "10"}
            )
        queue: asyncio.Queue[Happening | None] = asyncio.Queue(MOST_BEHIND)
        self._queues.add(queue)
        if self._is_over:
            queue.put_nowait(None)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read())
        return queue

    def leave(self, queue: asyncio.Queue[Happening | None]) -> None:
        """Listen no more."""
        self._queues.discard(queue)

    def end(self) -> None:
        """End all streams."""
        self._is_over = True
        for queue in list(self._queues):
            self._give(queue, None)

    async def _read(self) -> None:
        events = self._home.stores.events
        last = await run_in_threadpool(events.last, limit=1)
        # Who listens reads up to its own beginning by itself.
        seq = last[0].seq if last else 0
        while self._queues and not self._is_over:
            # The catalog's version would not tell of what this process writes through the same connection.
            found = await run_in_threadpool(events.after, seq, limit=_PAGE)
            for each in found:
                seq = each.seq
                for queue in list(self._queues):
                    self._give(queue, each)
            if len(found) < _PAGE:
                await asyncio.sleep(POLL_SECONDS)

    def _give(self, queue: asyncio.Queue[Happening | None], event: Happening | None) -> None:
        if queue.full():
            # Too slow: its stream ends, and it asks again from where it was.
            self._queues.discard(queue)
            queue.get_nowait()
            event = None
        queue.put_nowait(event)


def stream_routes(app: FastAPI, home: Home, access: Access, feed: Feed) -> None:
    """Add the route of the stream."""

    @app.get(
        "/api/v1/events/stream",
        tags=["events"],
        dependencies=[Depends(access.require("viewer"))],
        response_class=StreamingResponse,
        operation_id="events.stream",
        summary="events.stream",
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def stream(
        type: Annotated[str, Query()] = "*",
        subject: Annotated[str, Query()] = "",
        after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Follow events: those after `Last-Event-ID`, or `after`, or from now on; each has its number as its id."""
        given = last_event_id or ""
        if given and not (given.isascii() and given.isdigit() and len(given) < 16):
            raise Refused(422, f"Last-Event-ID is the number of an event, not {given!r}")
        begin = int(given) if given else after
        queue = feed.listen()
        if begin is None:
            last = await run_in_threadpool(home.stores.events.last, limit=1)
            begin = last[0].seq if last else 0
        texts = _texts(home, feed, queue, begin, type, subject)
        return StreamingResponse(texts, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _texts(
    home: Home, feed: Feed, queue: asyncio.Queue[Happening | None], begin: int, type: str, subject: str
) -> AsyncIterator[str]:
    try:
        yield ": graphflow\n\n"
        seq = begin
        while True:
            page = await run_in_threadpool(home.stores.events.after, seq, limit=_PAGE)
            for each in page:
                seq = each.seq
                if _fits(each, type, subject):
                    yield _text(each)
            if len(page) < _PAGE:
                break
        while True:
            try:
                event = await asyncio.wait_for(queue.get(), BEAT_SECONDS)
            except TimeoutError:
                yield ": beat\n\n"
                continue
            if event is None:
                return
            if event.seq > seq:
                seq = event.seq
                if _fits(event, type, subject):
                    yield _text(event)
    finally:
        feed.leave(queue)


def _fits(event: Happening, type: str, subject: str) -> bool:
    return fnmatchcase(event.type, type.replace("[", "[[]").replace("?", "[?]")) and subject in (
        "",
        event.subject,
    )


def _text(event: Happening) -> str:
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event_view(event).model_dump_json()}\n\n"
