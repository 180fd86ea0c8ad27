"""URLs of result stores and their options: which store is meant, and what of them must never be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from graphflow.common.wording import with_article
from graphflow.errors import ResultStoreError

__all__ = ["Location", "check_options", "frozen", "local_folder", "parse", "scrub", "secrets_of"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_LOCAL = ("file", "local")
_S3 = ("s3", "s3a")
_SHOWN = frozenset(
    [
        "addressing_style",
        "anon",
        "asynchronous",
        "connect_timeout",
        "default_block_size",
        "default_cache_type",
        "endpoint_url",
        "host",
        "location",
        "max_concurrency",
        "max_pool_connections",
        "mode",
        "port",
        "profile",
        "project",
        "protocol",
        "read_timeout",
        "region",
        "region_name",
        "requester_pays",
        "s3",
        "signature_version",
        "total_max_attempts",
        "use_ssl",
        "verify",
        "version_aware",
    ]
)
"""Options whose values may be in messages; all others count as secret."""

_SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OURS = frozenset(("asynchronous", "loop", "skip_instance_cache", "use_listings_cache"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A URL of a store: `url` is what its file system gets, `shown` what messages and histories hold."""

    url: str
    shown: str
    protocol: str

    @property
    def is_s3(self) -> bool:
        """Whether it speaks S3's protocol."""
        return self.protocol in _S3


def local_folder(place: str) -> Path | None:
    """Return the folder that a path or a file URL means; None for all other URLs.

    Raises
    ------
    ResultStoreError
        If a file URL names another host.
    """
    if "::" in place and "://" in place:
        return None
    scheme = _SCHEME.match(place)
    if scheme is None or not place[scheme.end() :].startswith(("://", ":/")):
        return Path(place).expanduser()
    if scheme.group().lower() not in _LOCAL:
        return None
    parts = urlsplit(place)
    if parts.netloc not in ("", "localhost"):
        raise ResultStoreError(
            f"{place} names the host {parts.netloc}; file URLs have three slashes, such as file:///data/results"
        )
    return Path(unquote(parts.path))


def parse(url: str) -> Location:
    """Split a URL into its parts.

    Raises
    ------
    ResultStoreError
        If it has no protocol, leads out of itself, or contains a query, or credentials for S3.
    """
    scheme, separator, rest = url.partition("://")
    protocol = scheme.lower()
    if not separator or not _SCHEME.fullmatch(protocol):
        raise ResultStoreError(
            "a result store is a folder, or a URL with one protocol, like s3://bucket/prefix; chains of file systems "
            "('simplecache::s3://...') are refused, since a cache would hide other processes' writes"
        )
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    hidden = f"{protocol}://{'***@' if at else ''}{host}{slash}{path}"
    if any(sign in path or sign in host for sign in "?#"):
        plain = re.split(r"[?#]", hidden, maxsplit=1)[0]
        raise ResultStoreError(
            f"the result store {plain} has a query or a fragment; pass options in storage_options"
        )
    if protocol in _S3 and at:
        raise ResultStoreError(
            f"the result store {hidden} contains credentials; pass them in storage_options, a profile or "
            "the environment"
        )
    if protocol in _S3 and not host:
        raise ResultStoreError(f"{hidden} has no bucket; use s3://bucket/prefix")
    path = path.strip("/")
    if path and any(part in ("", ".", "..") or not part.isprintable() for part in path.split("/")):
        raise ResultStoreError(
            f"{hidden!r} is not a valid result store: its path has segments that are empty, '.', '..' or not printable"
        )
    tail = f"{host}{f'/{path}' if path else ''}"
    return Location(
        url=f"{protocol}://{user}{at}{tail}",
        shown=f"{protocol}://{'***@' if at else ''}{tail}",
        protocol=protocol,
    )


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of storage options; they travel to workers, so they are plain values.

    Raises
    ------
    ResultStoreError
        If one is anything else (its value is not shown), or is not the user's to set.
    """
    for name, value in options.items():
        if type(name) is not str or not _is_plain(value):
            raise ResultStoreError(
                f"storage_options[{name!r}] is {with_article(type(value).__name__)}; options are sent to workers, so they must be strings, numbers, "
                "booleans, None, and lists and dicts of those"
            )
    for name in _OURS & options.keys():
        raise ResultStoreError(f"storage_options[{name!r}] cannot be set: graphflow sets it itself")
    config = options.get("config_kwargs")
    if isinstance(config, Mapping) and "retries" in config:
        raise ResultStoreError(
            "storage_options['config_kwargs']['retries'] cannot be set: requests are tried again in one place only; set "
            "GRAPHFLOW_STORE_ATTEMPTS and GRAPHFLOW_STORE_RETRY_SECONDS"
        )
    copied: dict[str, Any] = _copied(options)
    return copied


def frozen(value: Any) -> Any:
    """Return options as something that can be compared and hashed."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, frozen(each)) for name, each in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(frozen, value))
    return type(value).__name__, value if not isinstance(value, float) else repr(value)


def secrets_of(location: Location, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return texts that no message may hold, also those of the environment as it is now; the longest first."""
    found = {each for name, value in options.items() for each in _secrets(name, value)}
    found.update(_userinfo(location.url))
    for name, value in os.environ.items():
        if name in _SECRET_VARIABLES:
            found.add(value)
        elif name.startswith("AWS_ENDPOINT_URL"):
            found.update(_userinfo(value))
    return tuple(sorted((each for each in found if len(each) > 2), key=len, reverse=True))


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Return a text without secrets."""
    for each in secrets:
        text = text.replace(each, "***")
    return text


def _secrets(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _secrets(key, each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(name, each)
    elif isinstance(value, bytes):
        yield from _secrets(name, value.decode(errors="replace"))
    elif isinstance(value, str):
        if name not in _SHOWN:
            yield value
        yield from _userinfo(value)


def _userinfo(url: str) -> Iterator[str]:
    """Yield what stands before the @ of a URL, and the values of its query."""
    _, separator, rest = url.partition("://")
    if not separator:
        return
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at:
        yield user
        for part in user.split(":"):
            yield part
            yield unquote(part)
    for pair in rest.partition("?")[2].split("&"):
        yield pair.partition("=")[2]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(type(name) is str and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool, bytes)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list | tuple) else value
