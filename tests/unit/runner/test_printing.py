"""Streams of whole lines: each with its item, whatever threads print at the same time."""

from __future__ import annotations

import io
import threading

from graphflow.graph.context import RUNNING, TaskContext
from graphflow.runner.printing import Line, LineStream


def stream(lines: list[Line], plain: io.StringIO) -> LineStream:
    return LineStream(plain, lambda line, context: lines.append(line), is_error=False)


def context(index: int | None, indices: tuple[int, ...] = ()) -> TaskContext:
    return TaskContext("run", "flow", "fetch", "key", "fetch", True, map_index=index, map_indices=indices)


def test_lines_of_threads_stay_whole_and_have_their_items() -> None:
    lines: list[Line] = []
    out = stream(lines, io.StringIO())
    both = threading.Barrier(2)

    def item(index: int) -> None:
        RUNNING.set(context(index))
        for _ in range(50):
            both.wait()
            print("got", end=" ", file=out)
            both.wait()
            print(index, file=out)

    threads = [threading.Thread(target=item, args=(i,)) for i in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert sorted(lines) == [Line("fetch[0]", "got 0", False)] * 50 + [Line("fetch[1]", "got 1", False)] * 50


def test_a_line_without_an_end_is_the_items_that_printed_it() -> None:
    lines: list[Line] = []
    out = stream(lines, io.StringIO())
    for each in (context(0), context(1), context(None, (2, 3))):
        token = RUNNING.set(each)
        print("a\nb", end="", file=out, flush=True)
        RUNNING.reset(token)
    out.finish()

    labels = [line.label for line in lines]
    assert labels == [label for label in ("fetch[0]", "fetch[1]", "fetch[2-3]") for _ in "ab"]
    assert [line.text for line in lines] == ["a", "b"] * 3


def test_what_is_printed_outside_tasks_reaches_the_stream_and_a_stream_that_is_over_is_the_stream() -> None:
    lines: list[Line] = []
    plain = io.StringIO()
    out = stream(lines, plain)
    print("one", file=out)
    print("two", end="", file=out)
    assert plain.getvalue() == "one\n"
    out.flush()
    assert plain.getvalue() == "one\ntwo"

    print("three", end="", file=out)
    out.finish()
    token = RUNNING.set(context(0))
    print("four", file=out)
    RUNNING.reset(token)
    assert plain.getvalue() == "one\ntwothreefour\n"
    assert lines == []


def test_of_a_line_that_was_written_over_the_last_text_is_shown() -> None:
    lines: list[Line] = []
    out = stream(lines, io.StringIO())
    token = RUNNING.set(context(0))
    for percent in range(0, 101, 10):
        print(f"\r{percent} %", end="", file=out)
    print("\r\nb", file=out)
    RUNNING.reset(token)

    assert [line.text for line in lines] == ["100 %", "b"]
