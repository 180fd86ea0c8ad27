"""The one place where requests to a remote store are tried again, and what their errors mean.

The clients below have their own retries turned off: layers of them multiply. Delays grow with full jitter (Brooker,
"Exponential Backoff And Jitter", AWS 2015).
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from graphflow.common import settings

__all__ = [
    "NO_CREDENTIALS",
    "Retries",
    "code_of",
    "explain",
    "is_missing",
    "is_transient",
    "is_unsatisfiable",
]

T = TypeVar("T")

_TRANSIENT_CODES = frozenset(
    [
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
        "XAmzContentSHA256Mismatch",
        "408",
        "409",
        "429",
        "500",
        "502",
        "503",
        "504",
    ]
)
_TRANSIENT_STATUS = (408, 409, 429, 500, 502, 503, 504)
_TRANSIENT_TYPES = frozenset(
    [
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "FSTimeoutError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ResponseParserError",
        "ResponseStreamingError",
        "TimeoutError",
    ]
)
_TRANSIENT_ERRNO = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ETIMEDOUT,
)
_MISSING_CODES = ("NoSuchKey", "NoSuchVersion", "404")
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_REFUSED_CODES = ("AccountProblem", "AllAccessDisabled", "AccessDenied", "InvalidPayer", "Forbidden", "403")
_UNKNOWN_CODES = (
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "AuthFailure",
)
NO_CREDENTIALS = "no usable credentials were found"
"""What `explain` says where a process has none."""
_NO_CREDENTIALS = frozenset(
    [
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "SSOTokenLoadError",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how long a request is tried; `timeout_seconds` is for one attempt, beside a second per MiB."""

    attempts: int = settings.BY_KEY["store.attempts"].default
    seconds: float = settings.BY_KEY["store.retry_seconds"].default
    base_seconds: float = 0.5
    most_seconds: float = 8.0
    timeout_seconds: float = settings.BY_KEY["store.timeout_seconds"].default

    @classmethod
    def configured(cls) -> Retries:
        """Return the settings of the environment.

        Raises
        ------
        SettingsError
            If it says something wrong.
        """
        return cls(
            attempts=settings.store_attempts(),
            seconds=settings.store_retry_seconds(),
            timeout_seconds=settings.store_timeout_seconds(),
        )

    def call(self, act: Callable[[], T]) -> T:
        """Return what `act` gives, tried again while its error is one that passes; the last error goes to the caller."""
        for wait in self.waits():
            try:
                return act()
            except Exception as error:
                if not is_transient(error) or not wait():
                    raise
        raise AssertionError("unreachable")

    def waits(self) -> Iterator[Callable[[], bool]]:
        """Yield one per attempt: called after it failed, it waits and gives True, or gives False where it was the last."""
        end = time.monotonic() + self.seconds
        for attempt in range(self.attempts):

            def wait(attempt: int = attempt) -> bool:
                delay = random.uniform(0.0, min(self.most_seconds, self.base_seconds * 2.0**attempt))
                if attempt + 1 >= self.attempts or time.monotonic() + delay >= end:
                    return False
                time.sleep(delay)
                return True

            yield wait


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a moment later: throttling, server errors, broken and slow connections."""
    answer = _answer(error)
    if answer is not None:
        code, status = answer
        return code in _TRANSIENT_CODES or (status in _TRANSIENT_STATUS and not _is_known(code))
    return any(
        (isinstance(each, OSError) and each.errno in _TRANSIENT_ERRNO)
        or not _TRANSIENT_TYPES.isdisjoint(kind.__name__ for kind in type(each).__mro__)
        for each in _chain(error)
    )


def is_missing(error: BaseException) -> bool:
    """Return whether there is no such object, in a place that is there."""
    answer = _answer(error)
    if answer is not None:
        return answer[0] in _MISSING_CODES
    return isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def is_unsatisfiable(error: BaseException) -> bool:
    """Return whether an object ends before the range that was asked for."""
    return code_of(error) in ("InvalidRange", "416")


def code_of(error: BaseException) -> str:
    """Return what the server called the error; empty where it did not answer."""
    answer = _answer(error)
    return "" if answer is None else answer[0]


def explain(error: BaseException) -> str:
    """Return what went wrong and what to do about it, in a sentence; may quote the server."""
    code = code_of(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    names = {kind.__name__ for each in _chain(error) for kind in type(each).__mro__}
    if code == "NoSuchBucket":
        return "there is no such bucket; create it, or correct the URL"
    if code in ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"):
        return f"the bucket is in another region ({code}); set AWS_REGION or client_kwargs={{'region_name': ...}}"
    if code in _EXPIRED_CODES:
        return f"the credentials have expired ({code}); renew them"
    if code in _UNKNOWN_CODES:
        return f"the server does not accept the credentials ({code}); check the access key, its secret and the clock"
    if code in _REFUSED_CODES or (not code and isinstance(error, PermissionError)):
        return f"the credentials do not permit this operation ({code or 'permission denied'}: {error})"
    if not names.isdisjoint(_NO_CREDENTIALS):
        return f"{NO_CREDENTIALS} ({text}); docs/s3.md lists where they are searched"
    if is_transient(error):
        return f"the store does not respond properly ({code or text}); try again later, finished work is not lost"
    return f"{code}: {text}" if code else text


def _is_known(code: str) -> bool:
    return code in (*_MISSING_CODES, *_EXPIRED_CODES, *_REFUSED_CODES, *_UNKNOWN_CODES)


def _answer(error: BaseException) -> tuple[str, int] | None:
    """Return the code and the status of a server's error, as botocore's errors hold them."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict) and isinstance(response.get("Error"), dict):
            status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0
            return str(response["Error"].get("Code") or ""), int(status)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__
