"""Iterators that raise after some items: the map's own failure, which whoever takes the whole map is handed."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import all_finished, allow_failure, any_failed, flatten, flow, history, task
from graphflow.display.consoles import make_console
from graphflow.display.summary import show_failures
from graphflow.errors import MapWidthError, UpstreamFailed


@task
def same(x: Any) -> Any:
    return x


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def doubled(x: int) -> list[int]:
    return [x, x]


@task
def told(values: Any) -> list[str]:
    return [each if isinstance(each, str) else type(each).__name__ for each in values]


@task
def total(values: list[int]) -> int:
    return sum(values)


@task(trigger=all_finished)
def after_all(values: Any) -> list[str]:
    return [type(each).__name__ for each in values]


@task(trigger=any_failed)
def after_failure() -> str:
    return "seen"


def broken(good: int = 7, error: Callable[[], BaseException] = lambda: OSError("broke")) -> Iterator[int]:
    yield from range(good)
    raise error()


async def broken_later(good: int = 7) -> AsyncIterator[int]:
    for each in range(good):
        yield each
    await asyncio.sleep(0)
    raise OSError("broke")


UNHANDLED: dict[str, Callable[[], Any]] = {
    "returned": lambda: same.map(broken()),
    "thrown away": lambda: same.map(broken()) and None,
    "gathered": lambda: total(same.map(broken())),
    "submitted": lambda: total.submit(same.map(broken())),
    "reduced": lambda: same.map(broken()).reduce(operator.add),
    "filtered": lambda: total(same.map(broken()).filter(lambda x: x > 2)),
    "flattened": lambda: total(flatten(doubled.map(broken()))),
    "chained": lambda: total(inc.map(same.map(broken()))),
    "chained item by item": lambda: told(inc.map(allow_failure(same.map(broken())))),
    "zipped": lambda: total(add.map(broken(7), iter(range(20)))),
    "zipped with a list": lambda: total(add.map(broken(7), list(range(20)))),
    "tolerated": lambda: total(same.with_options(tolerated_failure_count=5).map(broken())),
    "at once": lambda: total(same.map(broken(0))),
    "async": lambda: total(same.map(broken_later())),
    "retried": lambda: total(same.with_options(retries=3).map(broken())),
    "an exit": lambda: total(same.map(broken(7, SystemExit))),
    "cancelled": lambda: total(same.map(broken(7, asyncio.CancelledError))),
}


@pytest.mark.parametrize("way", UNHANDLED)
def test_what_an_iterator_raises_fails_the_run_of_who_does_not_ask_for_it(
    backend_name: Any, way: str
) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return UNHANDLED[way]()

    run = body.run()
    assert run.state == "Failed"
    assert run.value is None
    again = body.resume(run.id)
    assert again.state == "Failed"


HANDED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "allowed": (lambda: told(allow_failure(same.map(broken()))), ["int"] * 7 + ["OSError"]),
    "allowed, async": (lambda: told(allow_failure(same.map(broken_later()))), ["int"] * 7 + ["OSError"]),
    "allowed at once": (lambda: told(allow_failure(same.map(broken(0)))), ["OSError"]),
    "allowed behind a chain": (
        lambda: told(allow_failure(inc.map(same.map(broken())))),
        ["int"] * 7 + ["UpstreamFailed"],
    ),
    "triggered": (lambda: after_all(same.map(broken())), ["int"] * 7 + ["OSError"]),
    "zipped": (lambda: told(allow_failure(add.map(broken(7), broken(5)))), ["int"] * 5 + ["OSError"]),
    "lengths": (
        lambda: told(allow_failure(add.map(iter(range(3)), range(9)))),
        ["int"] * 3 + ["MapWidthError"],
    ),
}


@pytest.mark.parametrize("way", HANDED)
def test_who_takes_the_map_with_its_failures_gets_what_was_raised_after_the_values(
    backend_name: Any, way: str
) -> None:
    body, expected = HANDED[way]
    run = flow(body, name="body", backend=backend_name).run()
    assert run.nodes[-1].result() == expected
    # Whoever counts the values may still take the part for the whole.
    assert run.state == "Failed"


@pytest.mark.parametrize(
    "mapped",
    [lambda: same.map(broken()), lambda: add.map(broken(7), broken(5)), lambda: inc.map(same.map(broken()))],
)
def test_an_exception_that_the_body_caught_fails_no_run(backend_name: Any, mapped: Callable[[], Any]) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        items = mapped()
        with pytest.raises((OSError, UpstreamFailed)):
            items.result()
        return told(allow_failure(items))

    assert body()[-1] in ("OSError", "UpstreamFailed")


def test_failures_end_with_the_failure_of_the_map_itself(backend_name: Any) -> None:
    @task
    def some(x: int) -> int:
        if x == 2:
            raise ValueError("item")
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        own, chained = some.map(broken()), inc.map(same.map(broken()))
        widths, empty = add.map(iter(range(3)), range(4)), same.map(total([1]))
        after = after_failure(wait_for=[chained])
        found = [
            [(each.index, type(each.exception).__name__, each.attempts) for each in future.failures()]
            for future in (own, chained, widths, empty)
        ]
        taken.extend((found, own.failures()[-1].label, [each.index for each in own.failures()[::-1]]))
        return after

    taken: list[Any] = []
    run = body.run()
    assert run.state == "Failed"
    assert (*taken, run.nodes["after_failure"].result()) == (
        [
            [(2, "ValueError", 1), (None, "OSError", 0)],
            [(None, "UpstreamFailed", 0)],
            [(None, MapWidthError.__name__, 0)],
            [(None, "MapTypeError", 0)],
        ],
        "some",
        [None, 2],
        "seen",
    )


def test_a_loop_over_the_map_raises_after_the_last_item_as_one_over_the_iterator(backend_name: Any) -> None:
    def looped(futures: Any) -> list[Any]:
        found: list[Any] = []
        try:
            for each in futures:
                found.append(each.result())
        except (OSError, UpstreamFailed) as error:
            found.append(type(error).__name__)
        return found

    @flow(backend=backend_name)
    def body() -> Any:
        ended = looped(same.map(broken()).as_completed())
        return looped(same.map(broken())), sorted(ended[:-1]), ended[-1], looped(inc.map(same.map(broken(2))))

    assert body() == ([*range(7), "OSError"], [*range(7)], "OSError", [1, 2, "UpstreamFailed"])


def test_a_resumed_run_reads_the_iterator_again(backend_name: Any, tmp_path: Path) -> None:
    mended = tmp_path / "mended"

    def source() -> Iterator[int]:
        yield from range(3)
        if not mended.exists():
            raise OSError("broke")
        yield from range(3, 6)

    @task
    def boom() -> None:
        raise ValueError("unrelated")

    @flow(backend=backend_name)
    def body() -> Any:
        handed = told(allow_failure(same.map(source())))
        return handed, total(inc.map(same.map(source()))), allow_failure(boom())

    run = body.run()
    for again in (body.resume(run.id), body.redrive(run.id)):
        assert again.state == "Failed"
        assert again.nodes["told"].items[0].value == ["int"] * 3 + ["OSError"]
    past = body.resume(run.id)
    assert past.nodes["same"].failures()[-1].exception.args == ("broke",)
    mended.touch()
    whole = body.redrive(run.id)
    assert whole.state == "Completed"
    assert whole.value[:2] == (["int"] * 6, 21)


def test_a_retry_of_chosen_items_hands_over_the_iterator_as_it_is_now(
    backend_name: Any, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"

    def source() -> Iterator[int]:
        yield from range(3)
        if not mended.exists():
            raise OSError("broke")
        yield 3

    @flow(backend=backend_name)
    def body() -> Any:
        return told(allow_failure(same.map(source())))

    run = body.run()
    assert run.nodes["told"].result() == ["int"] * 3 + ["OSError"]
    mended.touch()
    again = body.redrive(run.id, node="same", indices=[1])
    assert again.value == ["int"] * 4


def test_a_history_and_the_terminal_tell_what_the_iterator_raised_beside_failed_items(capsys: Any) -> None:
    @task
    def picky(x: int) -> int:
        if x == 2:
            raise ValueError("item")
        return x

    @flow(backend="inline")
    def body() -> Any:
        return picky.map(broken(4))

    run = body.run()
    past = history().run(run.id)
    for each in (run, past):
        node = each.nodes["picky"]
        assert node.state.message == "OSError: broke"
        texts = [str(error) for error in node.exception.exceptions]
        assert texts[0] == "item" and "broke" in texts[-1]
        show_failures(each, make_console(stdout=True))
        assert "picky failed apart from its items: OSError: broke" in capsys.readouterr().out
