"""Events of a home, its tokens and its settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graphflow.common.moments import parse_moment
from graphflow.model.access import NewToken, Token
from graphflow.model.asked import AskedEvent, AskedSettings, AskedToken
from graphflow.model.happening import Happening
from graphflow.model.views import EventList, EventView, SettingsView, View
from graphflow.operations.home import Home, iso
from graphflow.orchestration.stores.tokens import StoredToken

__all__ = [
    "Emitted",
    "TokenList",
    "create_token",
    "emit",
    "event_view",
    "list_events",
    "list_tokens",
    "remove_token",
    "set_settings",
    "settings",
]


class Emitted(View):
    """An event that was written."""

    id: str
    type: str


class TokenList(View):
    """Tokens without their texts, by name."""

    tokens: list[Token]


def event_view(event: Happening) -> EventView:
    """Return an event as it is shown."""
    return EventView.model_validate({"seq": event.seq, **event.document()})


def list_events(
    home: Home,
    *,
    type: str = "*",
    subject: str = "",
    since: str | None = None,
    after: Annotated[int, Field(ge=0, le=2**53)] | None = None,
    limit: Annotated[int, Field(ge=1, le=500)] = 50,
) -> EventList:
    """List the last events, oldest first; with `after`, those that follow that number."""
    begin = 0.0 if since is None else parse_moment(since)
    events = home.stores.events
    if after is None:
        found = events.last(type=type, subject=subject, since=begin, limit=limit)
    else:
        found = events.after(after, type=type, subject=subject, since=begin, limit=limit)
    return EventList(events=[event_view(each) for each in found])


def emit(home: Home, *, event: AskedEvent, idempotency_key: str | None = None) -> Emitted:
    """Write an event; with a key, once."""
    given = home.stores.events.emit(event.type, subject=event.subject, data=event.data, id=idempotency_key)
    return Emitted(id=given, type=event.type)


def list_tokens(home: Home) -> TokenList:
    """List tokens, without their texts."""
    return TokenList(tokens=[_token(each) for each in home.stores.tokens.all()])


def create_token(home: Home, *, token: AskedToken) -> NewToken:
    """Make a token; its text is in the answer, and nowhere else."""
    stored, text = home.stores.tokens.create(token.name, token.role, expires_seconds=token.expires_seconds)
    return NewToken(**_token(stored).model_dump(), token=text)


def remove_token(home: Home, *, token: str) -> TokenList:
    """Remove a token: it is refused from now on."""
    home.stores.tokens.remove(token)
    return list_tokens(home)


def settings(home: Home) -> SettingsView:
    """Show the settings of the home."""
    events = home.stores.events
    return SettingsView(is_paused=events.is_all_paused, late_after_seconds=events.late_after_seconds)


def set_settings(home: Home, *, changes: AskedSettings) -> SettingsView:
    """Change settings of the home."""
    if changes.is_paused is not None:
        home.stores.events.pause_all(changes.is_paused)
    if changes.late_after_seconds is not None:
        home.stores.events.set_late_after(changes.late_after_seconds)
    return settings(home)


def _token(stored: StoredToken) -> Token:
    return Token(name=stored.name, role=stored.role, created=iso(stored.created), expires=iso(stored.expires))
