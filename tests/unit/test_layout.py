"""The folders of the package: the table of docs/design.md, the contract of layers and the listing are one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "graphflow"
PUBLIC = {"__init__.py", "__main__.py", "deployments.py", "errors.py", "py.typed", "schedules.py"}


def contract() -> list[set[str]]:
    """The rows of the contract, from the top; a folder in parentheses may come later."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (each for each in config["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [set(row.split(" | ")) for row in layers["layers"]]


def table() -> list[set[str]]:
    """The rows of the table of folders, from the top."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("| folder | room |\n|---|---|\n")
    rows = rest.partition("\n\n")[0].splitlines()
    return [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows]


def folders() -> set[str]:
    return {each.parent.name for each in PACKAGE.glob("*/__init__.py")}


def test_the_table_of_the_design_is_the_contract_but_for_folders_to_come() -> None:
    there = [{name for name in row if not name.startswith("(")} for row in contract()]
    assert table() == [row for row in there if row]


def test_each_folder_stands_in_the_table_once() -> None:
    named = [name for row in table() for name in row]
    assert sorted(named) == sorted([*folders(), "deployments", "errors", "schedules"])


def test_only_the_public_face_lies_at_the_root_of_the_package() -> None:
    files = {each.name for each in PACKAGE.iterdir() if each.is_file()}
    assert files == PUBLIC


def test_names_of_modules_in_the_design_are_those_of_modules() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+\w+)`", text))
    gone = {
        each
        for each in named
        if not (PACKAGE / f"{each}.py").exists()
        and not (PACKAGE / each).is_dir()
        and not (ROOT / each).exists()
    }
    assert gone == set()
