"""Tokens of the API: stored as SHA-256 digests, so that whoever reads the catalog cannot use them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from graphflow.common import ids
from graphflow.errors import AlreadyExists, NotFound, ParameterError
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.access import ROLES, Role
from graphflow.ports import Clock

__all__ = ["StoredToken", "Tokens", "digest_of", "new_text"]

PREFIX = "gf_"
"""What tokens begin with, so that scanners for leaked secrets can know them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token without its text; times are seconds since the epoch."""

    name: str
    digest: str
    role: Role
    created: float
    expires: float | None = None


def new_text() -> str:
    """Return the text of a new token: 32 random bytes."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(text: str) -> str:
    """Return what is stored of a token. It is random, so it needs no salt and no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


class Tokens:
    """The tokens of a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def create(
        self, name: str, role: str, *, expires_seconds: float | None = None
    ) -> tuple[StoredToken, str]:
        """Store a new token; return it, and its text, which cannot be shown again.

        Raises
        ------
        ParameterError
            If the name is empty or not printable, or there is no such role.
        AlreadyExists
            If the name is taken.
        """
        if not name or name != name.strip() or not name.isprintable() or "/" in name:
            raise ParameterError(f"{name!r} cannot be the name of a token: no '/', and no space at its ends")
        found = next((each for each in ROLES if each == role), None)
        if found is None:
            raise ParameterError(f"unknown role {role!r}; use {', '.join(ROLES)}")
        text, now = new_text(), self._clock.wall()
        token = StoredToken(
            name=name,
            digest=digest_of(text),
            role=found,
            created=now,
            expires=None if expires_seconds is None else now + expires_seconds,
        )
        with self._catalog.transaction():
            row = (ids.run_id(now=now), name, token.digest, found, now, token.expires)
            if not self._catalog.execute(statements.ADD_TOKEN, row):
                raise AlreadyExists(
                    f"there is a token {name!r} already; remove it first: graphflow token rm {name}"
                )
            self._catalog.audit("token-created", name, at=self._clock.wall(), data={"role": role})
        return token, text

    def all(self) -> list[StoredToken]:
        """Return all tokens, by name; expired ones too."""
        return [_token(*row) for row in self._catalog.rows(statements.TOKENS)]

    def remove(self, name: str) -> None:
        """Remove a token: it is refused from now on.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._catalog.transaction():
            if not self._catalog.execute(statements.DELETE_TOKEN, (name,)):
                raise NotFound(f"there is no token {name!r}; `graphflow token ls` lists them")
            self._catalog.audit("token-removed", name, at=self._clock.wall())

    def by_digest(self, digest: str) -> StoredToken | None:
        """Return the token of a digest, unless it has expired."""
        rows = self._catalog.rows(statements.TOKEN_OF_DIGEST, (digest,))
        found = _token(*rows[0]) if rows else None
        if found is not None and found.expires is not None and found.expires <= self._clock.wall():
            return None
        return found


def _token(name: str, digest: str, role: Role, created: float, expires: float | None) -> StoredToken:
    return StoredToken(name=name, digest=digest, role=role, created=created, expires=expires)
