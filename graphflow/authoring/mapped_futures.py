"""The futures of maps: sequences of their items' futures."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from graphflow.authoring.callees import callee_of
from graphflow.authoring.futures import Future
from graphflow.authoring.reading import Reader
from graphflow.authoring.waiting import as_completed
from graphflow.common.waiting import check_timeout
from graphflow.common.wording import count_text
from graphflow.driver.in_loop import wait_in_loop
from graphflow.errors import TaskOptionError
from graphflow.graph.folding import NOT_GIVEN
from graphflow.graph.graph import Node
from graphflow.graph.recording import RECORDER, Recorder

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver
    from graphflow.results.exports.exports import Export

__all__ = ["MappedFuture"]

R = TypeVar("R")


class MappedFuture(Future[list[R]], Generic[R]):
    """The output of a map: a sequence of futures, one per item, in map order.

    Its result is the list of the items' values; items that were skipped drop out of it.
    """

    __slots__ = ()

    def _each(self) -> list[Future[Any]]:
        return list(self)

    def wait(self, timeout: float | None = None) -> bool:
        self._recorder.check_ends(self._node, "waiting for the whole map")
        return super().wait(timeout)

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
            raise driver.outcomes.exception_of(self._node.id, None)
        return width

    def _has_width(self, driver: Driver) -> bool:
        """Return whether the width is known, or known never to be."""
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
        """Return the future of one item, or a list of futures for a slice; nothing runs yet unless the width is needed."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(self._width()))]
        if isinstance(key, bool) or not isinstance(key, int):
            raise TypeError(f"a mapped future is indexed by an integer (the map index), not {key!r}")
        if key < 0:
            key += self._width()
        known = self._recorder.known_width(self._node)
        if key < 0 or (known is not None and key >= known):
            raise IndexError(
                f"{self._node.name} has {count_text(self._width(), 'item')}; there is no item {key}"
            )
        return Future(self._recorder, self._node, key)

    def __iter__(self) -> Iterator[Future[R]]:
        """Yield the items' futures, in order; wait for the width if it is not known.

        Over an iterator the futures arrive as it yields items. This loop sets its pace: the iterator is read
        a window ahead, values that were read are released once they are many, and items that are left when the loop is left
        early is cancelled when the flow's body ends. If the iterator raised, the loop raises that after the last item.
        """
        if not self._is_lazy():
            self._recorder.check_readable(self._node)
            return (Future(self._recorder, self._node, i) for i in range(self._width()))
        return self._read()

    def _is_lazy(self) -> bool:
        """Return whether the width is known only once an iterator has ended, and it has not yet."""
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
        """Yield the items' futures, in order, without blocking the event loop; see `__iter__`."""
        recorder, node, driver = self._recorder, self._node, self._started()
        if not self._is_lazy():
            self._recorder.check_readable(self._node)
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
        """Yield the items' futures as they end, in any state; raise `TimeoutError` after `timeout` seconds."""
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

    def reduce(self, combine: Any, *, initial: Any = NOT_GIVEN, name: str | None = None) -> Future[Any]:
        """Combine the values of all items, in map order, with an associative function of two values.

        Neighbouring items are combined on the workers as they end, then the parts: no process ever has all values
        together. Items that were skipped, or whose failure their map tolerates, are left out.

        Parameters
        ----------
        combine
            A plain function or a task of two arguments, such as `operator.add`, with
            `combine(a, combine(b, c)) == combine(combine(a, b), c)`. A task's retries and timeout hold for its calls.
        initial
            What the first value is combined with, and the result if there are no items.
        name
            What the node is called; the function's name by default.

        Raises
        ------
        TaskOptionError
            If it is not a plain function of two arguments.
        """
        callee = callee_of(combine, "reduce(...)")
        if callee.kind == "async" or callee.options.batched:
            raise TaskOptionError(f"reduce(...) takes a plain function of two values, not {combine!r}")
        options = replace(callee.options, name=name or callee.options.name)
        return Future(
            self._recorder, self._recorder.reduce(self, callee.fn, initial=initial, options=options)
        )

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
        """Write the values to a folder or URL, in map order, as files of bounded size with a manifest.

        Waits for the items as they finish. Items that failed or were skipped are left out, and named in the manifest; their
        failures are not marked as handled. An interrupted call continues after the last complete file when it is made
        again, also in another launch of the run.

        Parameters
        ----------
        format
            `"jsonl"`: one line of JSON per value. `"parquet"`: tables, of values that are dicts, frames or plain; needs
            pyarrow. `"pickle"`: for any value.
        storage_options
            Options for fsspec to open a URL.
        overwrite
            Replace what another run, or the same one, wrote there.
        part_nbytes
            The approximate size of a file; 64 MB by default.
        timeout
            Seconds to wait at most, None for as long as it takes.

        Returns
        -------
        The values as a sequence, as `graphflow.results.read_export(url)` returns it.

        Raises
        ------
        ResultStoreError
            If the location contains another export, or cannot be written.
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
        """Return a future of the values for which `predicate` (a task or a plain function) is true; it runs item by item.

        Failed items stay failed for a map over the result: the items that depend on them are UpstreamFailed.
        """
        recorder = RECORDER.get() or self._recorder
        flags = MappedFuture[Any](recorder, recorder.map(callee_of(predicate, "filter(...)"), (self,), {}))
        return Future(self._recorder, self._recorder.compress(self, flags))

    def __repr__(self) -> str:
        width = self._recorder.known_width(self._node)
        return f"<MappedFuture {self._node.name}[{'?' if width is None else width}]: {self._state().name}>"


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
    """Raise the map's own failure after its last item, as a loop over its source would."""
    if driver.core.books[node.id].broke_off:
        driver.hand_over(node.id, None)
        raise driver.outcomes.exception_of(node.id, None)
