"""What flows and tasks have in common: a decorated function with options, which can be bound, copied, pickled and given hooks."""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, ParamSpec

from graphflow.common.functions import Binding, dress, function_name, is_async, signature_of
from graphflow.errors import TaskOptionError

__all__ = ["Decorated", "check_results"]

P = ParamSpec("P")


def check_results(given: Mapping[str, Any]) -> None:
    """Refuse a serializer or a kind of store that does not exist, where it is named.

    Raises
    ------
    SettingsError, ResultStoreError
        If there is none of this name, or of this kind.
    """
    # Loaded only where something is named: `import graphflow` needs neither.
    serializer, storage = given.get("result_serializer"), given.get("result_storage")
    if serializer is not None:
        from graphflow.results.packs.serializers import serializer_of

        serializer_of(serializer)
    if isinstance(storage, str) and "://" in storage:
        from graphflow.results.stores.locations import parse
        from graphflow.results.stores.opening import check_protocol

        parse(storage)
        check_protocol(storage)


class Decorated(Generic[P]):
    """A function with options. A kind says what it is, and makes its `options` of what was given."""

    _kind: ClassVar[str]
    _takes_types: ClassVar[bool] = False
    options: Any
    _given: Mapping[str, Any]

    def __init__(self, fn: Callable[P, Any], **options: Any) -> None:
        self._decorated = fn
        self._binding = Binding.of(fn)
        if isinstance(fn, staticmethod | classmethod):
            fn = fn.__func__
        if isinstance(fn, str):
            raise TaskOptionError(
                f"@{self._kind} was given a name, {fn!r}, in place of a function; write @{self._kind}(name={fn!r}) above a "
                "function, whose body makes the calls"
            )
        if isinstance(fn, type(self)):
            raise TaskOptionError(
                f"{fn!r} is already a {self._kind}; use its with_options(...) to change options"
            )
        if (isinstance(fn, type) and not self._takes_types) or not callable(fn):
            raise TaskOptionError(f"@{self._kind} takes a function or another callable, not {fn!r}")
        self.fn: Callable[P, Any] = fn
        self.is_async = is_async(fn)
        self._set_options(options)
        dress(self, fn)

    def _wait_for(self, kwargs: dict[str, Any]) -> Any:
        """Take out what a call waits for, unless the function has a parameter of that name."""
        has_its_own = self._signature is not None and "wait_for" in self._signature.parameters
        return None if has_its_own else kwargs.pop("wait_for", None)

    @functools.cached_property
    def _signature(self) -> inspect.Signature | None:
        return signature_of(self.fn)

    @abstractmethod
    def _set_options(self, given: Mapping[str, Any]) -> None:
        """Check options, and take them."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.options.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def _repr_html_(self) -> str:
        # What only notebooks show is loaded by them alone.
        from graphflow.model.html import box, element, table

        called = f"{function_name(self.fn)}{self._signature or '(...)'}"
        head = element("div", element("b", self.name), f"  {self._kind}  ", element("code", called))
        options = [
            # Options of stores have credentials.
            (name, element("code", "***" if name.endswith("_options") else repr(value)))
            for name, value in self._given.items()
            if value is not None
        ]
        return box(head, *([table(["option", "value"], options)] if options else []))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        bound = self._binding.bind(self.fn, instance, owner)
        return self if bound is self.fn else type(self)(bound, **self._given)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._decorated, self._given)

    # -- hooks, also as decorators ----------------------------------------------------------------------

    def on_running(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (flow, run, state) or (task, task_run, state) that is called when a run begins; a decorator."""
        return self._add_hook("on_running", hook)

    def on_completion(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (flow, run, state) or (task, task_run, state) that is called when a run completes; a decorator."""
        return self._add_hook("on_completion", hook)

    def on_failure(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """Add a hook of (flow, run, state) or (task, task_run, state) that is called when a run fails; a decorator."""
        return self._add_hook("on_failure", hook)

    def _add_hook(self, option: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        self._set_options({**self._given, option: [*getattr(self.options, option), hook]})
        return hook


def _rebuild(kind: type[Decorated[Any]], fn: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    return kind(fn, **options)
