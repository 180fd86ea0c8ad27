"""Futures: the lazy handles of nodes' outputs. Forcing one starts what is recorded and waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

from graphflow.authoring.reading import Reader
from graphflow.common.functions import function_name
from graphflow.errors import GraphflowError, TaskOptionError
from graphflow.graph.context import RECORDER
from graphflow.graph.folding import NOT_GIVEN
from graphflow.graph.graph import Node
from graphflow.graph.mapping import (
    SpreadOver,
    classify,
    flattened,
    item_pairs,
    product_of,
    refusal,
    table_rows,
)
from graphflow.graph.recording import FragmentRecorder, Handle, Recorder
from graphflow.model.policies import TaskOptions
from graphflow.model.states import FAILED_CODES, Code, State
from graphflow.runs.run import RunRecorder, check_timeout

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver
    from graphflow.results.exports.exports import Export
    from graphflow.runs.failures import Failures

__all__ = [
    "DoneAndNotDone",
    "Future",
    "MappedFuture",
    "as_completed",
    "flatten",
    "items",
    "product",
    "rows",
    "starmap",
    "wait",
]

R = TypeVar("R")

if TYPE_CHECKING:
    _Lazy = Any
    """To a type checker a future also is what it stands for: it is given to tasks, and returned by flows, as a value."""
else:

    class _Lazy:
        __slots__ = ()


class Future(Handle, _Lazy, Generic[R]):  # type: ignore[misc]
    """The output of a call, or of one item of a map.

    `result()`, `await`, `bool`, `len`, `str` and formatting force it; `repr` never does.
    """

    __slots__ = ("_known", "_n_outputs")

    def __init__(
        self, recorder: Recorder, node: Node, index: int | None = None, *, n_outputs: int | None = None
    ) -> None:
        super().__init__(recorder, node, index)
        self._n_outputs = n_outputs
        self._known: tuple[R] | None = None

    # -- forcing ----------------------------------------------------------------------------------------

    def _started(self) -> Driver:
        """The driver, with everything recorded so far started."""
        recorder, current = self._recorder, RECORDER.get()
        if not isinstance(recorder, RunRecorder):
            raise recorder.cannot_force(self._name())
        if isinstance(current, FragmentRecorder):
            raise current.cannot_force(self._name())
        recorder.flush()
        return recorder.driver

    def _is_done(self, driver: Driver) -> bool:
        return driver.is_final(self._node.id, self._index)

    def wait(self, timeout: float | None = None) -> bool:
        """Start what is recorded and wait for the end, however it is; False after `timeout` seconds."""
        check_timeout(timeout)
        driver = self._started()
        if self._is_done(driver):
            return True
        driver.need(self._node.id, self._index)
        return driver.wait(lambda: self._is_done(driver), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The value; starts what is recorded and waits for it.

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
            raise TimeoutError(f"{self._name()} did not end within {timeout:g} s; it is {self.state.name}")
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

    async def _async_result(self) -> R:
        if self._known is not None:
            return self._known[0]
        driver = self._started()
        driver.need(self._node.id, self._index)
        await wait_in_loop(driver, lambda: self._is_done(driver))
        return self._outcome()

    def __await__(self) -> Generator[Any, None, R]:
        return self._async_result().__await__()

    # -- looking ----------------------------------------------------------------------------------------

    def _name(self) -> str:
        return self._node.name if self._index is None else f"{self._node.name}[{self._index}]"

    @property
    def state(self) -> State:
        """Where it stands; does not start anything."""
        recorder = self._recorder
        if not isinstance(recorder, RunRecorder):
            return State.of(Code.PENDING)
        if not recorder.has_driver:
            return State.of(recorder.idle_code)
        driver = recorder.driver
        code = driver.code_of(self._node.id, self._index)
        error: BaseException | None = None
        if (code in FAILED_CODES or code == Code.CANCELLED) and (
            self._index is not None or not self._node.is_mapped
        ):
            _, error = _outcome_of(driver, self._node, self._index)
        return State.of(code, message="" if error is None else f"{type(error).__name__}: {error}", data=error)

    def failures(self) -> Failures:
        """Waits for the end and gives the failed items as data: index, label, inputs, exception, attempts, log.

        A sequence that makes them as they are looked at, so that a million are no more trouble than one. Whoever asks has been handed the failures: they do not fail the flow any more.
        """
        self.wait()
        recorder = self._recorder
        assert isinstance(recorder, RunRecorder)
        driver = recorder.driver
        driver.hand_over(self._node.id, self._index)
        # The engine is loaded with the first run, not by `import graphflow`.
        from graphflow.runs.failures import Failures

        return Failures.of(driver, self._node, self._index)

    def __repr__(self) -> str:
        return f"<Future {self._name()}: {self.state.name}>"

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
        """Whether both stand for the same output; values are not compared."""
        return self._identity() == other._identity() if isinstance(other, Future) else NotImplemented

    # -- composing --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Future[Any]:
        """A future of `value[key]`; nothing runs yet."""
        return Future(self._recorder, self._recorder.getitem(self, key))

    def __iter__(self) -> Iterator[Future[Any]]:
        """Futures of the elements; forces the value only if their number is not declared."""
        count = self._n_outputs if self._n_outputs is not None else len(self)
        return iter([self[i] for i in range(count)])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"the future of {self._name()} has no attribute {name!r}; for an attribute of its value, force it: "
            f"future.result().{name}"
        )

    def __getstate__(self) -> Any:
        raise GraphflowError(
            f"the future of {self._name()} cannot be pickled: futures belong to their run; give it to a task as an "
            "argument, or send its value: future.result()"
        )

    def __reduce__(self) -> Any:
        return self.__getstate__()


class MappedFuture(Future[list[R]], Generic[R]):
    """The output of a map: a sequence of futures, one per item, in index order.

    Its result is the list of the items' values; items that were skipped drop out of it.
    """

    __slots__ = ()

    def _width(self) -> int:
        known = self._recorder.known_width(self._node)
        if known is not None:
            return known
        driver = self._started()
        driver.need(self._node.id, None)
        driver.wait(lambda: self._has_width(driver))
        width = driver.core.books[self._node.id].width
        if width is None:
            driver.hand_over(self._node.id, None)
            raise driver.exception_of(self._node.id, None)
        return width

    def _has_width(self, driver: Driver) -> bool:
        """Whether the width is known, or known never to come."""
        book = driver.core.books.get(self._node.id)
        return book is not None and (book.width is not None or book.is_final)

    def __len__(self) -> int:
        return self._width()

    def __bool__(self) -> bool:
        return self._width() > 0

    @overload
    def __getitem__(self, key: int) -> Future[R]: ...
    @overload
    def __getitem__(self, key: Any) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        """The future of one item, or a list of them for a slice; nothing runs yet unless the width is needed."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(self._width()))]
        if isinstance(key, bool) or not isinstance(key, int):
            raise TypeError(f"a mapped future is indexed by map index, a whole number, not {key!r}")
        if key < 0:
            key += self._width()
        known = self._recorder.known_width(self._node)
        if key < 0 or (known is not None and key >= known):
            raise IndexError(f"{self._node.name} has {self._width()} items; there is no such item")
        return Future(self._recorder, self._node, key)

    def __iter__(self) -> Iterator[Future[R]]:
        """The items' futures, in order; waits for the width where it is not known.

        Over an iterator the futures come while it gives items. Whoever iterates sets its pace then: it is asked for
        a window ahead, values that were read are let go once they are many, and what is left when the loop is left
        early is cancelled when the flow's body ends. If the iterator raised, the loop raises that after the last item.
        """
        if not self._is_lazy():
            return (Future(self._recorder, self._node, i) for i in range(self._width()))
        return self._read()

    def _is_lazy(self) -> bool:
        """Whether the width is known only when an iterator has ended, and that is not known to have happened."""
        return self._recorder.known_width(self._node) is None and self._recorder.is_lazy(self._node)

    def _read(self) -> Iterator[Future[R]]:
        recorder, node, driver = self._recorder, self._node, self._started()
        del self
        reader, index = Reader(driver, node.id), 0
        while True:
            is_known = reader.ask(index)
            if is_known is not None:
                driver.wait(is_known)
            if not reader.has(index):
                _raise_if_broken_off(driver, node)
                return
            yield _read_future(recorder, node, index, reader)
            index += 1

    async def __aiter__(self) -> AsyncIterator[Future[R]]:
        """The items' futures, in order, without blocking the event loop; see `__iter__`."""
        recorder, node, driver = self._recorder, self._node, self._started()
        if not self._is_lazy():
            await wait_in_loop(driver, lambda: self._has_width(driver))
            for future in self:
                yield future
            return
        reader, index = Reader(driver, node.id), 0
        while True:
            is_known = reader.ask(index)
            if is_known is not None:
                await wait_in_loop(driver, is_known)
            if not reader.has(index):
                _raise_if_broken_off(driver, node)
                return
            yield _read_future(recorder, node, index, reader)
            index += 1

    def as_completed(self, timeout: float | None = None) -> Iterator[Future[R]]:
        """The items' futures as they end, however; `TimeoutError` after `timeout` seconds."""
        if not self._is_lazy():
            return as_completed(self, timeout=timeout)
        check_timeout(timeout)
        return self._read_as_completed(timeout)

    def _read_as_completed(self, timeout: float | None) -> Iterator[Future[R]]:
        recorder, node, driver = self._recorder, self._node, self._started()
        del self
        reader = Reader(driver, node.id)
        for index in reader.ended(timeout, driver.wait):
            yield _read_future(recorder, node, index, reader)
        _raise_if_broken_off(driver, node)

    def reduce_with(self, combine: Any, *, initial: Any = NOT_GIVEN, name: str | None = None) -> Future[Any]:
        """Combine the values of all items, in index order, by an associative function of two values.

        Neighbouring items are combined on the workers as they end, then the parts: at no place are all values
        together. Items that were skipped, or whose failure their map tolerates, are left out.

        Parameters
        ----------
        combine
            A plain function or a task of two arguments, such as `operator.add`, with
            `combine(a, combine(b, c)) == combine(combine(a, b), c)`. A task's retries and timeout hold for its calls.
        initial
            What the first value is combined with, and the result where there are no items.
        name
            What the node is called; the function's name by default.

        Raises
        ------
        TaskOptionError
            If it is no plain function of two arguments.
        """
        from graphflow.authoring.tasks import Task

        task: Any = combine if isinstance(combine, Task) else None
        if task is not None and (task.is_async or task.options.batched):
            raise TaskOptionError(f"reduce_with(...) takes a plain function of two values, not {task!r}")
        function = combine if task is None else task.fn
        if not callable(function):
            raise TaskOptionError(f"reduce_with(...) takes a function of two values, not {combine!r}")
        owner = function_name(function) if name is None else name
        options = TaskOptions(name=owner) if task is None else replace(task.options, name=name or task.name)
        return Future(self._recorder, self._recorder.reduce(self, function, initial=initial, options=options))

    def write(
        self,
        url: str | os.PathLike[str],
        *,
        format: str = "jsonl",
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        part_nbytes: int | None = None,
        timeout: float | None = None,
    ) -> Export:
        """Write the values to a folder or URL, in index order, as files of bounded size with a manifest.

        Waits for the items as it goes. Items that failed or were skipped are left out, and named in the manifest; their
        failures are not handed over by that. A call that was interrupted goes on behind the last whole file when it is made
        again, also in another life of the run.

        Parameters
        ----------
        format
            `"jsonl"`: one line of JSON per value. `"parquet"`: tables, of values that are dicts, frames or plain; needs
            pyarrow. `"pickle"`: for any value.
        storage_options
            What opens a URL, as fsspec takes it.
        overwrite
            Replace what another run, or the same one, wrote there.
        part_nbytes
            How large a file gets, roughly; 64 MB by default.
        timeout
            Seconds to wait at most, None for as long as it takes.

        Returns
        -------
        The values as a sequence, as `graphflow.results.read_export(url)` gives it.

        Raises
        ------
        ResultStoreError
            If another export is there, or the place cannot be written.
        SerializationError
            If a value cannot be written in this format.
        TimeoutError
            If the items do not end in time.
        """
        # Stores are loaded by those who write, not by `import graphflow`.
        from graphflow.authoring.exporting import write_map

        return write_map(
            self,
            url,
            file=format,
            storage_options=storage_options,
            overwrite=overwrite,
            part_nbytes=part_nbytes,
            timeout=timeout,
        )

    def filter(self, predicate: Any) -> Future[list[R]]:
        """The values for which `predicate` (a task or a plain function) is true; it runs item by item.

        Items that failed stay what they are for a map over the outcome: their lanes are UpstreamFailed.
        """
        from graphflow.authoring.tasks import Task

        task: Any = predicate if isinstance(predicate, Task) else Task(predicate)
        flags = task.map(self)
        return Future(self._recorder, self._recorder.compress(self, flags))

    def __repr__(self) -> str:
        width = self._recorder.known_width(self._node)
        return f"<MappedFuture {self._node.name}[{'?' if width is None else width}]: {self.state.name}>"


class _ReadFuture(Future[R]):
    """The future of an item that was read from a running map: its value is kept while this object lives."""

    __slots__ = ("_reader",)

    def __init__(self, recorder: Recorder, node: Node, index: int, reader: Reader) -> None:
        super().__init__(recorder, node, index)
        self._reader = reader
        reader.holds(index)

    def __del__(self) -> None:
        if self._index is not None:
            self._reader.dropped(self._index)


def _read_future(recorder: Recorder, node: Node, index: int, reader: Reader) -> Future[Any]:
    future: Future[Any] = _ReadFuture(recorder, node, index, reader)
    future._known = reader.value(index)
    return future


def _raise_if_broken_off(driver: Driver, node: Node) -> None:
    """After the last item of a map: raise what it failed with beside its items, as a loop over its source would."""
    if driver.core.books[node.id].broke_off:
        driver.hand_over(node.id, None)
        raise driver.exception_of(node.id, None)


def _outcome_of(driver: Driver, node: Node, index: int | None) -> tuple[Any, BaseException | None]:
    # The engine is loaded with the first run, not by `import graphflow`.
    from graphflow.driver.values import outcome_of

    return outcome_of(driver, node, index)


async def wait_in_loop(driver: Driver, ready: Callable[[], bool]) -> None:
    """Wait without blocking the running event loop."""
    if driver.backend.runs_in_caller:
        driver.wait(ready)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            # The loop was closed in the meantime: nobody waits there any more.
            return

    driver.when(ready, wake)
    await done.wait()
    if driver.failure is not None and not ready():
        raise driver.failure


class DoneAndNotDone(NamedTuple):
    """What `wait` gives: futures that ended, and futures that did not."""

    done: list[Future[Any]]
    not_done: list[Future[Any]]


def _as_futures(futures: Any) -> list[Future[Any]]:
    """Each future once, in order."""
    if isinstance(futures, MappedFuture):
        return list(futures)
    if isinstance(futures, Future):
        return [futures]
    chosen = list(futures)
    for each in chosen:
        if not isinstance(each, Future):
            raise TaskOptionError(f"a list of futures was expected, but it holds {each!r}")
    return list(dict.fromkeys(chosen))


def as_completed(futures: Iterable[Future[R]], *, timeout: float | None = None) -> Iterator[Future[R]]:
    """Futures as they end, however, each once; starts what is recorded.

    Raises
    ------
    TimeoutError
        If some have not ended after `timeout` seconds.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    watched = _Watched(_as_futures(futures))
    while watched.open_count:
        ended = watched.take_ended()
        if not ended:
            watched.wait(None if deadline is None else deadline - time.monotonic(), timeout)
        yield from ended


def wait(futures: Iterable[Future[Any]], timeout: float | None = None) -> DoneAndNotDone:
    """Wait for futures to end; gives those that did within `timeout` seconds, and those that did not."""
    check_timeout(timeout)
    chosen = _as_futures(futures)
    deadline = None if timeout is None else time.monotonic() + timeout
    for each in chosen:
        if not each.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            break
    done = [each for each in chosen if each._is_done(each._started())]
    ended = set(done)
    return DoneAndNotDone(done, [each for each in chosen if each not in ended])


class _Watched:
    """Futures of which some have not ended yet."""

    def __init__(self, futures: Sequence[Future[Any]]) -> None:
        self.total = self.open_count = len(futures)
        self._singles: list[tuple[Driver, Future[Any]]] = []
        self._maps: dict[tuple[int, int], _WatchedMap] = {}
        self._drivers: dict[int, Driver] = {}
        for each in futures:
            driver = self._drivers.setdefault(id(each._recorder), each._started())
            if each._index is None:
                self._singles.append((driver, each))
            else:
                place = id(each._recorder), each._node.id
                self._maps.setdefault(place, _WatchedMap(driver, each._node.id)).add(each)

    def take_ended(self) -> list[Future[Any]]:
        """Futures that ended and were not given yet."""
        ended = [each for driver, each in self._singles if each._is_done(driver)]
        if ended:
            self._singles = [(driver, each) for driver, each in self._singles if each not in set(ended)]
        for each in self._maps.values():
            ended += each.take_ended()
        self.open_count -= len(ended)
        return ended

    def _has_ended(self) -> bool:
        return any(each._is_done(driver) for driver, each in self._singles) or any(
            each.has_ended() for each in self._maps.values()
        )

    def wait(self, seconds: float | None, timeout: float | None) -> None:
        """Wait until one more ended."""
        drivers = list(self._drivers.values())
        while seconds is None or seconds >= 0:
            # Futures of several runs are rare: their drivers are asked in turn.
            share = seconds if len(drivers) == 1 else min(0.05, 0.05 if seconds is None else seconds)
            if drivers[0].wait(self._has_ended, share):
                return
            drivers.append(drivers.pop(0))
            seconds = None if seconds is None else seconds - (share or 0.0)
            if len(drivers) == 1:
                break
        raise TimeoutError(f"{self.open_count} of {self.total} futures did not end within {timeout:g} s")


class _WatchedMap:
    """Some items of one map; they are looked at block by block, so that one look at many costs little."""

    BLOCK = 1024

    def __init__(self, driver: Driver, node: int) -> None:
        self._driver = driver
        self._node = node
        self._open: dict[int, Future[Any]] = {}
        self._seen: dict[int, bytes] = {}

    def add(self, future: Future[Any]) -> None:
        """Watch one more."""
        assert future._index is not None
        self._open[future._index] = future

    def _changed_blocks(self) -> Iterator[tuple[int, bytes]]:
        """(first index, a byte per item that is 1 where it ended) of the blocks in which an item ended."""
        ended = self._driver.ended_mask(self._node)
        for start in range(0, len(ended), self.BLOCK):
            block = ended[start : start + self.BLOCK]
            if self._seen.get(start, b"").ljust(len(block), b"\0") != block:
                yield start, block

    def has_ended(self) -> bool:
        """Whether any that is watched ended since the last look."""
        if not self._open:
            return False
        if self._driver.is_final(self._node):
            return True
        return any(
            block[index] and start + index in self._open
            for start, block in self._changed_blocks()
            for index in range(len(block))
        )

    def take_ended(self) -> list[Future[Any]]:
        """Those that ended since the last look."""
        if self._open and self._driver.is_final(self._node):
            rest, self._open = list(self._open.values()), {}
            return rest
        taken = []
        for start, block in list(self._changed_blocks()):
            self._seen[start] = block
            for index in range(start, start + len(block)):
                if block[index - start] and index in self._open:
                    taken.append(self._open.pop(index))
        return taken


# -- helpers for mapped arguments ----------------------------------------------------------------------


def _recorder_of(*values: Any) -> Recorder | None:
    for value in values:
        if isinstance(value, Handle):
            return value._recorder
        if isinstance(value, list | tuple):
            found = _recorder_of(*value)
            if found is not None:
                return found
    return None


def flatten(values: Any) -> Any:
    """One level of nesting less: of a mapped future or a future of lists (as a future), or of plain lists."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.flatten(values))
    if classify(values) == "iterator":
        return (each for part in values for each in part)
    return list(flattened(values))


def items(values: Any) -> Any:
    """The (key, value) pairs of a dict, or the sorted elements of a set, to map over; takes futures too."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.helper("items", values))
    return item_pairs(values)


def rows(values: Any) -> Any:
    """The rows of a DataFrame as dicts, to map over; takes futures too."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.helper("rows", values))
    return table_rows(values)


def product(*pools: Any, **named: Any) -> Any:
    """The Cartesian product of sequences, to map over: `add.map(product(xs, ys))`.

    The elements are spread over the task's arguments (by name with `product(lr=..., depth=...)`); a task
    that takes one argument gets the tuple. The last sequence varies fastest.
    """
    if not pools and not named:
        raise TaskOptionError("product(...) needs at least one sequence")
    recorder = _recorder_of(*pools, *named.values())
    value: Any = (
        Future(recorder, recorder.product(pools, named))
        if recorder is not None
        else product_of(*pools, **named)
    )
    return SpreadOver(value, arity=len(pools), names=tuple(named), prefers_pair=True)


def starmap(values: Any, arguments: Any = None) -> Any:
    """Spread each element of a sequence over the task's arguments: `add.map(starmap([(1, 2), (3, 4)]))`.

    Tuples are spread by place, mappings by name. `starmap(task, values)` is short for
    `task.map(starmap(values))`.
    """
    if arguments is not None:
        return values.map(starmap(arguments))
    if isinstance(values, SpreadOver):
        return SpreadOver(values.value)
    if not isinstance(values, Handle) and classify(values) == "refused":
        raise TaskOptionError(f"starmap(...): {refusal(values)}")
    return SpreadOver(values)
