"""A crawl in which some pages are broken: labels, failures as data, and triggers.

The pages are made up, so that it runs anywhere.

python examples/crawl.py
graphflow run examples/crawl.py:crawl -p pages=50
graphflow run examples/crawl.py:strict_crawl        # fails, and says which pages
"""

from graphflow import all_finished, allow_failure, any_failed, flow, task


class PageMissing(Exception):
    """The server has no such page."""


@task
def list_urls(pages: int) -> list[str]:
    return [f"https://example.org/{number}" for number in range(pages)]


@task(retries=1, task_run_name="{url}")
def fetch(url: str) -> str:
    number = int(url.rpartition("/")[2])
    if number % 7 == 3:
        raise PageMissing(f"no page at {url}")
    return "word " * number


@task
def count(page: str) -> int:
    return len(page.split())


@task
def summarise(counts: list[object]) -> dict[str, int]:
    """Gets exceptions in place of the values of pages that failed."""
    good = [value for value in counts if isinstance(value, int)]
    return {
        "pages": len(good),
        "words": sum(good),
        "failed": sum(isinstance(value, Exception) for value in counts),
    }


@task(trigger=any_failed)
def note_missing_pages() -> str:
    return "some pages are missing"


@task(trigger=all_finished)
def close_session() -> str:
    return "closed"


@flow
def crawl(pages: int = 30) -> dict[str, int]:
    texts = fetch.map(list_urls(pages))
    note_missing_pages(wait_for=[texts])
    close_session(wait_for=[texts])
    return summarise(allow_failure(count.map(texts)))


@flow
def strict_crawl(pages: int = 30) -> list[int]:
    return count.map(fetch.map(list_urls(pages)))


if __name__ == "__main__":
    print(crawl())
