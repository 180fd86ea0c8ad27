"""Pages of the site that are not in docs/: the files beside it, and the commands; a hook of MkDocs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmark-scripts.md",
}
"""Files outside docs/, from the root of the repository, and what they are in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, uri in BESIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=relinked(text, source, uri)))
    files.append(File.generated(config, "reference/cli.md", content=commands()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links out of docs/ lead to the pages that their files are, and show `|` in tables as GitHub does."""
    uri = page.file.src_uri
    if uri not in BESIDE.values():
        markdown = relinked(markdown, f"docs/{uri}", uri)
    return re.sub(
        r"^\|.*$",
        lambda row: re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0]),
        markdown,
        flags=re.M,
    )


def relinked(text: str, source: str, uri: str) -> str:
    """Return a page's text with the links that hold in the repository turned into links of the site."""

    def link(match: re.Match[str]) -> str:
        path, anchor = match.groups(default="")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        within = BESIDE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(within, posixpath.dirname(uri) or '.')}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", link, text)


def commands() -> str:
    """Return the page of the command line, from the commands themselves."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from graphflow.cli.main import app

    command = get_command(app)
    in_full(command)
    context = command.context_class(command, info_name="graphflow", **command.context_settings)
    return get_docs_for_click(obj=command, ctx=context, name="graphflow", title="The command line")


def in_full(command: Any) -> None:
    """Let lists of commands have the whole first sentences of their texts, not what fits a terminal."""
    for each in getattr(command, "commands", {}).values():
        each.short_help = (each.help or "").partition("\n\n")[0].replace("\n", " ")
        in_full(each)
