"""The options of caching: the parts of a key, when an entry expires, files among the inputs.

Names follow Prefect 3. One thing differs: every key contains the task's code (or its `cache_version`), so that an edited
task never gets a value of its previous version.
"""

from __future__ import annotations

import inspect
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import blake2b
from typing import Any

from graphflow.errors import TaskOptionError

__all__ = [
    "CACHE_OPTIONS",
    "DEFAULT",
    "FLOW_CACHE_OPTIONS",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NO_CACHE",
    "NO_DEFAULTS",
    "RUN_ID",
    "TASK_SOURCE",
    "CacheDefaults",
    "CacheKeyContext",
    "CacheOptions",
    "CachePolicy",
    "FileInput",
    "FilesLater",
    "changed_options",
    "check_arguments",
    "checked_cache",
    "checked_cache_defaults",
    "files_later",
    "file_input",
]

CACHE_OPTIONS = (
    "cache_policy",
    "cache_key_fn",
    "cache_expiration",
    "cache_version",
    "refresh_cache",
    "run_once",
    "resolve",
    "result_storage",
    "result_storage_options",
    "result_serializer",
)
"""Options of a task."""
FLOW_CACHE_OPTIONS = (
    "cache_policy",
    "refresh_cache",
    "result_storage",
    "result_storage_options",
    "result_serializer",
)
"""Options of a flow: defaults of its tasks."""


# -- policies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """The parts of a cache key, besides the task's identity, which every key has.

    Policies are added with `+`; `- "argument"` leaves an argument out of the inputs. They are values: equal, hashable and
    picklable.

    Attributes
    ----------
    inputs, task_source, flow_parameters, run_id
        Whether the key has the call's arguments; the code by name (all keys have it); the parameters of the flow run; its id.
    without
        The arguments that do not count.
    """

    inputs: bool = False
    task_source: bool = False
    flow_parameters: bool = False
    run_id: bool = False
    without: frozenset[str] = frozenset()

    @property
    def is_on(self) -> bool:
        """Whether anything is cached: not with `NO_CACHE`."""
        return self.inputs or self.task_source or self.flow_parameters or self.run_id

    def __add__(self, other: object) -> CachePolicy:
        if not isinstance(other, CachePolicy):
            return NotImplemented
        # What one of them leaves out, the other one may want.
        without = (
            self.without & other.without
            if self.inputs and other.inputs
            else (self.without if self.inputs else other.without)
        )
        return CachePolicy(
            inputs=self.inputs or other.inputs,
            task_source=self.task_source or other.task_source,
            flow_parameters=self.flow_parameters or other.flow_parameters,
            run_id=self.run_id or other.run_id,
            without=without,
        )

    def __sub__(self, other: object) -> CachePolicy:
        if not isinstance(other, str):
            return NotImplemented
        if not self.inputs:
            raise TaskOptionError(
                f"{self!r} - {other!r}: the policy has no inputs to leave {other!r} out of; add INPUTS first"
            )
        return replace(self, without=self.without | {other})

    def __repr__(self) -> str:
        names = [
            name
            for name, is_in in (
                ("INPUTS", self.inputs),
                ("TASK_SOURCE", self.task_source),
                ("FLOW_PARAMETERS", self.flow_parameters),
                ("RUN_ID", self.run_id),
            )
            if is_in
        ]
        return " + ".join(names or ["NO_CACHE"]) + "".join(f" - {name!r}" for name in sorted(self.without))


NO_CACHE = CachePolicy()
INPUTS = CachePolicy(inputs=True)
TASK_SOURCE = CachePolicy(task_source=True)
FLOW_PARAMETERS = CachePolicy(flow_parameters=True)
RUN_ID = CachePolicy(run_id=True)
DEFAULT = INPUTS + TASK_SOURCE


# -- options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How a task's results are cached; the checked options.

    Attributes
    ----------
    policy, is_policy_given
        What keys are made of; whether the task sets it itself, or else its flow may.
    key_fn
        Makes the keys in place of the policy.
    expiration_seconds
        How long an entry may be used; None for ever.
    version
        Replaces the code in keys.
    refresh
        Whether to recompute results and ignore cached ones; None if the task does not set it.
    run_once, resolve
        Whether an item is claimed before it starts; the function that decides about one whose outcome is unknown.
    """

    policy: CachePolicy = DEFAULT
    is_policy_given: bool = False
    key_fn: Callable[..., Any] | None = None
    expiration_seconds: float | None = None
    version: str | None = None
    refresh: bool | None = None
    run_once: bool = False
    resolve: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDefaults:
    """A flow's defaults for its tasks' results; a task's own settings have the same form."""

    policy: CachePolicy | None = None
    refresh: bool | None = None
    result_storage: str | None = None
    result_storage_options: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    result_serializer: str | None = None

    def merged(self, outer: CacheDefaults) -> CacheDefaults:
        """Return these settings, with those of the outer flow for what is not set here."""
        owns = self.result_storage is not None
        return CacheDefaults(
            policy=self.policy if self.policy is not None else outer.policy,
            refresh=self.refresh if self.refresh is not None else outer.refresh,
            result_storage=self.result_storage if owns else outer.result_storage,
            result_storage_options=self.result_storage_options if owns else outer.result_storage_options,
            result_serializer=self.result_serializer or outer.result_serializer,
        )

    def cache_of(self, own: CacheOptions | None, said: CachePolicy | None) -> CacheOptions | None:
        """Return a task's caching in a flow with these defaults; `said` is the task's own policy."""
        if own is not None:
            policy = own.policy
            if (
                not own.is_policy_given
                and own.key_fn is None
                and self.policy is not None
                and self.policy.is_on
            ):
                policy = self.policy
            refresh = own.refresh
            if refresh is None and not own.run_once:
                refresh = self.refresh
            return replace(own, policy=policy, refresh=refresh)
        policy_here = said if said is not None else self.policy
        if policy_here is None or not policy_here.is_on:
            return None
        return CacheOptions(policy=policy_here, refresh=self.refresh)


NO_DEFAULTS = CacheDefaults()


def checked_cache(owner: str, given: Mapping[str, Any]) -> CacheOptions | None:
    """Return a task's caching from its options; None if no option enables it.

    Raises
    ------
    TaskOptionError
        If an option is wrong, or two contradict each other.
    """
    policy = _policy(owner, given.get("cache_policy"))
    key_fn = _function(owner, "cache_key_fn", given.get("cache_key_fn"), "(context, parameters)", 2)
    expiration = _expiration(owner, given.get("cache_expiration"))
    version = given.get("cache_version")
    if version is not None and (not isinstance(version, str) or not version.strip()):
        raise TaskOptionError(f"{owner}: cache_version must be a non-empty string, not {version!r}")
    refresh = _flag(owner, "refresh_cache", given.get("refresh_cache"))
    run_once = bool(_flag(owner, "run_once", given.get("run_once")))
    resolve = _function(owner, "resolve", given.get("resolve"), "what is known of the item", 1)
    asks = [
        name
        for name, is_given in (
            ("cache_key_fn", key_fn is not None),
            ("cache_expiration", expiration is not None),
            ("cache_version", version is not None),
            ("refresh_cache", bool(refresh)),
            ("run_once", run_once),
        )
        if is_given
    ]
    if policy is not None and not policy.is_on:
        if asks:
            raise TaskOptionError(
                f"{owner}: cache_policy=NO_CACHE turns caching off, but {' and '.join(asks)} need{'s' if len(asks) == 1 else ''} "
                "it; remove one of the two"
            )
        policy = None
    if policy is not None and key_fn is not None:
        raise TaskOptionError(
            f"{owner}: cache_policy and cache_key_fn both define the cache key; use only one of them"
        )
    if resolve is not None and not run_once:
        raise TaskOptionError(
            f"{owner}: resolve is only called for tasks with run_once=True; add run_once=True, or remove resolve"
        )
    if run_once:
        for name, is_given, why in (
            ("refresh_cache=True", bool(refresh), "runs finished items again"),
            ("cache_expiration", expiration is not None, "lets an item run again later"),
            ("batched=True", bool(given.get("batched")), "runs items again to find one that fails"),
        ):
            if is_given:
                raise TaskOptionError(
                    f"{owner}: run_once=True contradicts {name}, which {why}; use only one of them"
                )
    if policy is None and not asks:
        return None
    return CacheOptions(
        policy=policy if policy is not None else DEFAULT,
        is_policy_given=policy is not None,
        key_fn=key_fn,
        expiration_seconds=expiration,
        version=version,
        refresh=refresh,
        run_once=run_once,
        resolve=resolve,
    )


def checked_cache_defaults(owner: str, given: Mapping[str, Any]) -> CacheDefaults:
    """Return a flow's or task's settings of policy, refreshing and result store.

    Raises
    ------
    TaskOptionError
        If an option is wrong.
    """
    storage = given.get("result_storage")
    options = given.get("result_storage_options")
    if isinstance(storage, os.PathLike):
        storage = os.fspath(storage)
    if storage is not None and (not isinstance(storage, str) or not storage.strip()):
        raise TaskOptionError(
            f'{owner}: result_storage must be a URL such as "s3://bucket/prefix" or a folder, not {storage!r}'
        )
    if storage is not None and re.match(r"[a-zA-Z0-9+.:-]+://[^/@]*:[^/@]*@", storage):
        raise TaskOptionError(
            f"{owner}: result_storage holds a password, which would appear wherever the URL is shown; pass it in "
            "result_storage_options={...}"
        )
    if options is not None:
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            # What was given may be a secret.
            raise TaskOptionError(
                f"{owner}: result_storage_options must be a mapping of names to values for fsspec, not a "
                f"{type(options).__name__}"
            )
        if storage is None:
            raise TaskOptionError(
                f"{owner}: result_storage_options needs result_storage, which is not given; pass both"
            )
    serializer = given.get("result_serializer")
    if serializer is not None and (not isinstance(serializer, str) or not serializer.strip()):
        raise TaskOptionError(
            f'{owner}: result_serializer must be the name of a serializer, such as "pickle" or "json", not {serializer!r}'
        )
    return CacheDefaults(
        policy=_policy(owner, given.get("cache_policy")),
        refresh=_flag(owner, "refresh_cache", given.get("refresh_cache")),
        result_storage=storage,
        result_storage_options=None if options is None else dict(options),
        result_serializer=serializer,
    )


def changed_options(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a task or flow with some changed; options that a change contradicts are removed."""
    gone: set[str] = set()
    policy = changes.get("cache_policy")
    if "result_storage" in changes:
        # They open the place that it was before.
        gone.add("result_storage_options")
    if changes.get("cache_key_fn") is not None:
        gone.add("cache_policy")
    if policy is not None:
        gone.add("cache_key_fn")
    if isinstance(policy, CachePolicy) and not policy.is_on:
        gone.update(("cache_expiration", "cache_version", "refresh_cache", "run_once", "resolve"))
    return {
        **{name: value for name, value in given.items() if name not in gone or name in changes},
        **changes,
    }


def check_arguments(owner: str, policy: CachePolicy | None, signature: inspect.Signature | None) -> None:
    """Raise for a policy that leaves out an argument that the task does not have."""
    if policy is None or not policy.without or signature is None:
        return
    parameters = signature.parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return
    unknown = sorted(policy.without - set(parameters))
    if unknown:
        raise TaskOptionError(
            f"{owner}: cache_policy={policy!r} leaves out {', '.join(map(repr, unknown))}, which the task does not have as an argument; "
            f"it has {', '.join(parameters) or 'none'}"
        )


def _policy(owner: str, value: Any) -> CachePolicy | None:
    if value is not None and not isinstance(value, CachePolicy):
        raise TaskOptionError(
            f"{owner}: cache_policy must be made of INPUTS, TASK_SOURCE, FLOW_PARAMETERS, RUN_ID and NO_CACHE, not {value!r}"
        )
    return value


def _flag(owner: str, option: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TaskOptionError(f"{owner}: {option} must be True or False, not {value!r}")
    return value


def _expiration(owner: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise TaskOptionError(
            f"{owner}: cache_expiration must be a timedelta or a number of seconds above 0, not {value!r}"
        )
    return float(seconds)


def _function(owner: str, option: str, value: Any, takes: str, count: int) -> Callable[..., Any] | None:
    if value is None:
        return None
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise TaskOptionError(f"{owner}: {option} must be a plain function of {takes}, not {value!r}")
    try:
        inspect.signature(value).bind(*[None] * count)
    except TypeError as error:
        raise TaskOptionError(
            f"{owner}: {option} must be a function of {takes}: {value!r}: {error}"
        ) from None
    except ValueError:
        # Python does not know what it takes.
        pass
    checked: Callable[..., Any] = value
    return checked


# -- functions that make keys --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKeyContext:
    """The context that a `cache_key_fn` gets.

    There is no map index: a key must not depend on an item's position in a map.

    Attributes
    ----------
    task, fn, tags, version
        The task's name; its function; its tags and version.
    task_key
        Module and qualified name of the function.
    task_source
        The version of the code: its fingerprint, or the `cache_version`.
    run_id, flow_name, flow_parameters
        The flow run.
    parameters
        The call's arguments by name, with defaults.
    """

    task: str
    fn: Callable[..., Any]
    tags: frozenset[str]
    version: str | None
    task_key: str
    task_source: str
    run_id: str
    flow_name: str
    flow_parameters: Mapping[str, Any]
    parameters: Mapping[str, Any]


# -- files as inputs -----------------------------------------------------------------------------------------


class _Asking(threading.local):
    is_later = False


_ASKING = _Asking()


class FilesLater(Exception):
    """Raised for a value with a file that must be read only where the task runs."""


@contextmanager
def files_later() -> Iterator[None]:
    """Read no files in this context: a value with one raises `FilesLater`."""
    _ASKING.is_later = True
    try:
        yield
    finally:
        _ASKING.is_later = False


class FileInput(str):
    """A path, as text, that stands in keys for its file; made by `file_input`."""

    __slots__ = ("by",)
    by: str

    def __new__(cls, path: str, by: str = "content") -> FileInput:
        made = super().__new__(cls, path)
        made.by = by
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return FileInput, (str(self), self.by)

    def __repr__(self) -> str:
        return f"file_input({str(self)!r}, by={self.by!r})"

    def __graphflow_hash__(self) -> Any:
        """Return the file's content or times for a key; reads the file.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        if _ASKING.is_later:
            raise FilesLater(str(self))
        if self.by == "mtime":
            status = os.stat(self)
            return str(self), status.st_mtime_ns, status.st_size
        return _content_digest(str(self))


def file_input(path: str | os.PathLike[str], *, by: str = "content") -> FileInput:
    """Return a file as an argument: the task gets its path, as a string, and the cache key has the file.

    Parameters
    ----------
    path
        A local file. It is read when the task is about to run, so an earlier task may write it.
    by
        `"content"`: what is in the file, wherever it lies and whatever it is called. `"mtime"`: its path, size and time of the
        last change; quicker for large files.

    Raises
    ------
    TaskOptionError
        If the path is none, or `by` is something else.
    """
    given: Any = path
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "://" in text:
        raise TaskOptionError(f"file_input takes the path of a local file, not {path!r}")
    if by not in ("content", "mtime"):
        raise TaskOptionError(f'file_input(by=...) takes "content" or "mtime", not {by!r}')
    return FileInput(text, by)


_contents: dict[tuple[str, int, int, int, int], bytes] = {}
"""The digests of files that were read, by path, device, inode, size and time of the last change."""
_MOST_CONTENTS = 1_000
_SETTLED_NS = 2_000_000_000
"""A file that changed more recently may change again within the same tick of its clock."""


def _content_digest(path: str) -> bytes:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path!r} is not a regular file")
        mark = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        known = _contents.get(mark)
        if known is not None:
            return known
        digest = blake2b(digest_size=32)
        while block := file.read(1 << 20):
            digest.update(block)
        ended = os.fstat(file.fileno())
    found = digest.digest()
    if (ended.st_size, ended.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise OSError(f"{path!r} was written while it was read")
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        if len(_contents) >= _MOST_CONTENTS:
            _contents.clear()
        _contents[mark] = found
    return found
