"""What `graphflow demo` shows after its run: the top words, and whether a plain loop agrees."""

from __future__ import annotations

import time
from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table

from graphflow.common.wording import count_text
from graphflow.display.meter import format_seconds

__all__ = ["check_against_plain_loop", "show_top_words"]


def show_top_words(words: Counter[str], console: Console) -> None:
    """Print the ten most frequent words as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("word")
    table.add_column("times", justify="right")
    for word, times in words.most_common(10):
        table.add_row(word, f"{times:,}")
    console.print(table)


def check_against_plain_loop(
    words: Counter[str], console: Console, *, folder: str, limit: int | None = None
) -> bool:
    """Count again with a plain loop, print whether the answers are equal, and return that."""
    from graphflow.examples.wordcount import count_plainly  # here, as help must not load the engine

    begin = time.perf_counter()
    expected = count_plainly(folder, limit)
    seconds = time.perf_counter() - begin
    is_same = words == expected
    console.print(f"same as a plain loop: {'yes' if is_same else 'no'} (it took {format_seconds(seconds)})")
    if not is_same:
        differing = sorted(word for word in words.keys() | expected.keys() if words[word] != expected[word])
        console.print(
            f"{count_text(len(differing), 'word')} with different counts, such as {', '.join(differing[:5])}"
        )
    return is_same
