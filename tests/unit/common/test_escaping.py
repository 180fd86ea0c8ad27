"""Texts of users on a terminal."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.table import Table
from rich.text import Text

from graphflow.common.escaping import printable
from graphflow.display.consoles import EscapingConsole

HOSTILE = [
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\x1b[2J",
    "a\rb",
    "\u202egnp.exe",
    "\udce9",
    "\x7f",
    "\u2066x\u2069",
]
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_text_acts_on_a_terminal(text: str) -> None:
    file = io.StringIO()
    console = EscapingConsole(file=file, width=100)
    table = Table("label", title=text)
    table.add_row(Text(text))
    for each in (text, Text(text, style="red"), table):
        console.print(each, markup=False)
    assert not ACTS.search(file.getvalue())


def test_colours_of_the_command_line_itself_stay() -> None:
    file = io.StringIO()
    EscapingConsole(file=file, force_terminal=True, color_system="standard").print(Text("fine", style="red"))
    assert "\x1b[31mfine" in file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_the_same_document_after_it(text: str) -> None:
    document = json.dumps({"label": text}, ensure_ascii=False, indent=2)
    assert json.loads(printable(document)) == {"label": text}
    assert printable(document).encode("utf-8")


def test_printable_text_stays_as_it_is() -> None:
    assert printable("tab\there\nnew line, é, 日本, 🙂") == "tab\there\nnew line, é, 日本, 🙂"
