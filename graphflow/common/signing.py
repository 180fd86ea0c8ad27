"""Care for the keys that histories and results are signed with: which there are, a new one, one of another machine.

The newest signs; older ones stay beside it, so that what they signed is still believed. Keys never leave the home by
themselves, and nothing here shows one unless it is exported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from graphflow.common import settings
from graphflow.errors import SettingsError

__all__ = ["KeyInfo", "export_key", "fingerprint", "import_key", "known_keys", "repair_key", "rotate_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key that is known: its fingerprint, where it stands, and whether it signs what is new."""

    fingerprint: str
    place: str
    signs: bool


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint, which does not reveal it: 16 hexadecimal digits, as in packs of results."""
    return blake2b(digest_size=8, key=key, person=b"graphflow key id").hexdigest()


def known_keys() -> list[KeyInfo]:
    """Return all keys whose signatures are accepted, the one that signs first.

    Raises
    ------
    SettingsError
        If one cannot be read.
    """
    home = settings.home()
    found: dict[str, KeyInfo] = {}
    given = settings.given_key()
    if given is not None:
        variables = (settings.KEY_VARIABLE, settings.KEY_FILE_VARIABLE)
        giver = next(each for each in variables if os.environ.get(each))
        found[fingerprint(given)] = KeyInfo(fingerprint=fingerprint(given), place=giver, signs=True)
    else:
        settings.secret_key(home)
    own = home / settings.KEY_FILE
    for place in (own, *sorted(home.glob(settings.OLD_KEY_FILES), reverse=True)):
        if place.exists():
            name = fingerprint(settings.read_key(place))
            found.setdefault(
                name, KeyInfo(fingerprint=name, place=str(place), signs=given is None and place == own)
            )
    return list(found.values())


def rotate_key() -> KeyInfo:
    """Sign with a new key from now on; the one of before becomes an older one.

    Running processes keep using the old key, and do not accept the new one until they are restarted.

    Raises
    ------
    SettingsError
        If the environment gives the key, or the home cannot be written.
    """
    home = settings.home()
    _refuse_given("rotated")
    settings.secret_key(home)
    return _take(home, os.urandom(settings.KEY_NBYTES), signs=True)


def import_key(text: str, folder: Path | None = None, *, signs: bool = True) -> KeyInfo:
    """Import the key of another machine, as returned by `export_key`.

    Parameters
    ----------
    signs
        Whether what is new is signed with it. Else what it signed is believed, and no more.

    Raises
    ------
    SettingsError
        If it is not a key, the environment sets the key, or the home cannot be written.
    """
    home = settings.home() if folder is None else folder
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != settings.KEY_NBYTES:
        raise SettingsError(
            f"that is not a key; use the {2 * settings.KEY_NBYTES} hexadecimal digits that `graphflow key export` prints"
        )
    if signs:
        _refuse_given("replaced")
    return _take(home, key, signs=signs)


def export_key(folder: Path | None = None) -> str:
    """Return the signing key, as hexadecimal digits: anyone who has it can sign results that are unpickled here."""
    return settings.secret_key(folder).hex()


def repair_key(home: Path, has_signed: Callable[[bytes], bool]) -> list[str]:
    """Restore a damaged signing key from its copy, or the copy from the key; return what was done.

    Parameters
    ----------
    has_signed
        Whether something in the home was signed with a key: where the two differ, that tells which one is right.

    Raises
    ------
    SettingsError
        If the key is damaged and its copy cannot replace it, or the home cannot be written.
    """
    own, copy = home / settings.KEY_FILE, home / settings.KEY_COPY
    if settings.given_key() is not None or not (own.exists() or copy.exists()):
        return []
    found: dict[Path, bytes | SettingsError | None] = {}
    for place in (own, copy):
        try:
            found[place] = settings.read_key(place)
        except FileNotFoundError:
            found[place] = None
        except SettingsError as error:
            found[place] = error
    key, second = found[own], found[copy]
    if key == second:
        return []
    older = [settings.read_key(each) for each in home.glob(settings.OLD_KEY_FILES)]
    is_copy_right = isinstance(second, bytes) and second not in older and has_signed(second)
    if isinstance(key, bytes) and not (is_copy_right and not has_signed(key)):
        if is_copy_right and isinstance(second, bytes):
            _take(home, second, signs=False)
        settings.write_key(copy, key, replaces=True)
        return [f"{copy} was missing or differed from the key; it is written again"]
    if not isinstance(second, bytes):
        raise SettingsError(
            f"{own} is damaged, and there is no copy of it that could replace it. What it signed cannot be verified, and nothing"
            " unverified is believed: restore that file from a backup, or from a machine that shares the key (`graphflow key"
            " export` there). Otherwise move it away; new runs get a new key, and the old ones stay unreadable"
        )
    try:
        if own.exists():
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            os.rename(own, own.with_name(f"{own.name}.damaged-{moment}"))
        settings.write_key(own, second, replaces=True)
    except OSError as error:
        raise SettingsError(f"the key cannot be written to {home}: {error.strerror or error}") from error
    return [f"{own} was damaged; it is restored from its copy, which signed the runs here"]


def _refuse_given(what: str) -> None:
    if settings.given_key() is not None:
        raise SettingsError(
            f"the key cannot be {what} here: {settings.KEY_VARIABLE} or {settings.KEY_FILE_VARIABLE} sets it; change it there, "
            "and import the previous key with --only-accept"
        )


def _take(home: Path, key: bytes, *, signs: bool) -> KeyInfo:
    name = fingerprint(key)
    own = home / settings.KEY_FILE
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(home) as directory:
            if signs:
                if own.exists():
                    _keep(own, settings.read_key(own))
                settings.write_key(own, key, replaces=True)
                settings.write_key(home / settings.KEY_COPY, key, replaces=True)
                place = own
            else:
                place = _old_place(home, key)
                if not place.exists():
                    settings.write_key(place, key, replaces=True)
            os.fsync(directory)
    except OSError as error:
        raise SettingsError(f"the key cannot be written to {home}: {error.strerror or error}") from error
    return KeyInfo(fingerprint=name, place=str(place), signs=signs)


def _old_place(home: Path, key: bytes) -> Path:
    known = next(home.glob(f"{settings.KEY_FILE}.old-*-{fingerprint(key)}"), None)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return known or home / f"{settings.KEY_FILE}.old-{moment}-{fingerprint(key)}"


def _keep(own: Path, key: bytes) -> None:
    """Before it is replaced: at any moment the key is in one place at least."""
    place = _old_place(own.parent, key)
    if not place.exists():
        os.link(own, place)


@contextmanager
def _alone(home: Path) -> Iterator[int]:
    """Lock the keys, so that one process changes them at a time."""
    import fcntl

    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(directory)
