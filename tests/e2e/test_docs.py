"""The Python examples of the README and the docs run as they are printed."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import graphflow
import graphflow.ports
import graphflow.results
from graphflow import errors
from graphflow.model.states import transition_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script_of(page: Path) -> str:
    """The page's Python blocks as one script, each on the lines that it has in the page."""
    text = page.read_text(encoding="utf-8")
    lines: list[str] = []
    for match in BLOCK.finditer(text):
        first = text.count("\n", 0, match.start(1))
        lines += [""] * (first - len(lines)) + match.group(1).splitlines()
    return "\n".join(lines) + "\n"


def has_example(page: Path) -> bool:
    return BLOCK.search(page.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("page", [page for page in PAGES if has_example(page)], ids=lambda page: page.name)
def test_every_python_example_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    script = tmp_path / f"page_{page.stem}.py"
    script.write_text(script_of(page), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 0, done.stderr


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    missing = []
    beside = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    for page in [*beside, *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            place = page.parent / path if path else page
            if not place.exists() or (anchor and anchor not in anchors_of(place)):
                missing.append(f"{page.name}: {target}")

    assert missing == []


@pytest.mark.parametrize(
    "module", [graphflow, graphflow.ports, graphflow.results], ids=lambda each: each.__name__
)
def test_the_reference_has_every_public_name(module: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    named = re.findall(r"^::: [\w.]*?(\w+)$", pages, re.MULTILINE)

    assert set(module.__all__) - set(named) == set()


def test_every_page_is_in_the_list_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in readme] == []


def test_every_error_is_in_the_page_on_troubleshooting() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

    assert sorted(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == sorted(errors.__all__)


def texts_of_the_package() -> Iterator[str]:
    """All texts in the code, with a line end in place of what is filled in."""
    for module in (ROOT / "graphflow").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(each.value) if isinstance(each, ast.Constant) else "\n" for each in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%\w", "\n", node.value)


def test_every_text_that_troubleshooting_quotes_is_in_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^- `([^`]+)`", page, re.MULTILINE)
    code = "\0".join(texts_of_the_package())

    def is_there(text: str) -> bool:
        # What is filled in may end a text: it is written after it.
        parts = [re.escape(part) for part in text.removesuffix("...").split("...")]
        return re.search("[^\0]*?".join(parts), code) is not None

    assert len(quoted) > 50
    assert [text for text in quoted if not is_there(text)] == []


def test_the_table_of_moves_is_the_codes_own() -> None:
    assert transition_table() in (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
