"""`graphflow config`: show and change settings, with the place that each came from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from graphflow.cli.documents import dumped
from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import OutputFormat, write_data
from graphflow.common import settings
from graphflow.common.config_file import set_in_file
from graphflow.display.consoles import make_console
from graphflow.errors import SettingsError

if TYPE_CHECKING:
    from graphflow.common.configuration import Configuration

__all__ = ["config"]

config = typer.Typer(help="Show and change settings.", no_args_is_help=True, rich_markup_mode=None)
profile = typer.Typer(
    help="List, create and choose profiles of settings.", no_args_is_help=True, rich_markup_mode=None
)
config.add_typer(profile, name="profile")

Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="Output format.")]


def _settings_of(incomplete: str) -> list[tuple[str, str]]:
    return [(each.key, each.help) for each in settings.SETTINGS if each.key.startswith(incomplete)]


Key = Annotated[
    str,
    typer.Argument(metavar="SETTING", help="Such as runs.lease_seconds.", autocompletion=_settings_of),
]


@config.command()
def show(
    sources: Annotated[
        bool,
        typer.Option("--sources", help="Show where each value came from: a file and line, or a variable."),
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the settings in force. What may be secret is shown as ***."""
    with errors_become_exit_codes():
        found = _load()
    if output is OutputFormat.JSON:
        write_data(dumped(_document(found), indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    if sources:
        table.add_column("source", overflow="fold")
    for each in settings.SETTINGS:
        place = found.places.get(each.key)
        value = Text(_text(_masked(each, found.values[each.key])))
        table.add_row(each.key, value, *([Text(str(place or "default"))] if sources else []))
    make_console(stdout=True).print(table)


@config.command()
def get(key: Key, output: Output = OutputFormat.TABLE) -> None:
    """Print the value of a setting."""
    with errors_become_exit_codes():
        found = _load()
        setting = _known(key)
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.setting/1", **_entry(found, setting)}, indent=2))
    else:
        write_data(_text(_masked(setting, found.values[key])))


@config.command("set")
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The value; of options, a JSON object.")],
    project: Annotated[
        bool, typer.Option("--project", help="In the nearest graphflow.toml, or a new one in this folder.")
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Set a setting in the active profile of your own file, or in the project's."""
    from graphflow.common.configuration import checked

    with errors_become_exit_codes():
        typed = checked(key, value)
        section, _, name = key.rpartition(".")
        table = [section] if section else []
        if project and _known(key).is_personal:
            raise SettingsError(f"{key} is not a setting of a project; leave out --project")
        if project:
            file = Path(next(iter(_project_files()), os.path.join(os.getcwd(), settings.PROJECT_FILE)))
        else:
            file = Path(settings.user_file())
            table = ["profiles", _active() or "default", *table]
        set_in_file(file, table, name, typed)
        found = _load()
        document = {"schema": "graphflow.setting/1", **_entry(found, _known(key))}
    if output is OutputFormat.JSON:
        write_data(dumped(document, indent=2))
        return
    write_data(f"{key} is set in {file}")
    place = found.places.get(key)
    if place is None or place.file is None or Path(place.file).resolve() != file.resolve():
        make_console().print(f"another value is in force, from {place}", markup=False, soft_wrap=True)


@config.command()
def path(output: Output = OutputFormat.TABLE) -> None:
    """Print the files that settings are read from, first one first, and your own file."""
    files = [file for file, _ in settings.config_files()]
    own = settings.user_file()
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.config_files/1", "files": files, "user_file": own}, indent=2))
        return
    for file in files if own in files else [*files, own]:
        write_data(file)


@profile.command("ls")
def profile_ls(output: Output = OutputFormat.TABLE) -> None:
    """List the profiles; the active one is marked."""
    from graphflow.common.configuration import profiles_of

    with errors_become_exit_codes():
        profiles, _ = profiles_of(settings.user_file())
        active = _active()
    if output is OutputFormat.JSON:
        document = {"schema": "graphflow.profiles/1", "active": active, "profiles": sorted(profiles)}
        write_data(dumped(document, indent=2))
        return
    for name in sorted(profiles):
        write_data(f"{'*' if name == active else ' '} {name}")


@profile.command("create")
def profile_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")],
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create an empty profile in your own file."""
    from graphflow.common.configuration import profiles_of

    with errors_become_exit_codes():
        profiles, _ = profiles_of(settings.user_file())
        if name in profiles:
            raise SettingsError(f"there is a profile {name!r} already in {settings.user_file()}")
        set_in_file(Path(settings.user_file()), ["profiles", name], None, None)
    _tell_profile(name, f"profile {name!r} is in {settings.user_file()}", output)


def _profiles_named(incomplete: str) -> list[str]:
    from graphflow.common.configuration import profiles_of

    try:
        return [name for name in profiles_of(settings.user_file())[0] if name.startswith(incomplete)]
    except SettingsError:
        return []


@profile.command("use")
def profile_use(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The profile's name.", autocompletion=_profiles_named)
    ],
    output: Output = OutputFormat.TABLE,
) -> None:
    """Choose the active profile."""
    from graphflow.common.configuration import profiles_of

    with errors_become_exit_codes():
        profiles, _ = profiles_of(settings.user_file())
        if name not in profiles:
            raise SettingsError(
                f"there is no profile {name!r} in {settings.user_file()}; create it: graphflow config profile create {name}"
            )
        set_in_file(Path(settings.user_file()), [], "active", name)
    _tell_profile(name, f"profile {name!r} is active", output)
    asked = os.environ.get("GRAPHFLOW_PROFILE")
    if asked and asked != name:
        make_console().print(f"but GRAPHFLOW_PROFILE names {asked!r}", markup=False, soft_wrap=True)


def _tell_profile(name: str, text: str, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.profile/1", "name": name}, indent=2))
    else:
        write_data(text)


def _load() -> Configuration:
    # pydantic takes longer to import than help takes to print.
    from graphflow.common.configuration import load

    return load()


def _active() -> str | None:
    from graphflow.common.configuration import active_profile

    return active_profile()


def _known(key: str) -> settings.Setting:
    from graphflow.common.configuration import known

    return known(key)


def _project_files() -> list[str]:
    return [file for file, _ in settings.config_files() if os.path.basename(file) == settings.PROJECT_FILE]


def _document(found: Configuration) -> dict[str, Any]:
    return {
        "schema": "graphflow.settings/1",
        "profile": found.profile,
        "settings": [_entry(found, each) for each in settings.SETTINGS],
    }


def _entry(found: Configuration, setting: settings.Setting) -> dict[str, Any]:
    place = found.places.get(setting.key)
    return {
        "key": setting.key,
        "value": _masked(setting, found.values[setting.key]),
        "is_default": place is None,
        "source": "default" if place is None else place.kind,
        "name": None if place is None else place.name,
        "file": None if place is None else place.file,
        "line": None if place is None else place.line,
    }


def _masked(setting: settings.Setting, value: Any) -> Any:
    """Return what stands for a value on the terminal; for none, what is used then."""
    if value is None:
        value = {
            "home": str(settings.home()),
            "results.storage": str(settings.home() / "results"),
            "runs.backend": "local",
        }.get(setting.key)
    if setting.is_secret and value:
        return "***"
    return settings.without_user(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
