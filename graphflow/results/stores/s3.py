"""A place in a bucket of S3, or of what speaks its protocol, by s3fs: one request each, no retries."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from graphflow.errors import ResultStoreError
from graphflow.ports import StoredObject
from graphflow.results.stores.filesystems import Range
from graphflow.results.stores.locations import Location
from graphflow.results.stores.names import probe_name
from graphflow.results.stores.retries import code_of

__all__ = ["S3", "Client"]

PART_NBYTES = 32 << 20
"""Objects of twice this size are uploaded in parts, and appear when the upload is completed."""

LISTED_AT_ONCE = 1000
CONNECTIONS = 32
_CONFLICTS = ("PreconditionFailed", "412")
_NOT_THERE = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "MethodNotAllowed", "405")


class Client:
    """A connection to S3 with certain options, for all buckets that are reached with them.

    Parameters
    ----------
    options
        What s3fs gets.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        import fsspec
        from fsspec.config import conf

        configured = {**conf.get("s3", {}), **options}
        config = {
            "connect_timeout": 5,
            "read_timeout": 15,
            "max_pool_connections": CONNECTIONS,
            **(configured.get("config_kwargs") or {}),
            # Retries are counted in one place, which is not here.
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        self.fs = fsspec.filesystem(
            "s3",
            **{
                **options,
                "config_kwargs": config,
                "use_listings_cache": False,
                "skip_instance_cache": True,
            },
        )
        self.fs.retries = 1
        self.creates: dict[str, bool] = {}
        """Whether buckets keep conditions."""


class S3:
    """A prefix of a bucket.

    Parameters
    ----------
    client
        What reaches it.
    location
        Which one.
    timeout_seconds
        How long a request may take, beside a second per MiB.
    """

    def __init__(self, client: Client, location: Location, *, timeout_seconds: float) -> None:
        self.fs = client.fs
        self._creates = client.creates
        self._timeout_seconds = timeout_seconds
        self.bucket, _, prefix = location.url.partition("://")[2].partition("/")
        self.prefix = f"{prefix}/" if prefix else ""

    def put(self, name: str, data: bytes) -> None:
        """Write an object by one request, or in parts that become an object when the upload is completed."""
        timeout = self._timeout(len(data))
        self._run(self.fs._pipe_file, self._path(name), data, chunksize=PART_NBYTES, timeout=timeout)

    def create(self, name: str, data: bytes) -> None:
        """Write an object on the condition that there is none."""
        try:
            self.ask("put_object", Key=self.prefix + name, Body=data, IfNoneMatch="*")
        except FileExistsError:
            raise
        except OSError as error:
            if code_of(error) in _CONFLICTS:
                raise FileExistsError(name) from error
            raise

    def can_create(self) -> bool:
        """Return whether conditions are kept here: the second of two puts of one probe is refused."""
        if self.bucket not in self._creates:
            token = os.urandom(8).hex()
            name = probe_name(token)
            try:
                self._creates[self.bucket] = self._is_refused_twice(name, token.encode())
            finally:
                with suppress(OSError, ResultStoreError):
                    self.remove([name])
        return self._creates[self.bucket]

    def _is_refused_twice(self, name: str, data: bytes) -> bool:
        try:
            # A first answer that was lost may have stored it: then this one is refused, which is as good.
            with suppress(FileExistsError):
                self.create(name, data)
            self.create(name, data)
        except FileExistsError:
            return True
        except OSError as error:
            if code_of(error) in _NOT_THERE:
                return False
            raise
        return False

    def get(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return bytes of objects, some tens of them at a time."""
        found: list[bytes | BaseException] = self._run(self._get_all, ranges)
        return found

    async def _get_all(self, ranges: Sequence[Range]) -> Any:
        import asyncio

        places = asyncio.Semaphore(CONNECTIONS)

        async def get(part: Range) -> bytes:
            name, offset, nbytes = part
            async with places:
                end = None if offset < 0 else offset + nbytes
                reading: Coroutine[Any, Any, bytes] = self.fs._cat_file(
                    self._path(name), start=offset, end=end
                )
                return await asyncio.wait_for(reading, self._timeout(max(nbytes, -offset)))

        return await asyncio.gather(*map(get, ranges), return_exceptions=True)

    def size(self, name: str) -> int:
        """Return the size of an object."""
        found = self.ask("head_object", Key=self.prefix + name)
        return int(found["ContentLength"])

    def pages(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Return the objects below a prefix, up to a thousand per request."""
        return _Pages(self, self.prefix + prefix)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects by one request."""
        done = self.ask(
            "delete_objects",
            Delete={"Objects": [{"Key": self.prefix + name} for name in names], "Quiet": True},
        )
        for failed in done.get("Errors") or ():
            raise _NotRemoved(failed)

    def ask(self, method: str, **kwargs: Any) -> Any:
        """Return one request about the bucket."""
        return self._run(self.fs._call_s3, method, Bucket=self.bucket, timeout=self._timeout(0), **kwargs)

    def _timeout(self, nbytes: int) -> float:
        return self._timeout_seconds + nbytes / (1 << 20)

    def _run(self, act: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        from fsspec.asyn import sync

        return sync(self.fs.loop, act, *args, **kwargs)

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self.prefix}{name}"


class _Pages:
    """A listing, page by page; a page that failed is asked for again."""

    def __init__(self, s3: S3, prefix: str) -> None:
        self._s3 = s3
        self._asked: dict[str, Any] = {"Prefix": prefix, "MaxKeys": LISTED_AT_ONCE}
        self._is_over = False

    def __iter__(self) -> _Pages:
        return self

    def __next__(self) -> list[StoredObject]:
        if self._is_over:
            raise StopIteration
        page = self._s3.ask("list_objects_v2", **self._asked)
        self._is_over = not page.get("IsTruncated")
        if not self._is_over:
            self._asked["ContinuationToken"] = page["NextContinuationToken"]
        cut = len(self._s3.prefix)
        return [
            StoredObject(each["Key"][cut:], int(each["Size"]), each["LastModified"].timestamp())
            for each in page.get("Contents") or ()
        ]


class _NotRemoved(OSError):
    """One of several objects was not removed; says so like an error of botocore."""

    def __init__(self, failed: Mapping[str, str]) -> None:
        super().__init__(failed.get("Message") or failed.get("Code") or "not removed")
        self.response = {
            "Error": {"Code": failed.get("Code", "")},
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }
