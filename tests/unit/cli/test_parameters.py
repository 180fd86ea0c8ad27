"""Parameters from `-p` and `--params`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphflow.cli.parameters import parse_parameters
from graphflow.errors import ParameterError


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("x=3", 3),
        ("x=1.5", 1.5),
        ("x=true", True),
        ("x=null", None),
        ('x=["a", 1]', ["a", 1]),
        ('x="3"', "3"),
        ("x=hello", "hello"),
        ("x=", ""),
        ("x=a=b:=c", "a=b:=c"),
        ("x:=[1, 2]", [1, 2]),
        ('x:="@file"', "@file"),
        ("x=http://host:80/?q=1", "http://host:80/?q=1"),
    ],
)
def test_a_value_is_json_where_it_parses_else_text(pair: str, value: object) -> None:
    assert parse_parameters([pair]) == {"x": value}


def test_a_file_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("[1, 2]\n", encoding="utf-8")

    assert parse_parameters([f"x=@{tmp_path}/note.txt"]) == {"x": "[1, 2]\n"}


def test_a_parameter_annotated_as_text_stays_text() -> None:
    def function(version: str, tag: str | None, number: int, either: int | str, anything: Any) -> None: ...

    pairs = ["version=1", "tag=null", "number=1", "either=2", "anything=3"]

    assert parse_parameters(pairs, function=function) == {
        "version": "1",
        "tag": None,
        "number": 1,
        "either": 2,
        "anything": 3,
    }


def test_quoted_json_text_loses_its_quotes_for_a_text_parameter_too() -> None:
    def function(name: str) -> None: ...

    assert parse_parameters(['name="ada"'], function=function) == {"name": "ada"}


def test_an_annotation_that_cannot_be_evaluated_does_no_harm() -> None:
    def function(name: str, other: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert parse_parameters(["name=1", "other=1"], function=function) == {"name": "1", "other": 1}


def test_a_whole_mapping_comes_as_json_from_a_file_or_from_stdin(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"n": 1}', encoding="utf-8")

    assert parse_parameters([], mapping='{"n": 1}') == {"n": 1}
    assert parse_parameters([], mapping=f"@{tmp_path}/params.json") == {"n": 1}
    assert parse_parameters([], mapping="-", read_stdin=lambda: '{"n": 1}') == {"n": 1}


def test_a_pair_wins_over_the_mapping() -> None:
    assert parse_parameters(["n=2"], mapping='{"n": 1, "m": 3}') == {"n": 2, "m": 3}


@pytest.mark.parametrize(
    ("pairs", "mapping", "text"),
    [
        (["n"], None, "-p 'n' has no '='; use name=value, name:=json or name=@file"),
        (["=3"], None, "use name=value"),
        (["n:=abc"], None, "-p n:=... must be JSON, but 'abc' is not"),
        (["n=1", "n=2"], None, "-p n=... is given twice"),
        (["n=@nowhere.txt"], None, "-p n=@nowhere.txt: cannot read the file 'nowhere.txt': No such file"),
        ([], "{n: 1}", "--params is not JSON"),
        ([], "[1]", '--params must be a JSON object such as {"n": 10}, not an array'),
        ([], "@nowhere.json", "--params @nowhere.json: cannot read the file"),
    ],
)
def test_what_does_not_parse_is_named(pairs: list[str], mapping: str | None, text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_parameters(pairs, mapping=mapping)

    assert text in str(caught.value)
