"""Roles and tokens: who may do what over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["ROLES", "NewToken", "Role", "Token"]

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""Each may do what those before it may."""


class Token(BaseModel):
    """A token as it is listed: its text is not stored."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Role
    created: str | None = None
    expires: str | None = None


class NewToken(Token):
    """A token at the one time at which its text is shown."""

    token: str
