from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pydantic
import pytest

from graphflow import Secret
from graphflow.common import secrets
from graphflow.common.secrets import MASK, is_secret, mask, masked, named_secret, scrub
from graphflow.errors import ParameterError, SettingsError
from graphflow.identity import canonical
from graphflow.identity.carrying import carried, secrets_in
from graphflow.identity.hashing import canonical_digest
from graphflow.results.packs.classes import dumps_value


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes known is not masked in others."""
    monkeypatch.setattr(secrets, "_texts", {})
    monkeypatch.setattr(secrets, "_holders", {})
    monkeypatch.setattr(secrets, "_pattern", None)
    monkeypatch.setattr(canonical, "_digests", {})


def test_a_secret_shows_nothing_and_gives_its_value() -> None:
    secret = Secret("open sesame")
    assert f"{secret} {secret!r} {secret:>5}" == f"{MASK} Secret('{MASK}')   {MASK}"
    assert secret.get_secret_value() == "open sesame" and Secret(secret) == secret != Secret("other")
    assert copy.deepcopy([secret])[0] is secret and len({secret, Secret("open sesame")}) == 1


def test_known_secrets_are_masked_in_each_form_from_four_characters_on() -> None:
    kept = [Secret('pa"ss/wörd'), Secret("abc"), Secret(b"bytes-\xff"), Secret(12345)]
    assert mask('x pa"ss/wörd y') == f"x {MASK} y"
    for text in ('pa\\"ss/w\\u00f6rd', "pa%22ss%2Fw%C3%B6rd", "bytes-\\xff", "12345"):
        assert mask(f"<{text}>") == f"<{MASK}>", text
    assert mask("abc") == "abc"
    plain = {"a": [1, "x"], "b": ("y",)}
    assert masked(plain) is plain
    assert masked({"k": ['pa"ss/wörd']}) == {"k": [MASK]}
    # Once no secret has it, a text is an ordinary one.
    again = Secret(12345)
    kept.clear()
    assert mask("12345 bytes-\\xff") == f"{MASK} bytes-\\xff"
    del again
    assert mask("12345") == "12345"


def test_an_exception_is_scrubbed_with_its_causes_notes_and_attributes() -> None:
    secret = Secret("sesame")
    error, cause = ValueError("no sesame", 1, {"key": "sesame"}), KeyError("sesame!")
    error.__cause__ = cause
    error.add_note("a sesame note")
    error.token = "sesame"  # type: ignore[attr-defined]
    scrub(ExceptionGroup("group", [error]))
    assert error.args == (f"no {MASK}", 1, {"key": MASK}) and cause.args == (f"{MASK}!",)
    assert error.__notes__ == [f"a {MASK} note"] and vars(error)["token"] == MASK and secret


class Login(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr


@pytest.mark.parametrize(
    "secret",
    [Secret("sesame"), pydantic.SecretStr("sesame"), Login(name="x", password="sesame")],  # type: ignore[arg-type]
)
def test_a_secret_travels_and_is_never_written(secret: object) -> None:
    assert len(secrets_in({"a": [secret]})) == 1
    with pytest.raises(pickle.PicklingError, match="is never written"):
        dumps_value([secret])
    assert carried({"a": [secret]})[1] and not carried({"a": ["sesame"]})[1]
    found = pickle.loads(carried({"a": [secret]})[0])["a"][0]
    assert found == secret
    assert mask("sesame") == MASK


def test_equal_secrets_have_equal_keyed_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    one = canonical_digest([Secret("sesame")])
    assert one == canonical_digest([Secret("sesame")]) != canonical_digest([Secret("other")])
    assert one != canonical_digest(["sesame"])
    assert canonical_digest(pydantic.SecretStr("sesame")) == canonical_digest(Secret("sesame"))
    monkeypatch.setenv("GRAPHFLOW_SECRET_KEY", "ab" * 32)
    assert canonical_digest([Secret("sesame")]) != one


def test_named_secrets_come_from_the_environment_or_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("HERE", "from the environment")
    place = tmp_path / "secrets.toml"
    assert named_secret("HERE").get_secret_value() == "from the environment"
    with pytest.raises(ParameterError, match="no secret 'THERE'"):
        named_secret("THERE")
    place.write_text('THERE = "from the file"\nnumber = 3\n')
    for mode in (0o644, 0o640, 0o620, 0o604):
        place.chmod(mode)
        with pytest.raises(SettingsError, match="chmod 600"):
            named_secret("THERE")
    place.chmod(0o600)
    assert named_secret("THERE").get_secret_value() == "from the file"
    with pytest.raises(SettingsError, match="not a text"):
        named_secret("number")
    place.write_text("sesame sesame")
    with pytest.raises(SettingsError, match="not TOML") as refused:
        named_secret("THERE")
    assert "sesame" not in str(refused.value)


def test_what_is_a_secret_is_told_by_its_type() -> None:
    assert is_secret(Secret(1)) and is_secret(pydantic.SecretBytes(b"x"))
    assert not is_secret("x") and not is_secret(Login)
