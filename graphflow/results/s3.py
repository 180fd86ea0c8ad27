"""A place in a bucket of S3, or of what speaks its protocol, by s3fs: one request each, no retries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from graphflow.errors import ResultStoreError
from graphflow.ports import StoredObject
from graphflow.results.filesystems import Range
from graphflow.results.locations import Location
from graphflow.results.names import probe_name
from graphflow.results.retries import code_of

__all__ = ["S3"]

PART_NBYTES = 32 << 20
"""Objects of twice this size are uploaded in parts, and appear when the upload is completed."""

CONNECTIONS = 32
_CONFLICTS = ("PreconditionFailed", "412")
_NOT_THERE = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "MethodNotAllowed", "405")


class S3:
    """A prefix of a bucket.

    Parameters
    ----------
    location
        Which one.
    options
        What s3fs gets.
    """

    def __init__(self, location: Location, options: Mapping[str, Any]) -> None:
        import fsspec
        from fsspec.asyn import sync
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
        self._sync = sync
        self.bucket, _, prefix = location.url.partition("://")[2].partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self._creates: bool | None = None

    def put(self, name: str, data: bytes) -> None:
        """Write an object by one request, or in parts that become an object when the upload is completed."""
        self._sync(self.fs.loop, self.fs._pipe_file, self._path(name), data, chunksize=PART_NBYTES)

    def create(self, name: str, data: bytes) -> None:
        """Write an object on the condition that there is none."""
        try:
            self.fs.call_s3(
                "put_object", Bucket=self.bucket, Key=self.prefix + name, Body=data, IfNoneMatch="*"
            )
        except FileExistsError:
            raise
        except OSError as error:
            if code_of(error) in _CONFLICTS:
                raise FileExistsError(name) from error
            raise

    def can_create(self) -> bool:
        """Whether conditions are kept here: the second of two puts of one probe is refused."""
        if self._creates is None:
            token = os.urandom(8).hex()
            name = probe_name(token)
            try:
                self._creates = self._is_refused_twice(name, token.encode())
            finally:
                with suppress(OSError, ResultStoreError):
                    self.remove([name])
        return self._creates

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

    def get(self, ranges: Sequence[Range], timeouts: Sequence[float]) -> list[bytes | BaseException]:
        """Bytes of objects, some tens of them at a time."""
        found: list[bytes | BaseException] = self._sync(self.fs.loop, self._get_all, ranges, timeouts)
        return found

    async def _get_all(self, ranges: Sequence[Range], timeouts: Sequence[float]) -> Any:
        places = asyncio.Semaphore(CONNECTIONS)

        async def get(part: Range, timeout: float) -> bytes:
            name, offset, nbytes = part
            async with places:
                end = None if offset < 0 else offset + nbytes
                reading: Coroutine[Any, Any, bytes] = self.fs._cat_file(
                    self._path(name), start=offset, end=end
                )
                return await asyncio.wait_for(reading, timeout)

        return await asyncio.gather(*map(get, ranges, timeouts), return_exceptions=True)

    def size(self, name: str) -> int:
        """The size of an object."""
        found = self.fs.call_s3("head_object", Bucket=self.bucket, Key=self.prefix + name)
        return int(found["ContentLength"])

    def pages(self, prefix: str) -> Iterator[list[StoredObject]]:
        """The objects below a prefix, up to a thousand per request."""
        return _Pages(self, self.prefix + prefix)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects by one request."""
        done = self.fs.call_s3(
            "delete_objects",
            Bucket=self.bucket,
            Delete={"Objects": [{"Key": self.prefix + name} for name in names], "Quiet": True},
        )
        for failed in done.get("Errors") or ():
            raise _NotRemoved(failed)

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self.prefix}{name}"


class _Pages:
    """A listing, page by page; a page that failed is asked for again."""

    def __init__(self, s3: S3, prefix: str) -> None:
        self._s3 = s3
        self._asked: dict[str, Any] = {"Bucket": s3.bucket, "Prefix": prefix}
        self._is_over = False

    def __iter__(self) -> _Pages:
        return self

    def __next__(self) -> list[StoredObject]:
        if self._is_over:
            raise StopIteration
        page = self._s3.fs.call_s3("list_objects_v2", **self._asked)
        self._asked["ContinuationToken"] = page.get("NextContinuationToken")
        self._is_over = not page.get("IsTruncated")
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
