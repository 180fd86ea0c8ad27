"""Secrets: values that are used and never written, and texts in which they are masked.

A secret is an object of `Secret`, or of pydantic's `SecretStr`, `SecretBytes` or `Secret`. Each process knows the secrets that
were made or restored in it; `mask` and `scrub` take their texts out of everything that a run records or shows.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

from graphflow.common.exceptions import members_of
from graphflow.errors import ParameterError, SettingsError

__all__ = [
    "MASK",
    "Secret",
    "are_known",
    "inner_of",
    "is_secret",
    "is_secret_type",
    "known",
    "mask",
    "masked",
    "name_of",
    "named_secret",
    "reference_of",
    "refuse_to_write",
    "scrub",
]

T = TypeVar("T")
MASK = "***"
MIN_CHARACTERS = 4
"""Shorter texts are not masked: they would be found in too many others."""
MAX_KNOWN = 10_000
"""The texts that are masked at most: the newest of a process."""
SECRETS_FILE = "secrets.toml"
_PYDANTIC = ("pydantic.types", "_SecretBase")
_lock = threading.RLock()  # a secret may be collected at any moment, also within
_texts: dict[str, str | None] = {}
"""The texts of known secrets, and the name that each was looked up by."""
_holders: dict[str, int] = {}
"""How many secrets that are alive have each text."""
_pattern: re.Pattern[str] | None = None


class Secret(Generic[T]):
    """A value that graphflow never writes: not into histories, results, logs or messages, where `***` stands for it.

    Annotate a parameter of a flow with it (`token: Secret[str]`), and give the value, a `Secret`, or `{"$secret": NAME}`, which is
    looked up in the environment, then in `secrets.toml` of the home. Use `get_secret_value()` where the value is needed.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: T | Secret[T]) -> None:
        inner: Any = value.get_secret_value() if isinstance(value, Secret) else value
        self._value: T = inner
        known(self)

    def get_secret_value(self) -> T:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, _: Any) -> Secret[T]:
        return self

    def __reduce__(self) -> Any:
        raise refuse_to_write(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        arguments = getattr(source, "__args__", ())
        inner = handler.generate_schema(arguments[0]) if arguments else core_schema.any_schema()
        return core_schema.no_info_wrap_validator_function(
            lambda value, check: cls(check(value.get_secret_value() if isinstance(value, Secret) else value)),
            inner,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda _: MASK),
        )


def is_secret(value: Any) -> bool:
    """Return whether a value is a secret."""
    return isinstance(value, Secret) or is_secret_type(type(value))


def is_secret_type(kind: Any) -> bool:
    """Return whether a type is one of secrets; pydantic is not loaded to tell."""
    origin = getattr(kind, "__origin__", kind)
    return isinstance(origin, type) and any(
        each is Secret or (each.__module__, each.__qualname__) == _PYDANTIC for each in origin.__mro__
    )


def inner_of(value: Any) -> Any:
    """Return what a secret holds."""
    return value.get_secret_value()


def refuse_to_write(value: Any) -> pickle.PicklingError:
    """Return the error of a place where a secret would have been written."""
    return pickle.PicklingError(
        f"a {type(value).__name__} is never written; pass the secret itself to the tasks that need it, and return something else"
    )


# -- texts -------------------------------------------------------------------------------------------------


def known(value: Any, name: str | None = None) -> Any:
    """Mask the texts of a secret in this process, as long as it is alive; return the secret."""
    global _pattern
    texts = {text for text in _leaves(inner_of(value)) if len(text) >= MIN_CHARACTERS}
    if not texts:
        return value
    with _lock:
        if texts - _texts.keys():
            _pattern = None
        for text in texts:
            _texts[text] = name or _texts.get(text)
            _holders[text] = _holders.get(text, 0) + 1
        while len(_texts) > MAX_KNOWN:
            del _texts[next(iter(_texts))]
    # A text that no secret has any more is an ordinary word.
    weakref.finalize(value, _forget, texts).atexit = False
    return value


def _forget(texts: set[str]) -> None:
    global _pattern
    with _lock:
        for text in texts:
            left = _holders.get(text, 0) - 1
            if left > 0:
                _holders[text] = left
                continue
            _holders.pop(text, None)
            if _texts.pop(text, text) is not text:
                _pattern = None


def are_known() -> bool:
    """Return whether this process knows any secret."""
    return bool(_texts)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
        yield repr(value)[2:-1]
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _leaves(each)
    elif is_secret(value):
        yield from _leaves(inner_of(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _forms(text: str) -> Iterator[str]:
    """Yield the ways in which a text is shown."""

    from urllib.parse import quote, quote_plus  # only where there are secrets

    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    with suppress(UnicodeEncodeError):
        yield quote(text, safe="")
        yield quote_plus(text)


def _finder() -> re.Pattern[str]:
    global _pattern
    with _lock:
        if _pattern is None:
            forms = {form for text in list(_texts) for form in _forms(text)} or {"\0" * MIN_CHARACTERS}
            # The longest first: one secret may begin like another.
            _pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))
        return _pattern


def mask(text: str) -> str:
    """Return a text with `***` in place of each known secret of at least 4 characters."""
    if not _texts:
        return text
    return (_pattern or _finder()).sub(MASK, text)


def masked(value: Any) -> Any:
    """Return plain data with its texts masked, the same object where there is nothing to mask."""
    if isinstance(value, str):
        found = mask(value)
        return value if found == value else found
    if type(value) in (list, tuple, set, frozenset):
        parts = [masked(each) for each in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) is dict:
        pairs = {masked(key): masked(each) for key, each in value.items()}
        return value if all(each is value.get(key) for key, each in pairs.items()) else pairs
    if isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
        found = mask(text)
        return value if found == text else found.encode("utf-8", "surrogateescape")
    return value


def scrub(error: BaseException) -> None:
    """Mask known secrets in an exception: in its arguments, attributes and notes, and in those of its causes."""
    if not _texts:
        return
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        with suppress(Exception):
            args = masked(each.args)
            if args is not each.args:
                each.args = args
        with suppress(Exception):
            for name, value in members_of(each).items():
                found = masked(value)
                if found is not value:
                    setattr(each, name, found)
        with suppress(Exception):
            for name, value in list(vars(each).items()):
                found = masked(value)
                if found is not value:
                    setattr(each, name, found)


# -- secrets by name ---------------------------------------------------------------------------------------


def reference_of(value: Any) -> str | None:
    """Return the name in `{"$secret": NAME}`; None for anything else."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(value.get("$secret"), str):
        return str(value["$secret"])
    return None


def name_of(value: Any) -> str | None:
    """Return the name that a secret was looked up by, if it was."""
    return next((name for text in _leaves(inner_of(value)) if (name := _texts.get(text))), None)


def named_secret(name: str) -> Secret[str]:
    """Return the secret of a name: an environment variable, else an entry of `secrets.toml` in the home.

    Raises
    ------
    ParameterError
        If there is none.
    SettingsError
        If that file can be read by others, or is not TOML.
    """
    text = os.environ.get(name)
    if text is None:
        text = _from_file(name)
    if text is None:
        raise ParameterError(
            f"there is no secret {name!r}: neither an environment variable of this name, nor an entry in {_file()}"
        )
    return known(Secret(text), name)  # type: ignore[no-any-return]


def _file() -> Any:
    from graphflow.common import settings

    return settings.home() / SECRETS_FILE


def _from_file(name: str) -> str | None:
    import tomllib  # only where there is such a file

    place = _file()
    try:
        with open(place, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SettingsError(f"{place} can be used by others; make it private: chmod 600 {place}")
            found = tomllib.load(file).get(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{place} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # What is wrong with it may be shown with a secret beside it.
        raise SettingsError(f'{place} is not TOML; use lines of the form NAME = "text"') from None
    if found is not None and not isinstance(found, str):
        raise SettingsError(f"{name} in {place} is not a text; put it in quotes")
    return found
