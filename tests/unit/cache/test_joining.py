"""Results of several batches that are published as one pack."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from graphflow.cache.joining import MAX_DISTANCE_SECONDS, Joiner, Lot
from graphflow.errors import ResultStoreError


def lot(*numbers: int, node: str = "n", part: bytes = b"same" * 2) -> Lot:
    return Lot(
        keys=b"".join(bytes([each]) * 16 for each in numbers),
        values=[*numbers],
        indices=[*numbers],
        run_id="r",
        node=node,
        created=float(max(numbers)),
        expires=10.0 + max(numbers),
        parts={"inputs": part},
        serializer="pickle",
    )


class Slow:
    """Writes lots; the first write goes on until it is let go."""

    def __init__(self, write: Callable[[Lot], None] = lambda lot: None) -> None:
        self.written: list[Lot] = []
        self.began, self.goes_on = threading.Event(), threading.Event()
        self._write = write

    def __call__(self, lot: Lot) -> None:
        self.written.append(lot)
        lot.name = f"pack-{len(self.written)}"
        if len(self.written) == 1:
            self.began.set()
            assert self.goes_on.wait(10)
        else:
            self._write(lot)


def published(slow: Slow, first: Lot, *others: Lot) -> list[Exception | None]:
    """Publish one lot, and others while it is written; gives what each of the others raised."""
    joiner, errors = Joiner(slow), [None] * len(others)  # type: list[Exception | None]

    def publish(at: int, each: Lot) -> None:
        try:
            joiner.submit(each)
        except Exception as error:
            errors[at] = error

    threads = [threading.Thread(target=joiner.submit, args=(first,))]
    threads[0].start()
    assert slow.began.wait(10)
    for at, each in enumerate(others):
        threads.append(threading.Thread(target=publish, args=(at, each)))
        threads[-1].start()
    with joiner.changed:
        assert joiner.changed.wait_for(lambda: len(joiner.waiting) == len(others), 10)
    slow.goes_on.set()
    for each_thread in threads:
        each_thread.join()
    return errors


def test_what_waits_is_written_together() -> None:
    slow = Slow()
    lots = [lot(2), lot(3, 4), lot(5, node="other")]
    assert published(slow, lot(1), *lots) == [None] * 3

    assert sorted(sorted(each.values) for each in slow.written) == [[1], [2, 3, 4], [5]]
    together = next(each for each in slow.written if len(each.values) == 3)
    assert together.parts == {"inputs": b"same" * 2}
    assert (together.created, together.expires) == (4.0, 12.0)
    assert lots[0].name == lots[1].name != lots[2].name


def test_parts_that_differ_are_kept_for_each_value() -> None:
    slow = Slow()
    published(slow, lot(1), lot(2, part=b"aaaa" * 2), lot(3, 4, 5, part=b"bbbbccccdddd"))

    (together,) = slow.written[1:]
    found = dict(
        zip(together.values, (together.parts["inputs"][at : at + 4] for at in range(0, 16, 4)), strict=True)
    )
    assert found == {2: b"aaaa", 3: b"bbbb", 4: b"cccc", 5: b"dddd"}


def test_each_learns_of_its_own_errors() -> None:
    def spoil(lot: Lot) -> None:
        lot.errors = {lot.values.index(4): ValueError("four")}

    lots = [lot(2), lot(3, 4)]
    published(Slow(spoil), lot(1), *lots)

    assert lots[0].errors == {}
    assert [*lots[1].errors] == [1]


def test_a_store_that_fails_fails_all_who_went_together() -> None:
    def fail(lot: Lot) -> None:
        raise ResultStoreError("full")

    errors = published(Slow(fail), lot(1), lot(2), lot(3))

    assert [str(each) for each in errors] == ["full", "full"]


def test_an_interruption_is_raised_where_it_came() -> None:
    def interrupt(lot: Lot) -> None:
        raise KeyboardInterrupt

    joiner = Joiner(interrupt)
    mine = lot(1)
    with pytest.raises(KeyboardInterrupt):
        joiner.submit(mine)
    assert isinstance(mine.failure, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("took", "idle", "waits"),
    [(0.05, 0.0, 0.2), (0.05, 0.15, 0.05), (0.05, 0.2, None), (3.0, 0.0, MAX_DISTANCE_SECONDS)],
)
def test_writes_keep_a_distance_where_each_is_a_request(
    took: float, idle: float, waits: float | None
) -> None:
    now, waited = [100.0], list[float]()

    def write(lot: Lot) -> None:
        now[0] += took

    joiner = Joiner(write, distance=4.0, clock=lambda: now[0], wait=waited.append)
    joiner.submit(lot(1))
    now[0] += idle
    joiner.submit(lot(2))
    assert waited == ([] if waits is None else [pytest.approx(waits)])


def test_what_comes_while_a_distance_is_kept_is_written_along() -> None:
    written: list[Lot] = []

    def write(lot: Lot) -> None:
        written.append(lot)
        now[0] += 1.0

    now, others = [100.0], list[threading.Thread]()

    def wait(seconds: float) -> None:
        others.append(threading.Thread(target=joiner.submit, args=(lot(3),)))
        others[0].start()
        with joiner.changed:
            assert joiner.changed.wait_for(lambda: len(joiner.waiting) == 2, 10)

    joiner = Joiner(write, distance=4.0, clock=lambda: now[0], wait=wait)
    joiner.submit(lot(1))
    joiner.submit(lot(2))
    others[0].join()
    assert [sorted(each.values) for each in written] == [[1], [2, 3]]
