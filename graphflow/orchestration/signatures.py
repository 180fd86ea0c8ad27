"""Signatures of webhooks: HMAC-SHA256 over the raw body, as several senders make them. Pure.

Sources: docs.github.com (validating webhook deliveries), docs.stripe.com (verify webhook signatures manually), and the specification of
Standard Webhooks 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphflow.errors import GraphflowError
from graphflow.model.automated import HookKind

__all__ = ["REPLAY_SECONDS", "SignatureRefused", "Verified", "signed_headers", "verify"]

REPLAY_SECONDS = 300.0
"""So much may a signed time differ from now."""
_PREFIX = "whsec_"


class SignatureRefused(GraphflowError):
    """A delivery is not signed by who it should be, or is too old; the text has no part of the secret or the signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A delivery whose signature is right; its id is empty where the sender gives none."""

    delivery: str


def verify(
    kind: HookKind,
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    *,
    header: str = "X-Signature-256",
) -> Verified:
    """Check that a delivery was signed with one of the secrets, now.

    Parameters
    ----------
    headers
        By name, in small letters.
    header
        Of the kind `plain`: the one that has the signature.

    Raises
    ------
    SignatureRefused
        If it was not.
    """
    match kind:
        case "github":
            given = _needed(headers, "x-hub-signature-256").removeprefix("sha256=")
            _check([_hex(secret, body) for secret in secrets], [given])
            return Verified(delivery=headers.get("x-github-delivery", ""))
        case "plain":
            given = _needed(headers, header.lower()).removeprefix("sha256=")
            at = headers.get("x-timestamp")
            if at is not None:
                # The signature is over it too, so that leaving it out makes another one.
                _check_time(at, now)
            signed = body if at is None else f"{at}.".encode() + body
            _check([_hex(secret, signed) for secret in secrets], [given.lower()])
            return Verified(delivery=headers.get("x-delivery-id", ""))
        case "stripe":
            pairs = [each.strip().partition("=") for each in _needed(headers, "stripe-signature").split(",")]
            at = next((value for name, _, value in pairs if name == "t"), "")
            _check_time(at, now)
            signed = f"{at}.".encode() + body
            _check(
                [_hex(secret, signed) for secret in secrets],
                [value for name, _, value in pairs if name == "v1"],
            )
            return Verified(delivery="")
        case "standard-webhooks":
            delivery, at = _needed(headers, "webhook-id"), _needed(headers, "webhook-timestamp")
            _check_time(at, now)
            given_all = [each.partition(",") for each in _needed(headers, "webhook-signature").split()]
            signed = f"{delivery}.{at}.".encode() + body
            _check(
                [_base64(secret, signed) for secret in secrets],
                [value for version, _, value in given_all if version == "v1"],
            )
            return Verified(delivery=delivery)


def signed_headers(secret: str, *, delivery: str, at: float, body: bytes) -> dict[str, str]:
    """Return the headers that sign a webhook as Standard Webhooks has it.

    Raises
    ------
    SignatureRefused
        If the secret begins with `whsec_`, and is no base64 after it.
    """
    signed = f"{delivery}.{int(at)}.".encode() + body
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": f"v1,{_base64(secret, signed)}",
    }


def _needed(headers: Mapping[str, str], name: str) -> str:
    found = headers.get(name)
    if not found:
        raise SignatureRefused(f"the header {name} is missing; is the sender of the kind that the hook has?")
    return found


def _check_time(text: str, now: float) -> None:
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise SignatureRefused("the signed time is not a number of seconds since 1970")
    if abs(float(text) - now) > REPLAY_SECONDS:
        raise SignatureRefused(
            f"the signed time differs from now by more than {REPLAY_SECONDS:g} s; is it repeated, or is a clock wrong?"
        )


def _check(expected: Sequence[str], given: Sequence[str]) -> None:
    # All are compared, each in constant time.
    found = [hmac.compare_digest(a.encode(), b.encode(errors="replace")) for a in expected for b in given]
    if not any(found):
        raise SignatureRefused("the signature is wrong; have both sides the same secret?")


def _hex(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def _base64(secret: str, signed: bytes) -> str:
    key = secret.encode()
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise SignatureRefused(f"the secret begins with {_PREFIX}, and is no base64 after it") from None
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
