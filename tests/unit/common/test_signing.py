"""Keys: made once, rotated, shared, and never shown."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphflow.common import settings, signing
from graphflow.errors import SettingsError

KEY = bytes(range(32))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(settings.KEY_VARIABLE, raising=False)
    monkeypatch.delenv(settings.KEY_FILE_VARIABLE, raising=False)
    return tmp_path / "home"


def test_a_key_is_made_at_the_first_use_and_stays(home: Path) -> None:
    key = settings.secret_key()
    assert len(key) == 32 and settings.secret_keys() == (key,)
    assert (home / "secret.key").read_bytes() == key
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    (info,) = signing.known_keys()
    assert info.signs and info.fingerprint == signing.fingerprint(key)
    assert key.hex() not in repr(info)


def test_after_a_rotation_the_old_key_is_accepted_still(home: Path) -> None:
    first = settings.secret_key()
    info = signing.rotate_key()
    second = settings.secret_key()
    assert first != second and info.fingerprint == signing.fingerprint(second)
    assert settings.secret_keys() == (second, first)
    signing.rotate_key()
    assert set(settings.secret_keys()[1:]) == {first, second}
    assert [each.signs for each in signing.known_keys()] == [True, False, False]
    for place in home.iterdir():
        assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_of_several_rotations_at_once_none_loses_a_key(home: Path) -> None:
    first = settings.secret_key()
    with ThreadPoolExecutor(4) as pool:
        made = {info.fingerprint for info in pool.map(lambda _: signing.rotate_key(), range(8))}
    known = {each.fingerprint for each in signing.known_keys()}
    assert known == made | {signing.fingerprint(first)} and len(known) == 9


def test_a_key_goes_from_one_machine_to_another(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    text = signing.export_key(there)
    mine = settings.secret_key()
    signing.import_key(f" {text}\n")
    assert settings.secret_keys() == (settings.secret_key(there), mine)
    # Again, it changes nothing.
    signing.import_key(text)
    assert settings.secret_keys() == (settings.secret_key(there), mine)
    # Only accepted: what is new is signed as before.
    signing.import_key(KEY.hex(), there, signs=False)
    assert settings.secret_keys(there) == (bytes.fromhex(text), KEY)


def test_the_environment_gives_the_key(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = settings.secret_key()
    monkeypatch.setenv(settings.KEY_VARIABLE, KEY.hex())
    assert settings.secret_keys() == (KEY, mine)
    assert [(each.place, each.signs) for each in signing.known_keys()] == [
        (settings.KEY_VARIABLE, True),
        (str(home / "secret.key"), False),
    ]
    for act in (signing.rotate_key, lambda: signing.import_key(KEY.hex())):
        with pytest.raises(SettingsError, match="cannot be .* here: GRAPHFLOW_SECRET_KEY"):
            act()
    monkeypatch.delenv(settings.KEY_VARIABLE)
    for content in (KEY, f"{KEY.hex()}\n".encode()):
        place = tmp_path / "shared.key"
        place.write_bytes(content)
        place.chmod(0o600)
        monkeypatch.setenv(settings.KEY_FILE_VARIABLE, str(place))
        assert settings.secret_keys() == (KEY, mine)


def test_a_machine_with_a_given_key_makes_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.KEY_VARIABLE, KEY.hex())
    assert settings.secret_keys() == (KEY,)
    assert len(signing.known_keys()) == 1
    assert not home.exists()


def test_what_is_no_key_is_refused_and_not_shown(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("canary", "canary" * 12, KEY.hex()[:-1], KEY.hex() + "00", ""):
        with pytest.raises(SettingsError, match="that is not a key") as info:
            signing.import_key(text)
        assert "canary" not in str(info.value)
        if text:
            monkeypatch.setenv(settings.KEY_VARIABLE, text)
            with pytest.raises(SettingsError, match="GRAPHFLOW_SECRET_KEY is not a key") as info:
                settings.secret_key()
            assert "canary" not in str(info.value) and KEY.hex()[:8] not in str(info.value)
    monkeypatch.delenv(settings.KEY_VARIABLE)
    monkeypatch.setenv(settings.KEY_FILE_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="there is no file"):
        settings.secret_key()
    (tmp_path / "nowhere").write_bytes(b"short")
    with pytest.raises(SettingsError, match="has 5 bytes, not 32"):
        settings.secret_key()
    (tmp_path / "nowhere").write_bytes(KEY)
    os.chmod(tmp_path / "nowhere", 0o666)
    with pytest.raises(SettingsError, match="is writable by others"):
        settings.secret_key()
