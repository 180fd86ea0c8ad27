"""Futures: the lazy handles of nodes' outputs. Forcing one starts what is recorded and waits for it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from graphflow.common.waiting import check_timeout
from graphflow.driver.in_loop import wait_in_loop
from graphflow.driver.recorder import RunRecorder
from graphflow.errors import GraphflowError
from graphflow.graph.fragments import FragmentRecorder
from graphflow.graph.graph import Node
from graphflow.graph.handles import Handle
from graphflow.graph.recording import RECORDER, Recorder
from graphflow.model.states import FAILED_CODES, Code, State

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver
    from graphflow.runs.nodes import Items

__all__ = ["Future"]

R = TypeVar("R")

if TYPE_CHECKING:
    _Lazy = Any
    """To a type checker a future is also its value: it is passed to tasks, and returned by flows, as a value."""
else:

    class _Lazy:
        __slots__ = ()


class Future(Handle, _Lazy, Generic[R]):  # type: ignore[misc]
    """The output of a call, or of one item of a map.

    `result()`, `await`, `bool`, `len`, `str` and formatting force it; `repr` never does.
    """

    __slots__ = ("_known", "_n_outputs")

    _recorder: Recorder

    def __init__(
        self, recorder: Recorder, node: Node, index: int | None = None, *, n_outputs: int | None = None
    ) -> None:
        super().__init__(recorder, node, index)
        self._n_outputs = n_outputs
        self._known: tuple[R] | None = None

    # -- forcing ----------------------------------------------------------------------------------------

    def _started(self) -> Driver:
        """Return the driver, with everything recorded so far started; it counts as used now, not as thrown away."""
        recorder, current = self._recorder, RECORDER.get()
        recorder.effects.use(self._node.id)
        if not isinstance(recorder, RunRecorder):
            raise recorder.cannot_force(self._name())
        if isinstance(current, FragmentRecorder):
            raise current.cannot_force(self._name())
        recorder.flush()
        return recorder.driver

    def _each(self) -> list[Future[Any]]:
        """Return the futures that waiting for this one covers: itself, or those of a map's items."""
        return [self]

    def _is_done(self, driver: Driver) -> bool:
        return driver.outcomes.is_final(self._node.id, self._index)

    def wait(self, timeout: float | None = None) -> bool:
        """Start what is recorded and wait for the end, in any state; return False after `timeout` seconds."""
        check_timeout(timeout)
        driver = self._started()
        if self._is_done(driver):
            return True
        driver.need(self._node.id, self._index)
        return driver.wait(lambda: self._is_done(driver), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """Return the value: start what is recorded and wait for it.

        Parameters
        ----------
        timeout
            Seconds to wait at most, None for as long as it takes.
        raise_on_failure
            If False, a failure is returned as its exception.

        Raises
        ------
        TimeoutError
            If it does not end in time.
        ForcingError
            Where nothing can run: inside a task, or while a graph is built.
        Exception
            What the task failed with; `UpstreamFailed` if something before it failed.
        """
        if self._known is not None:
            return self._known[0]
        if not self.wait(timeout):
            raise TimeoutError(f"{self._name()} did not end within {timeout:g} s; it is {self._state().name}")
        return self._outcome(raise_on_failure)

    def _outcome(self, raise_on_failure: bool = True) -> R:
        driver = self._started()
        value, error = _outcome_of(driver, self._node, self._index)
        if error is None:
            return value  # type: ignore[no-any-return]
        driver.hand_over(self._node.id, self._index)
        if raise_on_failure:
            raise error
        return error  # type: ignore[return-value]

    async def _ended(self) -> None:
        driver = self._started()
        driver.need(self._node.id, self._index)
        await wait_in_loop(driver, lambda: self._is_done(driver))

    def _hand_over(self) -> None:
        """Mark its failure, if it has one, as handled, because it is passed on as data."""
        self._started().hand_over(self._node.id, self._index, is_raised=False)

    async def _async_result(self) -> R:
        if self._known is not None:
            return self._known[0]
        await self._ended()
        return self._outcome()

    def __await__(self) -> Generator[Any, None, R]:
        return self._async_result().__await__()

    # -- looking ----------------------------------------------------------------------------------------

    def _name(self) -> str:
        return self._node.name if self._index is None else f"{self._node.name}[{self._index}]"

    @property
    def state(self) -> State:
        """Where it stands; starts nothing. A failure that is seen here is handled; `state.result()` is the value."""
        state = self._state()
        if state.is_final() and not state.is_completed():
            self._started().hand_over(self._node.id, self._index, is_raised=False)
        return state

    def _state(self) -> State:
        recorder = self._recorder
        if not isinstance(recorder, RunRecorder):
            return State.of(Code.PENDING)
        if not recorder.has_driver:
            return State.of(recorder.idle_code)
        driver = recorder.driver
        code = driver.outcomes.code_of(self._node.id, self._index)
        error: BaseException | None = None
        if (code in FAILED_CODES or code == Code.CANCELLED) and (
            self._index is not None or not self._node.is_mapped
        ):
            _, error = _outcome_of(driver, self._node, self._index)
        message = "" if error is None else f"{type(error).__name__}: {error}"
        return State.of(code, message=message, data=error, load=self.result)

    def failures(self) -> Items:
        """Wait for the end and return the failed items as data: index, label, inputs, exception, attempts, log.

        The sequence creates items on access, so that a million are as cheap as one. Calling this marks the failures as handled,
        so they no longer fail the flow.
        """
        self.wait()
        recorder = self._recorder
        assert isinstance(recorder, RunRecorder)
        driver = recorder.driver
        driver.hand_over(self._node.id, self._index, is_raised=False)
        # The engine is loaded with the first run, not by `import graphflow`.
        from graphflow.runs.nodes import Node

        failures = Node(recorder.known, self._node.id).failures()
        return failures if self._index is None else failures.where(index=self._index)

    def __repr__(self) -> str:
        return f"<Future {self._name()}: {self._state().name}>"

    def _repr_html_(self) -> str:
        """Return what is known of it, without forcing it."""
        # What only notebooks show is loaded by them alone.
        from graphflow.authoring.html import future_html

        return future_html(self._recorder, self._node, self._index, self._state().name)

    def __str__(self) -> str:
        return str(self.result())

    def __format__(self, spec: str) -> str:
        return format(self.result(), spec)

    def __bool__(self) -> bool:
        return bool(self.result())

    def __len__(self) -> int:
        return len(self.result())  # type: ignore[arg-type]

    def __contains__(self, element: object) -> bool:
        return element in self.result()  # type: ignore[operator]

    def _identity(self) -> tuple[int, int, int | None]:
        return id(self._recorder), self._node.id, self._index

    def __hash__(self) -> int:
        return hash(self._identity())

    def __eq__(self, other: object) -> bool:
        """Compare the value, which this forces; a future of the same output is equal without that."""
        if isinstance(other, Future):
            if self._identity() == other._identity():
                return True
            other = other.result()
        return self.result() == other

    def __ne__(self, other: object) -> bool:
        """Compare the value; see `__eq__`."""
        if isinstance(other, Future):
            if self._identity() == other._identity():
                return False
            other = other.result()
        return self.result() != other

    # -- composing --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Future[Any]:
        """Return a future of `value[key]`, without running anything yet."""
        return Future(self._recorder, self._recorder.getitem(self, key))

    def __iter__(self) -> Iterator[Future[Any]]:
        """Return futures of the elements; force the value only if their number is not declared."""
        self._recorder.check_readable(self._node)
        count = self._n_outputs if self._n_outputs is not None else len(self)
        return iter([self[i] for i in range(count)])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"the future of {self._name()} has no attribute {name!r}; to read an attribute of its value, use "
            f"future.result().{name}"
        )

    def _refused(self, *_: object) -> Any:
        raise TypeError(
            f"{self._name()} is a future, and nothing can be computed with it: use its value, future.result(), or give it to "
            "a task as an argument"
        )

    if not TYPE_CHECKING:
        # To a type checker a future is what it stands for.
        __add__ = __radd__ = __iadd__ = __sub__ = __rsub__ = __isub__ = __mul__ = __rmul__ = __imul__ = (
            _refused
        )
        __matmul__ = __rmatmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _refused
        __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = (
            _refused
        )
        __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __lshift__ = __rlshift__ = __rshift__ = (
            _refused
        )
        __rrshift__ = __invert__ = __round__ = __trunc__ = __floor__ = __ceil__ = _refused
        __int__ = __float__ = __complex__ = __index__ = __bytes__ = _refused
        __lt__ = __le__ = __gt__ = __ge__ = _refused

    def __getstate__(self) -> Any:
        raise GraphflowError(
            f"the future of {self._name()} cannot be pickled: futures belong to their run; pass it to a task as an "
            "argument, or send its value: future.result()"
        )

    def __reduce__(self) -> Any:
        return self.__getstate__()


def _outcome_of(driver: Driver, node: Node, index: int | None) -> tuple[Any, BaseException | None]:
    # The engine is loaded with the first run, not by `import graphflow`.
    from graphflow.driver.values import outcome_of

    return outcome_of(driver, node, index)
