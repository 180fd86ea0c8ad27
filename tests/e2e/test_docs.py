"""The Python examples of the README and the docs run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_every_link_between_pages_leads_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert missing == []


def test_the_table_of_moves_is_the_codes_own() -> None:
    assert transition_table() in (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
