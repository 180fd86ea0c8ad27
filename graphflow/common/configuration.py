"""Settings as pydantic-settings reads them, each with the place that it came from."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from graphflow.common import setting_sources as sources
from graphflow.common.setting_sources import BY_KEY, SETTINGS, Setting
from graphflow.errors import SettingsError

__all__ = ["Configuration", "Place", "active_profile", "checked", "known", "line_of", "load", "profiles_of"]

_SECTIONS = {key.partition(".")[0] for key in BY_KEY if "." in key}
_USES = {
    "text": "a text",
    "path": "the path of a folder",
    "flag": "'true' or 'false'",
    "count": "a positive integer",
    "seconds": "a positive number of seconds",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value came from: what it is called there, and the file and line if it is one."""

    kind: str
    name: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return self.name
        return f"{self.name} in {self.file}" + (f", line {self.line}" if self.line else "")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The value of every setting, and the places of those that are not defaults, by key."""

    values: Mapping[str, Any]
    places: Mapping[str, Place]
    profile: str | None


def load() -> Configuration:
    """Read all places.

    Raises
    ------
    SettingsError
        If a value is wrong or a setting is unknown, or a file cannot be read.
    """
    profile = active_profile()
    found = [(describe, _flat(read())) for describe, read in _sources(profile)]
    places: dict[str, Place] = {}
    values: dict[str, Any] = {}
    for describe, flat in found:
        for key, value in flat.items():
            if key not in places:
                places[key], values[key] = describe(key), value
    _refuse_unknown(places)
    _refuse_personal(places)
    try:
        model = _Settings(**_nested(values))
    except ValidationError as error:
        raise _refused(error, places, values) from None
    return Configuration(_flat_model(model), places, profile)


def checked(key: str, text: str) -> Any:
    """Return a text as the value of a setting.

    Raises
    ------
    SettingsError
        If the setting is unknown, or this is no value of it.
    """
    place = Place("flag", key)
    known(key)
    value: Any = _parsed_options(key, text) if BY_KEY[key].kind == "options" else text
    try:
        return _flat_model(_Settings(**_nested({key: value})))[key]
    except ValidationError as error:
        raise _refused(error, {key: place}, {key: text}) from None


def known(key: str) -> Setting:
    """Return a setting by its key.

    Raises
    ------
    SettingsError
        If there is none; the text says which one was probably meant.
    """
    _refuse_unknown({key: Place("flag", key)})
    return BY_KEY[key]


# -- the model ---------------------------------------------------------------------------------------------


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def _text_or_path(value: Any) -> Any:
    return os.fspath(value) if value is not None else None


_TYPES: dict[str, Any] = {
    "text": str | None,
    "path": Annotated[str | Path | None, AfterValidator(_text_or_path)],
    "flag": bool,
    "count": Annotated[int, Field(ge=1)],
    "seconds": Annotated[float, Field(gt=0), AfterValidator(_finite)],
    "options": dict[str, Any],
}


def _field(setting: Setting) -> Any:
    kind = setting.kind
    annotation = _TYPES[kind] if isinstance(kind, str) else Literal[kind]
    return annotation, Field(default=setting.default, description=setting.help)


def _sections() -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {}
    fields: dict[str, Any] = {}
    for setting in SETTINGS:
        section, _, name = setting.key.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = _field(setting)
        else:
            fields[name] = _field(setting)
    for section, members in sections.items():
        model = create_model(section.title(), __config__=ConfigDict(extra="forbid"), **members)
        fields[section] = model, Field(default_factory=model)
    return fields


class _Base(BaseSettings):
    """What reads nothing by itself: the sources are read one by one, so that each value has its place."""

    model_config = SettingsConfigDict(
        env_prefix="GRAPHFLOW_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


_Settings: type[BaseSettings] = create_model("Settings", __base__=_Base, **_sections())


# -- sources -----------------------------------------------------------------------------------------------

_Describe = Callable[[str], Place]
_Read = Callable[[], Mapping[str, Any]]


def _sources(profile: str | None) -> list[tuple[_Describe, _Read]]:
    """Return where settings are looked for, first one first."""
    found: list[tuple[_Describe, _Read]] = [
        (lambda key: Place("python", f"settings({key.replace('.', '__')}=...)"), _read_overrides),
        (
            lambda key: Place(
                "environment",
                BY_KEY[key].new_variable if key in BY_KEY else f"GRAPHFLOW_{key.upper().replace('.', '__')}",
            ),
            _read_environment,
        ),
        (lambda key: Place("environment", BY_KEY[key].variable), _read_variables),
    ]
    for file, _ in sources.config_files():
        header: tuple[str, ...] = ()
        kind = "project"
        if os.path.basename(file) == "pyproject.toml":
            header = ("tool", "graphflow")
        elif file == sources.user_file():
            kind = "profile"
            if profile is None:
                continue
            header = ("profiles", profile)
        found.append((_in_file(kind, file, header), _reader(file, header)))
    return found


def _read_overrides() -> Mapping[str, Any]:
    return InitSettingsSource(_Settings, _nested(sources.overrides()))()


def _read_environment() -> Mapping[str, Any]:
    options = tuple(each.new_variable for each in SETTINGS if each.kind == "options")
    unknown = [name for name in sources.unknown_variables() if not name.startswith(options)]
    if unknown:
        names = [each.new_variable for each in SETTINGS]
        raise SettingsError(f"unknown setting {unknown[0]}{_did_you_mean(unknown[0], names)}")
    try:
        return EnvSettingsSource(_Settings)()
    except SourceError:
        raise SettingsError(_no_object(options[0])) from None


def _read_variables() -> Mapping[str, Any]:
    """Read the names of before there were sections."""
    found: dict[str, Any] = {}
    for each in SETTINGS:
        text = os.environ.get(each.variable)
        if text:
            found[each.key] = _parsed_options(each.variable, text) if each.kind == "options" else text
    return _nested(found)


def _parsed_options(name: str, text: str) -> Any:
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise SettingsError(_no_object(name))
    return options


def _no_object(name: str) -> str:
    return f'{name} is not a JSON object; use, for example, {{"endpoint_url": "https://storage.example.com"}}'


def _in_file(kind: str, file: str, header: tuple[str, ...]) -> _Describe:
    return lambda key: Place(kind, key, file, line_of(file, ".".join((*header, key))))


def _reader(file: str, header: tuple[str, ...]) -> _Read:
    def read() -> Mapping[str, Any]:
        try:
            found = TomlConfigSettingsSource(_Settings, toml_file=file, toml_table_header=header)()
            return {name: value for name, value in found.items() if name not in sources.DEPLOYED}
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from None

    return read


def profiles_of(file: str) -> tuple[dict[str, Any], str | None]:
    """Return the profiles of the user's file and the name of the active one.

    Raises
    ------
    SettingsError
        If the file cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            document = tomllib.load(opened)
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
    unknown = sorted(document.keys() - {"active", "profiles"})
    if unknown:
        raise SettingsError(
            f"{file} has an unknown entry {unknown[0]!r}; settings stand in a profile: [profiles.default]"
        )
    return document.get("profiles", {}), document.get("active")


def active_profile() -> str | None:
    """Return the name of the profile in force: the environment's, else the file's, else `default` if there is one.

    Raises
    ------
    SettingsError
        If there is no such profile.
    """
    profiles, active = profiles_of(sources.user_file())
    asked = os.environ.get("GRAPHFLOW_PROFILE")
    name = asked or active
    if name is None:
        return "default" if "default" in profiles else None
    if name not in profiles:
        where = "GRAPHFLOW_PROFILE names" if asked else f"{sources.user_file()} names as active"
        raise SettingsError(
            f"there is no profile {name!r}, which {where}{_did_you_mean(name, profiles)}; create it: graphflow config profile create {name}"
        )
    return name


def line_of(file: str, dotted: str) -> int | None:
    """Return the line of a key of a TOML file, from 1; of its table if the key is not on a line of its own."""
    table = ""
    found: int | None = None
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*\[\s*([\w.\"' -]+?)\s*\]", line):
            table = re.sub(r"[\"' ]", "", header[1])
            if dotted == table:
                return number
            if dotted.startswith(f"{table}."):
                found = number
        elif entry := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            name = re.sub(r"[\"' ]", "", entry[1])
            whole = f"{table}.{name}" if table else name
            if whole == dotted:
                return number
            if dotted.startswith(f"{whole}."):
                found = number
    return found


# -- shapes and errors -------------------------------------------------------------------------------------


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of nested sections by key."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if name in _SECTIONS and isinstance(value, Mapping):
            flat |= {f"{name}.{each}": its for each, its in value.items()}
        else:
            flat[name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _flat_model(model: BaseModel) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in SETTINGS:
        section, _, name = each.key.rpartition(".")
        values[each.key] = getattr(getattr(model, section) if section else model, name)
    return values


def _refuse_personal(places: Mapping[str, Place]) -> None:
    for key, place in places.items():
        if place.kind == "project" and BY_KEY[key].is_personal:
            # A project's file could send the token of a user to any server.
            raise SettingsError(
                f"{place} is not a setting of a project; set it in your own file: graphflow config set {key} VALUE"
            )


def _refuse_unknown(places: Mapping[str, Place]) -> None:
    for key, place in places.items():
        if key in _SECTIONS:
            raise SettingsError(f"{place} is not a table of settings; use, for example, [{key}]")
        if key not in BY_KEY:
            names = {
                each.new_variable if place.kind == "environment" else each.key: each for each in SETTINGS
            }
            given = place.name if place.kind == "environment" else key
            raise SettingsError(f"unknown setting {place}{_did_you_mean(given, names)}")


def _refused(error: ValidationError, places: Mapping[str, Place], values: Mapping[str, Any]) -> SettingsError:
    loc = error.errors()[0]["loc"]
    key = next((each for each in (".".join(map(str, loc[:2])), str(loc[0])) if each in BY_KEY), str(loc[0]))
    place = places.get(key, Place("python", key))
    setting = BY_KEY[key]
    if setting.kind == "options":
        if place.file is None:
            return SettingsError(_no_object(str(place)))
        return SettingsError(f"{place} is not a table")
    if isinstance(setting.kind, tuple):
        *others, last = map(repr, setting.kind)
        use = f"{', '.join(others)} or {last}"
    else:
        use = _USES[setting.kind]
    return SettingsError(f"{place} is {values.get(key)!r}; use {use}")


def _did_you_mean(given: str, names: Any) -> str:
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0.6)
    if not close and "." in given:
        last = given.rpartition(".")[2]
        close = [name for name in names if name.rpartition(".")[2] == last]
    return f"; did you mean {close[0]}?" if close else "; list them with: graphflow config show"
