"""Hooks: what a server answers to a webhook. A delivery is an event, and may start a run; both are one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphflow.common import secrets
from graphflow.errors import GraphflowError, HistoryError, NotFound
from graphflow.model.automated import Hook
from graphflow.model.texts import filled
from graphflow.orchestration.matching import has_values
from graphflow.orchestration.parameters import check_parameters
from graphflow.orchestration.signatures import SignatureRefused, verify
from graphflow.orchestration.stores.events import MOST_NBYTES
from graphflow.orchestration.stores.opening import Stores

__all__ = ["MOST_BODY_NBYTES", "Answer", "receive"]

logger = logging.getLogger("graphflow.orchestration.hooks")
MOST_BODY_NBYTES = 256 << 10
MOST_DELIVERY = 255
_PLAIN_HEADERS = ("content-type", "user-agent", "x-github-event")
"""What texts and conditions of a hook may see; others may have secrets in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered: a status of HTTP, and a document; of an error it has `detail`."""

    status: int
    document: Mapping[str, Any] = field(default_factory=dict)


def receive(stores: Stores, name: str, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
    """Take a delivery, once for each id that its sender gives, and return what is answered when it is committed.

    202 if it was taken, now or before; 401 if it is not signed as it should be, or too old; 404 if there is no such hook, 413 if it is too
    large, 422 if no run can be made of it, 503 if the secret is missing here.

    Parameters
    ----------
    headers
        In any case.
    now
        Seconds since the epoch, for the times that are signed.
    """
    if len(body) > MOST_BODY_NBYTES:
        return _refused(413, f"the body is larger than {MOST_BODY_NBYTES:,} bytes")
    small = {key.lower(): value for key, value in headers.items()}
    try:
        hook = stores.hooks.find(name)
    except NotFound:
        return _refused(404, f"there is no hook {name!r}")
    if hook.is_paused:
        return _refused(503, f"the hook {name} is paused")
    try:
        held = [secrets.named_secret(each) for each in hook.secret]
    except GraphflowError as error:
        logger.error("hook %s: %s", name, error)
        return _refused(503, f"the secret of the hook {name} is missing here")
    try:
        texts = [each.get_secret_value() for each in held]
        verified = verify(hook.kind, texts, small, body, now, header=hook.header)
    except SignatureRefused as error:
        return _refused(401, str(error))
    try:
        document = json.loads(body, parse_constant=_no_number) if body else {}
    except (ValueError, RecursionError):
        return _refused(422, "the body is not JSON")
    delivery = verified.delivery
    if hook.kind == "stripe" and isinstance(document, Mapping):
        delivery = str(document.get("id") or "")
    if (
        not delivery.isascii()
        or not (delivery == "" or delivery.isprintable())
        or len(delivery) > MOST_DELIVERY
    ):
        return _refused(422, f"the id of a delivery is up to {MOST_DELIVERY} letters and digits")
    header = {each: small[each] for each in _PLAIN_HEADERS if each in small}
    try:
        return _taken(stores, hook, delivery, {"body": document, "header": header}, len(body))
    except HistoryError:
        raise
    except RecursionError:
        return _refused(422, "the body is nested too deep")
    except GraphflowError as error:
        return _refused(422, str(error))


def _taken(stores: Stores, hook: Hook, delivery: str, document: Mapping[str, Any], nbytes: int) -> Answer:
    """Write the delivery, its event and its run, or nothing."""
    with stores.catalog.transaction():
        known = stores.hooks.delivered(hook.name, delivery) if delivery else None
        if known is not None:
            return Answer(status=202, document={"delivery": delivery, "is_new": False, "run": known or None})
        run_id, why = "", ""
        if hook.deployment and has_values(hook.where, document):
            stored = stores.plans.find(hook.deployment)
            parameters = filled(hook.parameters, document)
            check_parameters(stored.deployment, parameters)
            made = stores.fires.run(stored, parameters, origin=f"hook:{hook.name}")
            run_id, why = made.run_id or "", made.why
        elif hook.deployment:
            why = "it has not the values that the hook asks for"
        told: dict[str, Any] = {"header": document["header"], "nbytes": nbytes}
        if nbytes < MOST_NBYTES // 2:
            told["body"] = document["body"]
        event = stores.hooks.deliver(hook, delivery, run_id, told)
    answer = {"delivery": delivery, "is_new": True, "event": event, "run": run_id or None}
    return Answer(status=202, document=answer | ({"why": why} if why else {}))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _refused(status: int, detail: str) -> Answer:
    return Answer(status=status, document={"detail": detail})
