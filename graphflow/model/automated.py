"""Automations and hooks: what is watched for and what is done then, as written in files, stored and shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from graphflow.common.durations import duration_seconds
from graphflow.errors import DeploymentError
from graphflow.model.deployed import Model
from graphflow.model.texts import check_text, is_path

__all__ = [
    "ACTIONS",
    "MOST_COUNT",
    "OUTSIDE",
    "Absence",
    "Action",
    "Automation",
    "Hook",
    "HookKind",
    "Pattern",
    "automation_of",
    "hook_of",
]

MOST_COUNT = 1_000
"""So many events at most are counted in a window."""
ACTIONS: Mapping[str, tuple[str, ...]] = {
    "run": ("parameters", "tags"),
    "cancel_run": ("force",),
    "pause_run": (),
    "resume_run": (),
    "retry_run": (),
    "pause_deployment": (),
    "resume_deployment": (),
    "pause_pool": (),
    "set_limit": ("size",),
    "notify": ("title", "text"),
    "webhook": ("secret", "data"),
    "emit": ("subject", "data"),
}
"""What an automation can do, and the options of each."""
OUTSIDE = ("notify", "webhook")
"""What leaves graphflow: it is sent at least once, with one key."""
TEXT_ROOTS = ("event", "run", "automation")
"""What texts of an automation are made of."""
HOOK_ROOTS = ("body", "header")
_SECTIONS = ("type", "subject", "source", "related", "data")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "run": (
        "scheduled",
        "late",
        "pending",
        "running",
        "completed",
        "failed",
        "crashed",
        "cancelling",
        "cancelled",
        "paused",
        "awaitingretry",
        "retrying",
        "resuming",
        "lost",
        "yielded",
    ),
    "node": ("running", "completed", "failed"),
    "schedule": ("fired", "skipped", "missed"),
    "worker": ("ready", "draining", "gone"),
    "action": ("failed",),
    "hook": ("received",),
    "limit": ("changed",),
}
HookKind = Literal["github", "stripe", "standard-webhooks", "plain"]


def _texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _named(text: str) -> str:
    if not re.fullmatch(r"[\w][\w.-]*", text):
        raise ValueError(f"{text!r} cannot be a name; use letters, digits, '-', '_' and '.'")
    return text


_Name = Annotated[str, AfterValidator(_named)]


class Pattern(Model):
    """Which events are meant: their types, and values that they have at some paths."""

    type: tuple[str, ...] = Field(min_length=1)
    """Types; `*` stands for any letters."""
    where: Mapping[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values by path, such as `related.deployment`; one of several is enough."""

    @field_validator("type")
    @classmethod
    def _types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for each in types:
            if not re.fullmatch(r"[\w*-]+(\.[\w*-]+)*", each):
                raise ValueError(f"{each!r} is not the type of an event; use words with dots, `*` for any")
            words = each.split(".")
            known = _WORDS.get(words[1], ()) if words[0] == "graphflow" and len(words) == 3 else ()
            if known and "*" not in words[2] and words[2] not in known:
                close = difflib.get_close_matches(words[2], known, n=1)
                hint = f"did you mean graphflow.{words[1]}.{close[0]}" if close else f"use {', '.join(known)}"
                raise ValueError(f"there are no events of the type {each}; {hint}")
        return types


class Absence(Model):
    """What is missing when it does not happen for so long."""

    pattern: Pattern
    within_seconds: float = Field(gt=0)


class Action(Model):
    """One thing to do; `target` is what it is done to, as a text over the event."""

    kind: str
    target: str = Field(min_length=1)
    options: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        options = ACTIONS.get(self.kind)
        if options is None:
            close = difflib.get_close_matches(self.kind, ACTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(ACTIONS)}"
            raise ValueError(f"there is no action {self.kind!r}; {hint}")
        for name in self.options:
            if name not in options:
                raise ValueError(
                    f"the action {self.kind} has no option {name!r}; it takes {', '.join(options) or 'none'}"
                )
        for text in (self.target, self.options):
            check_text(text, TEXT_ROOTS)
        check = getattr(self, f"_check_{self.kind}", None)
        if check is not None:
            check()
        return self

    def _check_set_limit(self) -> None:
        size = self.options.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError('set_limit needs a size of 0 or more: { set_limit = "db", size = 5 }')

    def _check_run(self) -> None:
        if not isinstance(self.options.get("parameters", {}), Mapping):
            raise ValueError('parameters are a table: parameters = { day = "{event.data.day}" }')

    def _check_notify(self) -> None:
        if not re.fullmatch(r"[A-Za-z][\w-]*", self.target):
            raise ValueError(
                f"{self.target!r} is not the name of a notification; addresses stand under names in [notifications] of the"
                " settings, or in GRAPHFLOW_NOTIFICATIONS__NAME, as they often have secrets in them"
            )

    def _check_webhook(self) -> None:
        if re.fullmatch(r"\$[A-Za-z_]\w*", self.target):
            return
        try:
            parts = urlsplit(self.target)
            is_right = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_right = False
        if not is_right or "{" in self.target:
            raise ValueError(
                "a webhook goes to an address such as https://host/path, or to $NAME, a secret's name where the address has secrets in it"
            )
        if parts.username or parts.password:
            raise ValueError(
                'the address of a webhook has a password in it; put it into a secret: webhook = "$NAME"'
            )

    def _check_emit(self) -> None:
        words = self.target.split(".")
        if words[0] == "graphflow" or not all(word.replace("-", "_").isidentifier() for word in words):
            raise ValueError(
                f"{self.target!r} cannot be emitted; use words of your own with dots, such as shop.order.paid"
            )


class Automation(Model):
    """A rule: what is watched for, and what is done then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    when: Pattern | None = None
    count: int = Field(default=1, ge=1, le=MOST_COUNT)
    within_seconds: float | None = Field(default=None, gt=0)
    """Of `when`: so many events in so long; and fired once in so long at most."""
    for_each: tuple[str, ...] = ()
    """Paths whose values are watched apart from each other."""
    after: Pattern | None = None
    """What arms `absent`; without it, it is always armed."""
    absent: Absence | None = None
    then: tuple[Action, ...] = Field(min_length=1)
    description: str = ""
    is_paused: bool = False

    @field_validator("for_each")
    @classmethod
    def _paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for each in paths:
            if not is_path(each) or each.split(".")[0] not in _SECTIONS:
                raise ValueError(
                    f"{each!r} is not a path of an event; use subject, related.flow or data.NAME"
                )
        return paths

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.when is None) == (self.absent is None):
            raise ValueError("it needs either `when` or `absent`")
        if self.after is not None and self.absent is None:
            raise ValueError("`after` arms `absent`, which is missing; for what happens, use `when`")
        if self.count > 1 and self.within_seconds is None:
            raise ValueError(f'count = {self.count} needs a time: within = "10m"')
        return self


class Hook(Model):
    """An address that takes webhooks: how they are signed, and what one starts."""

    name: _Name
    kind: HookKind
    secret: tuple[str, ...] = Field(min_length=1)
    """Names of secrets, in the environment or `secrets.toml`; several while one replaces another."""
    deployment: str = ""
    """What is run; without it there is an event alone."""
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    """Of that run: texts over the body, such as `{body.head_commit.id}`."""
    where: Mapping[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values that a delivery must have to start a run, by path."""
    header: str = "X-Signature-256"
    """Of the kind `plain`: which header has the signature."""
    is_paused: bool = False

    @field_validator("secret")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for number, each in enumerate(names, start=1):
            if not re.fullmatch(r"[A-Za-z_]\w*", each):
                # What was given may be the secret itself.
                raise ValueError(
                    f"secret number {number} is not a name; give the name of an environment variable, or of an entry in secrets.toml"
                )
        return names

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check_text(self.parameters, HOOK_ROOTS)
        if self.parameters and not self.deployment:
            raise ValueError('parameters are of a run; name its deployment: deployment = "flow/name"')
        for path in self.where:
            if path.split(".")[0] not in HOOK_ROOTS or not is_path(path):
                raise ValueError(f"{path!r} is not a path of a delivery; use body.NAME or header.NAME")
        return self


# -- as files have them --------------------------------------------------------------------------------------


def automation_of(name: str, said: Mapping[str, Any]) -> Automation:
    """Return the automation of a table `[automations.NAME]`.

    Raises
    ------
    DeploymentError
        If it says something unknown or wrong.
    """
    given = dict(said)
    try:
        found: dict[str, Any] = {"name": name}
        for key in ("when", "after", "absent"):
            if key in given:
                found |= _watched(key, given.pop(key))
        found["then"] = tuple(map(_action, _listed(given.pop("then", ()))))
        found["description"] = given.pop("description", "")
        found["is_paused"] = given.pop("paused", False)
        _refuse_rest(given, ("when", "after", "absent", "then", "description", "paused"))
        return Automation(**found)
    except (ValueError, TypeError) as error:
        raise DeploymentError(f"[automations.{name}]: {_said(error)}") from None


def _watched(key: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, Mapping):
        raise ValueError(f'{key} is a table: {key} = {{ type = "graphflow.run.failed" }}')
    said = dict(said)
    found: dict[str, Any] = {}
    if "for_each" in said:
        found["for_each"] = _texts(said.pop("for_each"))
    within = said.pop("within", None)
    seconds = None if within is None else duration_seconds(str(within))
    if key == "when":
        found["count"] = said.pop("count", 1)
        found["within_seconds"] = seconds
    elif key == "after" and seconds is not None:
        raise ValueError("within is of absent, not of after")
    where: dict[str, tuple[Any, ...]] = {}
    types = _texts(said.pop("type", ()))
    for section in list(said):
        if section in ("subject", "source", "related", "data"):
            where |= flattened(section, said.pop(section))
    known = (
        *_SECTIONS,
        "for_each",
        *(() if key == "after" else ("within",)),
        *(("count",) if key == "when" else ()),
    )
    _refuse_rest(said, known)
    if not types:
        raise ValueError(f'{key} needs the type of an event: type = "graphflow.run.failed"')
    pattern = Pattern(type=types, where=where)
    if key == "absent":
        if seconds is None:
            raise ValueError('absent needs a time: within = "26h"')
        found["absent"] = Absence(pattern=pattern, within_seconds=seconds)
    else:
        found[key] = pattern
    return found


def flattened(path: str, said: Any) -> dict[str, tuple[Any, ...]]:
    """Return values by path, from tables in tables; a list is several values."""
    if isinstance(said, Mapping):
        found: dict[str, tuple[Any, ...]] = {}
        for name, value in said.items():
            found |= flattened(f"{path}.{name}", value)
        return found
    return {path: tuple(said) if isinstance(said, list | tuple) else (said,)}


def _action(said: Any) -> Action:
    if not isinstance(said, Mapping):
        raise ValueError(f'then is a list of tables: then = [{{ notify = "oncall" }}], not {said!r}')
    kinds = [each for each in said if each in ACTIONS]
    if len(kinds) != 1:
        close = [found for each in said for found in difflib.get_close_matches(each, ACTIONS, n=1)]
        hint = f"; did you mean {close[0]}?" if close and not kinds else f"; there are {', '.join(ACTIONS)}"
        raise ValueError(
            f"an action has one thing to do, and {', '.join(said) or 'this'} has {len(kinds)}{hint}"
        )
    (kind,) = kinds
    if not isinstance(said[kind], str):
        raise ValueError(f"{kind} is done to something with a name, a text, not {said[kind]!r}")
    return Action(kind=kind, target=said[kind], options={k: v for k, v in said.items() if k != kind})


def hook_of(name: str, said: Mapping[str, Any]) -> Hook:
    """Return the hook of a table `[hooks.NAME]`.

    Raises
    ------
    DeploymentError
        If it says something unknown or wrong.
    """
    given = dict(said)
    try:
        where = given.pop("where", {})
        flat: dict[str, tuple[Any, ...]] = {}
        for root, value in where.items():
            flat |= flattened(root, value)
        found = {
            "name": name,
            "where": flat,
            "secret": _texts(given.pop("secret", ())),
            "is_paused": given.pop("paused", False),
        }
        fields = ("kind", "deployment", "parameters", "header")
        found |= {each: given.pop(each) for each in fields if each in given}
        _refuse_rest(given, ("kind", "secret", "where", "paused", *fields[1:]))
        return Hook(**found)
    except (ValueError, TypeError, AttributeError) as error:
        raise DeploymentError(f"[hooks.{name}]: {_said(error)}") from None


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"then is a list of tables, not {value!r}")
    return value


def _refuse_rest(rest: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in rest:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no option {name!r}; {hint}")


def _said(error: BaseException) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    text = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
