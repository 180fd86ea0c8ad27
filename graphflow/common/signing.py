"""Care for the keys that histories and results are signed with: which there are, a new one, one of another machine.

The newest signs; older ones stay beside it, so that what they signed is still believed. Keys never leave the home by
themselves, and nothing here shows one unless it is exported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from graphflow.common import settings
from graphflow.errors import SettingsError

__all__ = ["KeyInfo", "export_key", "fingerprint", "import_key", "known_keys", "rotate_key"]


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
                _write(own, key)
                place = own
            else:
                place = _old_place(home, key)
                if not place.exists():
                    _write(place, key)
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


def _write(place: Path, key: bytes) -> None:
    temporary = place.with_name(f".{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            os.write(descriptor, key)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
