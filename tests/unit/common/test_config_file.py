"""One change in a TOML file: everything else stays, and what cannot be changed safely is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from graphflow.common.config_file import set_in_file
from graphflow.errors import SettingsError


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[a]\nx = 5\n"),
        ("# ours\n", "# ours\n\n[a]\nx = 5\n"),
        ("[a]\nb = 1 # kept\n\n[c]\n", "[a]\nb = 1 # kept\nx = 5\n\n[c]\n"),
        ("[a]\nx = 'old'\nb = 1\n", "[a]\nx = 5\nb = 1\n"),
        ("[a.b]\nx = 1\n", "[a.b]\nx = 1\n\n[a]\nx = 5\n"),
    ],
)
def test_a_value_is_set_and_the_rest_stays(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(before)
    set_in_file(file, ["a"], "x", 5)
    assert file.read_text() == after


@pytest.mark.parametrize(
    "text",
    [
        "a = {b = 1}\n",
        "[a]\nb = '''\nx = 2\n'''\n",
        '["a"]\nb = 2\n',
        "[[a]]\nb = 1\n",
        "a.b = 3\n",
        "a = 3\n",
        "[a\n",
    ],
)
def test_other_forms_are_refused_and_stay_as_they_are(tmp_path: Path, text: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"f\.toml"):
        set_in_file(file, ["a"], "x", 5)
    assert file.read_text() == text


@pytest.mark.parametrize("value", [True, 2.5, 'a "b" \\ \n é', {"k y": [1, "x"], "n": {"m": False}}])
def test_values_come_back_as_they_were(tmp_path: Path, value: object) -> None:
    file = tmp_path / "new" / "f.toml"
    set_in_file(file, ["profiles", "two words"], "x", value)
    set_in_file(file, [], "active", "two words")
    assert tomllib.loads(file.read_text()) == {"active": "two words", "profiles": {"two words": {"x": value}}}
