"""Every error that graphflow raises, in one tree under `GraphflowError`.

An error's text has what was given, what is wrong and what to do; ids and numbers are attributes.
Every error survives pickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ApiError",
    "BackendError",
    "BackendUnreachable",
    "BatchedResultError",
    "CrossRunError",
    "CycleError",
    "DeploymentError",
    "EnvironmentMismatch",
    "FlowFailed",
    "FlowTimedOut",
    "ForcingError",
    "FlowChanged",
    "GraphflowError",
    "HistoryDamaged",
    "HistoryError",
    "HistoryLocked",
    "HistoryTooNew",
    "HistoryTooOld",
    "IndeterminateError",
    "ItemCrashed",
    "ItemTimedOut",
    "LeaseHeld",
    "LeaseLost",
    "MapFailed",
    "MapTypeError",
    "MapWidthError",
    "NotFound",
    "ParameterError",
    "RemoteError",
    "RequestRefused",
    "ResultDamaged",
    "ResultNotSigned",
    "ResultStoreError",
    "RevisionChanged",
    "RunCancelled",
    "RunNotFound",
    "ScheduleError",
    "SerializationError",
    "SettingsError",
    "SourceChanged",
    "TargetError",
    "TaskOptionError",
    "TooDeep",
    "TransitionError",
    "UpstreamFailed",
    "ValueUnavailable",
]


def restore(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Return an exception of these arguments and attributes, made without its `__init__`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class GraphflowError(Exception):
    """The base of all errors of graphflow."""

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), self.args, dict(self.__dict__))


class TaskOptionError(GraphflowError, ValueError, TypeError):
    """An option of a task or a flow is wrong; raised when the decorator is applied."""


class ParameterError(GraphflowError, ValueError, TypeError):
    """A flow was called with parameters that are missing, unknown or of the wrong type.

    Raised before anything runs.
    """


class MapTypeError(GraphflowError, TypeError):
    """An argument has a type that cannot be mapped, or holds futures where none are looked for; the text says what to do."""


class MapWidthError(GraphflowError, ValueError):
    """Mapped inputs that are zipped differ in length; `widths` holds each argument's."""

    def __init__(self, message: str, *, widths: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.widths = dict(widths or {})


class CrossRunError(GraphflowError, ValueError):
    """A future of one run was passed to a task of another."""


class CycleError(GraphflowError, ValueError):
    """A node would depend on itself, or a container contains itself."""


class ForcingError(GraphflowError, RuntimeError):
    """A future was forced where nothing can run: while a graph is built, or inside a task."""


class TooDeep(GraphflowError):
    """Tasks that return calls of tasks are nested deeper than the setting `runs.max_depth` allows."""


class TransitionError(GraphflowError, ValueError):
    """A change of state is not in the transition table."""


class SerializationError(GraphflowError):
    """An argument, a result or a task cannot be sent to, or back from, a worker."""


class ValueUnavailable(GraphflowError, LookupError):
    """A value is not available in the run (not finished, failed, or released)."""


class BatchedResultError(GraphflowError, ValueError):
    """A batched task did not return one plain result per item; not retried."""


class ItemTimedOut(GraphflowError, TimeoutError):
    """An item ran longer than its task's `timeout_seconds`."""


class ItemCrashed(GraphflowError, RuntimeError):
    """An item's worker died twice while the item was running."""


class IndeterminateError(GraphflowError, RuntimeError):
    """It is unknown whether an item of a `run_once` task has done its work: the process that started it died."""


class RunCancelled(GraphflowError, RuntimeError):
    """The run, or the future's item, was cancelled."""


class FlowTimedOut(GraphflowError, TimeoutError):
    """A flow ran longer than its `timeout_seconds`."""


class BackendError(GraphflowError, RuntimeError):
    """The backend failed: its cluster died, lost all workers, or cannot do what was requested."""


class BackendUnreachable(BackendError, ConnectionError):
    """The scheduler's address does not answer."""


class TargetError(GraphflowError, ValueError):
    """The target of a command (file.py:flow) cannot be loaded."""


class ScheduleError(GraphflowError, ValueError):
    """A schedule is wrong: its cron expression, interval, rule, time or zone."""


class DeploymentError(GraphflowError, ValueError):
    """A deployment is wrong, or an option of it has no meaning here; the text says what to use."""


class EnvironmentMismatch(GraphflowError, RuntimeError):
    """A run cannot be driven where a worker is: another Python, a missing module, or code that is gone."""


class SettingsError(GraphflowError, ValueError):
    """A setting in the environment or a file is wrong."""


class HistoryError(GraphflowError, RuntimeError):
    """The history of a run cannot be read or written (a full disk, missing rights, a lock that is never released)."""


class HistoryDamaged(HistoryError):
    """A history differs from what was written: truncated, changed, or signed with another key."""


class HistoryLocked(HistoryError):
    """Another process keeps a file of a history locked, for longer than the time limit."""


class HistoryTooNew(HistoryError):
    """A history was written by a newer graphflow."""


class HistoryTooOld(HistoryError):
    """A history was written by an older graphflow, in a version that is no longer read."""


class NotFound(GraphflowError, LookupError):
    """There is nothing by that name: no such node, item, task or key."""


class AlreadyExists(GraphflowError, ValueError):
    """There is something by that name already."""


class RevisionChanged(GraphflowError, RuntimeError):
    """A definition was changed by somebody else since it was read; read it again, and repeat the change."""


class AccessDenied(GraphflowError, PermissionError):
    """A server refused a request: its token is missing, wrong or expired, or its role does not allow it."""


class ApiError(GraphflowError, RuntimeError):
    """A server could not be reached, or answered with what this client does not understand; `status` is 0 without an answer."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RunNotFound(NotFound):
    """No run, or more than one, matches an id, prefix or name."""


class LeaseHeld(GraphflowError, RuntimeError):
    """A run already has a driver; `host`, `pid` and `until` (seconds since the epoch) identify it."""

    def __init__(self, message: str, *, host: str = "", pid: int = 0, until: float = 0.0) -> None:
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.until = until


class LeaseLost(GraphflowError, RuntimeError):
    """This driver's run was taken over by another: its writes are refused, and it stops."""


class FlowChanged(GraphflowError, ValueError):
    """A flow's changed code does not match its earlier run; the text has the first difference."""


class SourceChanged(GraphflowError, ValueError):
    """An iterator yields different items than in the earlier launch of the run."""


class RequestRefused(GraphflowError, RuntimeError):
    """The driver of a run could not carry out a request; the text has the reason."""


class ResultStoreError(GraphflowError, RuntimeError):
    """The result store cannot be read or written."""


class ResultDamaged(ResultStoreError, ValueUnavailable):
    """A stored result is missing, or differs from what was written; it is refused."""


class ResultNotSigned(ResultDamaged):
    """A stored result was signed with none of this installation's keys; it is refused.

    `signer` is the fingerprint of the key that signed it, empty if it is unsigned.
    """

    def __init__(self, message: str, *, signer: str = "") -> None:
        super().__init__(message)
        self.signer = signer


class RemoteError(GraphflowError):
    """Replaces an exception that could not be sent back from its worker.

    Parameters
    ----------
    type_name
        The qualified name of the original exception's type.
    message
        Its text.
    remote_traceback
        Its formatted traceback, user frames only.
    """

    def __init__(self, type_name: str, message: str, remote_traceback: str = "") -> None:
        super().__init__(type_name, message, remote_traceback)
        self.type_name = type_name
        self.message = message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class UpstreamFailed(GraphflowError):
    """An item did not run because something it depends on failed.

    `root` names the original failure, `path` the tasks between it and this one.
    """

    def __init__(self, message: str, *, root: str = "", path: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.root = root
        self.path = tuple(path)


class _Group(ExceptionGroup[Exception]):
    """An exception group that survives pickling, and splitting, with its attributes."""

    def derive(self, excs: Sequence[Any], /) -> Any:
        group = type(self)(self.message, list(excs))
        group.__dict__.update(self.__dict__)
        return group

    def __reduce__(self) -> tuple[Any, ...]:
        return restore, (type(self), (self.message, list(self.exceptions)), dict(self.__dict__))


class MapFailed(_Group):
    """Items of a map failed.

    `exceptions` holds the distinct originals, at most a hundred of them; `failed` and `width` are counts,
    `indices` the first failed map indices.
    """

    failed: int = 0
    width: int | None = None
    indices: tuple[int, ...] = ()


class FlowFailed(_Group):
    """Several nodes of a flow failed, and their failures were not handled."""
