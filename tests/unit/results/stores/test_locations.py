"""URLs of stores, and what of them is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphflow.errors import ResultStoreError
from graphflow.results.stores.locations import check_options, frozen, local_folder, parse, scrub, secrets_of


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("/data/results", "/data/results"),
        ("results", "results"),
        ("./a:b", "a:b"),
        ("~/results", str(Path.home() / "results")),
        ("file:///data/my%20results", "/data/my results"),
        ("FILE://localhost/data", "/data"),
        ("local:///data", "/data"),
        ("s3://bucket/x", None),
        ("memory://x", None),
        ("simplecache::file:///data", None),
    ],
)
def test_a_folder_or_a_url(place: str, folder: str | None) -> None:
    assert local_folder(place) == (None if folder is None else Path(folder))


def test_a_file_of_another_host_is_refused() -> None:
    with pytest.raises(ResultStoreError, match="three slashes"):
        local_folder("file://data/results")


def test_a_url_is_brought_into_one_form() -> None:
    assert parse("S3://bucket/a/b/").url == "s3://bucket/a/b"
    assert parse("s3://bucket").url == parse("s3://bucket/").url == "s3://bucket"
    assert parse("sftp://me:word@host:22/x").url == "sftp://me:word@host:22/x"
    assert parse("sftp://me:word@host:22/x").shown == "sftp://***@host:22/x"
    assert parse("s3a://bucket").is_s3 and not parse("memory://x").is_s3
    assert parse("memory://").url == "memory://"


@pytest.mark.parametrize(
    "url",
    [
        "bucket/x",
        "://x",
        "simplecache::s3://canary@bucket/x",
        "s 3://x",
        "s3://",
        "s3:///x",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket/./b",
        "s3://bucket/a\nb",
        "s3://key:canary@bucket/x",
        "s3://bucket/x?versionId=canary",
        "s3://bucket?canary",
        "sftp://me:canary@host/x#y",
        "https://me:canary@host/x?token=canary",
    ],
)
def test_a_url_that_is_no_place_is_refused_and_its_secrets_not_shown(url: str) -> None:
    with pytest.raises(ResultStoreError) as info:
        parse(url)
    assert "canary" not in str(info.value)


def test_options_are_plain_values_and_are_copied() -> None:
    options = {"key": "k", "client_kwargs": {"region_name": "eu", "list": [1, 2.5, None, True]}}
    copied = check_options(options)
    assert copied == options and copied is not options
    options["client_kwargs"] = {}
    assert copied["client_kwargs"]
    for value in (object(), {"a": {1: 2}}, [lambda: None], {"session": Path("x")}):
        with pytest.raises(ResultStoreError, match=r"storage_options\['x'\]"):
            check_options({"x": value})


def test_options_that_would_do_nothing_are_refused() -> None:
    for options in ({"use_listings_cache": True}, {"config_kwargs": {"retries": {"max_attempts": 9}}}):
        with pytest.raises(ResultStoreError, match="cannot be set"):
            check_options(options)


def test_options_are_told_apart() -> None:
    same = [{"a": 1, "b": [1, {"c": "x"}]}, {"b": [1, {"c": "x"}], "a": 1}]
    assert frozen(same[0]) == frozen(same[1]) and hash(frozen(same[0])) == hash(frozen(same[1]))
    others = [{}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": 1.0}, {"a": None}, {"a": [1]}, {"a": {"a": 1}}]
    assert len({frozen(each) for each in others}) == len(others)


def test_all_that_may_be_secret_is_found_and_taken_out() -> None:
    secrets = secrets_of(
        parse("sftp://user:pa%40ss@host/x"),
        {
            "key": "AKIA1",
            "nested": {"deep": ["tok-1", b"tok-2"]},
            "endpoint_url": "http://me:word9@host:9/?sig=sig77",
            "region_name": "eu-1",
            "anon": False,
            "x": "ab",
        },
    )
    assert {"AKIA1", "tok-1", "tok-2", "pa%40ss", "pa@ss", "word9", "sig77"} <= set(secrets)
    assert "eu-1" not in secrets and "ab" not in secrets
    text = scrub("AKIA1 tok-1 eu-1 word9@host pa@ss", secrets)
    assert text == "*** *** eu-1 ***@host ***"
