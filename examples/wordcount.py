"""Word count: a map whose width is known at run time, retries, and a reduce.

python examples/wordcount.py [FOLDER]
graphflow run examples/wordcount.py:word_count -p folder=docs
"""

import re
import sys
from collections import Counter
from pathlib import Path

from graphflow import flow, task


@task
def list_files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*") if path.suffix in {".md", ".py", ".txt"})


@task(retries=2, retry_delay_seconds=1)
def count_words(path: str) -> dict[str, int]:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(re.findall(r"[a-z]{4,}", text.lower()))


@task
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total.most_common(10))


@flow
def word_count(folder: str) -> dict[str, int]:
    paths = list_files(folder)  # lazy; its length is known only at run time
    return merge(count_words.map(paths))


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent)
    for word, times in word_count(folder).items():
        print(f"{times:6} {word}")
