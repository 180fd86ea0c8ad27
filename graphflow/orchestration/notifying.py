"""Notifications: names and their addresses, and sending to them by apprise; and webhooks.

Addresses often have passwords in them, so they stand in the environment, in files of settings or in `secrets.toml`, never in the
database; what goes wrong is told without them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphflow.common import secrets
from graphflow.common.secrets import Secret
from graphflow.common.setting_sources import NOTIFICATIONS, config_files
from graphflow.errors import GraphflowError, ParameterError, SettingsError
from graphflow.orchestration.signatures import signed_headers

__all__ = ["NotSent", "addresses_of", "call_webhook", "check_addresses", "names", "notify"]

WEBHOOK_SECONDS = 10.0
USER_AGENT = "graphflow"


class NotSent(GraphflowError):
    """Something was not sent; `is_final` if another try cannot help."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


# -- names ---------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names that have addresses here."""
    given = [
        each.removeprefix(NOTIFICATIONS).lower() for each in os.environ if each.startswith(NOTIFICATIONS)
    ]
    return sorted({*given, *(name for each in _sections() for name in each)})


def addresses_of(name: str) -> Secret[list[str]]:
    """Return the addresses of a name: from `GRAPHFLOW_NOTIFICATIONS__NAME`, else from `[notifications]` of the nearest file.

    Raises
    ------
    SettingsError
        If there is none, or a secret that it names is missing.
    """
    variable = NOTIFICATIONS + name.upper().replace("-", "_")
    said: Any = os.environ.get(variable)
    if not said:
        said = next((each[name] for each in _sections() if name in each), None)
    if said is None:
        known = ", ".join(names()) or "none"
        raise SettingsError(
            f"there is no notification {name!r} here; there is {known}. Set {variable} to an address of apprise, or write it under"
            " [notifications] in a file of settings"
        )
    texts = [_address(name, each) for each in (said if isinstance(said, list) else [said])]
    # Parts of an address are masked too: what is logged may have one of them alone.
    parts = [part for each in texts for part in re.split(r"[/:@?&=,\s]+", each) if len(part) >= 8]
    held = Secret([*texts, *parts])
    return _Addresses(texts, held)


class _Addresses(Secret[list[str]]):
    """Addresses; their parts are masked as long as they are alive."""

    __slots__ = ("_held",)

    def __init__(self, texts: list[str], held: Secret[list[str]]) -> None:
        super().__init__(texts)
        self._held = held


def _address(name: str, said: Any) -> str:
    reference = secrets.reference_of(said)
    if reference is not None:
        try:
            return str(secrets.named_secret(reference).get_secret_value())
        except ParameterError as error:
            raise SettingsError(f"the notification {name}: {error}") from None
    if not isinstance(said, str) or "://" not in said:
        # It may have a secret in it.
        raise SettingsError(
            f'the notification {name} is not an address of apprise, such as mailto://..., a list of them, or {{ "$secret" = "NAME" }}'
        )
    return said


def check_addresses(said: Mapping[str, Any]) -> None:
    """Check the form of a section `[notifications]`; secrets that it names may be missing here.

    Raises
    ------
    SettingsError
        If a name or an address has not the right form.
    """
    for name, value in said.items():
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise SettingsError(f"[notifications]: {name!r} is not a name; use letters, digits, '-' and '_'")
        for each in value if isinstance(value, list) else [value]:
            if secrets.reference_of(each) is None:
                _address(name, each)


def _sections() -> Iterator[dict[str, Any]]:
    for path, _ in config_files():
        try:
            found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise SettingsError(f"{path} is not TOML") from None
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        if path.endswith("pyproject.toml"):
            found = found.get("tool", {}).get("graphflow", {})
        section = found.get("notifications", {})
        if isinstance(section, dict):
            yield section


# -- apprise ---------------------------------------------------------------------------------------------------


def notify(name: str, *, title: str, text: str) -> None:
    """Send a notification to all addresses of a name.

    Raises
    ------
    NotSent
        If one of them did not get it; without any part of an address.
    """
    try:
        import apprise  # 170 ms, and an extra
    except ImportError:
        raise NotSent(
            "notifications need apprise, which is not installed: pip install 'graphflow[notify]'",
            is_final=True,
        ) from None
    try:
        held = addresses_of(name)
    except SettingsError as error:
        raise NotSent(str(error)) from None
    sender = apprise.Apprise()
    # It writes addresses into its log, with what they have in them.
    logging.getLogger("apprise").disabled = True
    for place, each in enumerate(held.get_secret_value(), start=1):
        if not sender.add(each):
            raise NotSent(
                f"address {place} of the notification {name} is not one of apprise; see `graphflow notify test {name}`",
                is_final=True,
            )
    failed = [place for place, each in enumerate(sender, start=1) if not each.notify(body=text, title=title)]
    kinds = [str(each.service_name) for each in sender]
    if failed:
        told = ", ".join(f"{place} ({kinds[place - 1]})" for place in failed)
        raise NotSent(
            f"the notification {name} did not reach address {told} of {len(kinds)}: it is refused there, or cannot be reached"
        )


# -- webhooks --------------------------------------------------------------------------------------------------


def call_webhook(address: str, data: Mapping[str, Any], *, key: str, at: float, secret: str = "") -> None:
    """Post a document, signed with a secret of this name if one is given; redirects are not followed.

    Raises
    ------
    NotSent
        If it was not taken: the answer was no 2xx, or there was none in 10 s.
    """
    import urllib3  # only where something is sent

    try:
        place = secrets.named_secret(address[1:]).get_secret_value() if address.startswith("$") else address
        body = json.dumps(data, default=str).encode()
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, "Idempotency-Key": key}
        if secret:
            held = secrets.named_secret(secret)
            headers |= signed_headers(held.get_secret_value(), delivery=key, at=at, body=body)
    except GraphflowError as error:
        raise NotSent(str(error)) from None
    try:
        answer = urllib3.request(
            "POST",
            place,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(total=WEBHOOK_SECONDS),
            retries=False,
            redirect=False,
        )
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        # The text of the error has the address in it.
        raise NotSent(f"the webhook {_shown(address)} cannot be reached ({type(error).__name__})") from None
    if not 200 <= answer.status < 300:
        raise NotSent(f"the webhook {_shown(address)} answered {answer.status}")


def _shown(address: str) -> str:
    """Return an address without its query, which may have a key in it."""
    return address if address.startswith("$") else address.partition("?")[0]
