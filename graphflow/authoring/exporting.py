"""The values of a map, block by block, for exports."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from graphflow.common.waiting import check_timeout
from graphflow.driver.recorder import RunRecorder
from graphflow.graph.graph import Node
from graphflow.graph.recording import Recorder
from graphflow.model.states import FINAL_TABLE, Code
from graphflow.results.exports.exports import PART_NBYTES, Block, Export, ExportOf, write_export

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["write_map"]


class _Item(Protocol):
    """The future of an item, as far as its value is written."""

    _index: int | None
    _known: tuple[Any] | None

    def result(self) -> Any: ...


class _Map(Protocol):
    """The future of a map, as far as its values are written."""

    _node: Node
    _recorder: Recorder

    def _started(self) -> Driver: ...
    def _is_lazy(self) -> bool: ...
    def _width(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


_HAS_VALUE = bytes(code in (Code.COMPLETED, Code.CACHED) for code in range(256))


def write_map(
    mapped: _Map,
    url: str | os.PathLike[str],
    *,
    file: str,
    storage_options: Mapping[str, Any] | None,
    overwrite: bool,
    part_nbytes: int | None,
    timeout: float | None,
) -> Export:
    """Write the values of a map; see `MappedFuture.write`."""
    check_timeout(timeout)
    driver, node, recorder = mapped._started(), mapped._node, mapped._recorder
    assert isinstance(recorder, RunRecorder)
    deadline = None if timeout is None else time.monotonic() + timeout
    of = ExportOf(
        run_id=recorder.run_id,
        node=node.name,
        key=node.key,
        flow=recorder.flow_name,
        task=node.task_name,
    )
    source: _Known | _Lazy
    if mapped._is_lazy():
        source = _Lazy(driver, node.id, iter(mapped), node.name, deadline, timeout)
    else:
        source = _Known(driver, node.id, mapped._width(), node.name, deadline, timeout)
    return write_export(
        os.fspath(url),
        of,
        file=file,
        width=source.width,
        block=source.block,
        codes=source.codes if isinstance(source, _Known) else None,
        storage_options=storage_options,
        overwrite=overwrite,
        part_nbytes=PART_NBYTES if part_nbytes is None else part_nbytes,
    )


class _Known:
    """The items of a map whose width is known."""

    def __init__(
        self, driver: Driver, node: int, width: int, name: str, deadline: float | None, timeout: float | None
    ) -> None:
        self._driver = driver
        self._node = node
        self.width = width
        self._name = name
        self._deadline = deadline
        self._timeout = timeout
        driver.need(node, None)

    def codes(self, start: int, stop: int) -> bytes:
        """Return the states of items, once they ended."""
        _wait(self._driver, lambda: self._have_ended(start, stop), self._name, self._deadline, self._timeout)
        with self._driver.settled:
            book = self._driver.core.books[self._node]
            known = bytes(book.states[start:stop])
        # Items of a map that ended as a whole may not be booked one by one.
        final = int(book.final or Code.CANCELLED)
        known = bytes(code if FINAL_TABLE[code] else final for code in known)
        return known + bytes([final]) * (min(stop, self.width) - start - len(known))

    def _have_ended(self, start: int, stop: int) -> bool:
        mask = self._driver.ended_mask(self._node, start, stop)
        return mask.count(1) == stop - start or self._driver.is_final(self._node)

    def block(self, start: int, size: int) -> Block | None:
        """Return items from an index on."""
        stop = min(start + size, self.width)
        if start >= stop:
            return None
        codes = self.codes(start, stop)
        values: list[Any] = []
        mask, at = codes.translate(_HAS_VALUE), 0
        while (low := mask.find(1, at)) >= 0:
            at = mask.find(0, low)
            at = len(mask) if at < 0 else at
            values += self._driver.values_of(self._node, range(start + low, start + at))
        return Block(codes, values)


class _Lazy:
    """The items of a map over an iterator, which is read at the writer's pace."""

    width = None

    def __init__(
        self,
        driver: Driver,
        node: int,
        futures: Iterator[_Item],
        name: str,
        deadline: float | None,
        timeout: float | None,
    ) -> None:
        self._driver = driver
        self._node = node
        self._futures = futures
        self._name = name
        self._deadline = deadline
        self._timeout = timeout
        self._position = 0

    def block(self, start: int, size: int) -> Block | None:
        """Return items from an index on."""
        for _ in islice(self._futures, max(0, start - self._position)):
            self._position += 1
        codes, values = bytearray(), []
        for future in islice(self._futures, size):
            index = future._index
            assert index is not None
            if future._known is None:
                _wait(
                    self._driver,
                    lambda index=index: self._driver.is_final(self._node, index),
                    self._name,
                    self._deadline,
                    self._timeout,
                )
            code = self._driver.code_of(self._node, index)
            if _HAS_VALUE[code]:
                values.append(future.result())
            codes.append(code)
            self._position += 1
        if len(codes) < size:
            _wait(
                self._driver,
                lambda: self._driver.is_final(self._node),
                self._name,
                self._deadline,
                self._timeout,
            )
            error = self._driver.history.errors.get(self._node)
            if error is not None:
                # The iterator failed, so these are not all items.
                raise error
        return Block(bytes(codes), values) if codes else None


def _wait(driver: Driver, ready: Any, name: str, deadline: float | None, timeout: float | None) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if not ready() and not driver.wait(ready, left):
        raise TimeoutError(
            f"the items of {name} did not end within {timeout:g} s; the parts written so far are kept"
        )
