"""What settings there are, and the places that they are looked for in; nothing heavy is loaded here."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BY_KEY",
    "NOTIFICATIONS",
    "OVERRIDES",
    "PROJECT_FILE",
    "SETTINGS",
    "Setting",
    "config_files",
    "given_in_environment",
    "overrides",
    "own_variables",
    "unknown_variables",
    "user_file",
]

PROJECT_FILE = "graphflow.toml"
DEPLOYED = frozenset({"automations", "deployments", "hooks", "limits", "notifications", "pools", "rates"})
"""Sections of the same file that are no settings: `graphflow deploy apply` and what sends notifications read them."""
NOTIFICATIONS = "GRAPHFLOW_NOTIFICATIONS__"
"""What the variables of addresses begin with; their names follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: `section.name`, its environment variable, what it may be, and its default.

    `kind` is a tuple of choices, or one of `text`, `path`, `flag`, `count`, `seconds` and `options` (a mapping). An empty
    environment variable is none.
    """

    key: str
    variable: str
    kind: tuple[str, ...] | str
    default: Any
    help: str
    is_secret: bool = False
    is_personal: bool = False
    """Whether it may not stand in a project's file, which comes with code of others."""

    @property
    def new_variable(self) -> str:
        """The variable that its section and name make, such as `GRAPHFLOW_RUNS__LEASE_SECONDS`."""
        return "GRAPHFLOW_" + self.key.upper().replace(".", "__")


SETTINGS = (
    Setting(
        key="home",
        variable="GRAPHFLOW_HOME",
        kind="path",
        default=None,
        help="The folder of histories and results; by default the user's data folder.",
    ),
    Setting(
        key="runs.backend",
        variable="GRAPHFLOW_BACKEND",
        kind="text",
        default=None,
        help="Where flows run that name no backend: local, threads:8, processes:4, inline, an address.",
    ),
    Setting(
        key="runs.history",
        variable="GRAPHFLOW_HISTORY",
        kind=("disk", "memory"),
        default="disk",
        help="Where runs are recorded; memory leaves nothing behind.",
    ),
    Setting(
        key="runs.lease_seconds",
        variable="GRAPHFLOW_LEASE_SECONDS",
        kind="seconds",
        default=30.0,
        help="How long a driver keeps its run without renewing its lease.",
    ),
    Setting(
        key="runs.max_depth",
        variable="GRAPHFLOW_MAX_DEPTH",
        kind="count",
        default=10_000,
        help="How deep tasks that return calls of tasks may be nested.",
    ),
    Setting(
        key="workers.timeout_seconds",
        variable="GRAPHFLOW_WORKER_TIMEOUT_SECONDS",
        kind="seconds",
        default=60.0,
        help="The silence after which a worker is taken for lost, and what runs there goes to others.",
    ),
    Setting(
        key="workers.wait_seconds",
        variable="GRAPHFLOW_WAIT_FOR_WORKERS_SECONDS",
        kind="seconds",
        default=60.0,
        help="How long a run waits where there are no workers.",
    ),
    Setting(
        key="cache.refresh",
        variable="GRAPHFLOW_REFRESH_CACHE",
        kind="flag",
        default=False,
        help="Whether to recompute cached results.",
    ),
    Setting(
        key="cache.compact",
        variable="GRAPHFLOW_COMPACT_CACHE",
        kind="flag",
        default=True,
        help="Whether a run puts many small objects of its tasks' caches together at its end.",
    ),
    Setting(
        key="results.storage",
        variable="GRAPHFLOW_RESULT_STORAGE",
        kind="text",
        default=None,
        help="The URL or folder of results and the cache; by default results in the home.",
    ),
    Setting(
        key="results.storage_options",
        variable="GRAPHFLOW_RESULT_STORAGE_OPTIONS",
        kind="options",
        default={},
        help="Options of fsspec's file system; may contain credentials.",
        is_secret=True,
    ),
    Setting(
        key="store.attempts",
        variable="GRAPHFLOW_STORE_ATTEMPTS",
        kind="count",
        default=6,
        help="The total attempts of a request to a remote store.",
    ),
    Setting(
        key="store.retry_seconds",
        variable="GRAPHFLOW_STORE_RETRY_SECONDS",
        kind="seconds",
        default=60.0,
        help="The time after which no further attempt starts.",
    ),
    Setting(
        key="store.timeout_seconds",
        variable="GRAPHFLOW_STORE_TIMEOUT_SECONDS",
        kind="seconds",
        default=30.0,
        help="The time limit of one attempt, plus a second per MiB.",
    ),
    Setting(
        key="server.url",
        variable="GRAPHFLOW_SERVER_URL",
        kind="text",
        default=None,
        help="Where people reach `graphflow serve`, such as https://flows.example.org; links in notifications begin with it.",
    ),
    Setting(
        key="api.url",
        variable="GRAPHFLOW_API_URL",
        kind="text",
        default=None,
        help="The server that commands and graphflow.connect() ask instead of the home here; not in a project's file.",
        is_personal=True,
    ),
    Setting(
        key="api.token",
        variable="GRAPHFLOW_API_TOKEN",
        kind="text",
        default=None,
        help="What that server is asked with; not in a project's file.",
        is_secret=True,
        is_personal=True,
    ),
    Setting(
        key="display.progress",
        variable="GRAPHFLOW_PROGRESS",
        kind=("auto", "live", "plain", "off"),
        default="auto",
        help="How scripts show their runs.",
    ),
    Setting(
        key="display.tracebacks",
        variable="GRAPHFLOW_TRACEBACKS",
        kind=("user", "full"),
        default="user",
        help="Whether tracebacks on the terminal have your own frames alone.",
    ),
)
BY_KEY = {each.key: each for each in SETTINGS}
_VARIABLES = tuple((each, name) for each in SETTINGS for name in (each.new_variable, each.variable))
_NEW_VARIABLES = frozenset(each.new_variable for each in SETTINGS)
OVERRIDES: list[Mapping[str, Any]] = []
"""What blocks of `settings` have changed, outermost first; the last one has what those before it changed too."""


def overrides() -> Mapping[str, Any]:
    """Return what blocks of `settings` have changed, by key."""
    return OVERRIDES[-1] if OVERRIDES else {}


def own_variables() -> dict[str, str]:
    """Return the environment's variables of graphflow. A run asks for its settings a dozen times: one pass."""
    return {name: os.environ[name] for name in os.environ if name.startswith("GRAPHFLOW_")}


def given_in_environment(own: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Return the name and text of each setting that the environment gives, by key.

    Parameters
    ----------
    own
        What `own_variables` returned just now; None to ask it.
    """
    own = own_variables() if own is None else own
    found: dict[str, tuple[str, str]] = {}
    for setting, name in _VARIABLES if own else ():
        text = own.get(name)
        if text and setting.key not in found:
            found[setting.key] = name, text
    return found


def unknown_variables(own: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return variables that look like settings of a section and are none; `own` as for `given_in_environment`."""
    own = own_variables() if own is None else own
    return tuple(
        name
        for name in own
        if "__" in name and name not in _NEW_VARIABLES and not name.startswith(NOTIFICATIONS)
    )


# -- files -------------------------------------------------------------------------------------------------


def config_files() -> tuple[tuple[str, tuple[int, int]], ...]:
    """Return the files that settings are read from, nearest first, each with the time of its last change and its size.

    The nearest `graphflow.toml` from the working folder upwards, the nearest `pyproject.toml` that has a section
    `[tool.graphflow]`, and the user's own file.
    """
    found: list[tuple[str, tuple[int, int]]] = []
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        folder = ""
    for name in (PROJECT_FILE, "pyproject.toml"):
        place = folder
        while place:
            path = os.path.join(place, name)
            changed = _changed(path)
            if changed is not None and (name == PROJECT_FILE or _has_section(path, changed)):
                found.append((path, changed))
                break
            above = os.path.dirname(place)
            place = above if above != place else ""
    own = user_file()
    changed = _changed(own)
    if changed is not None:
        found.append((own, changed))
    return tuple(found)


def user_file() -> str:
    """Return the path of the user's own file: `GRAPHFLOW_CONFIG_FILE`, else `config.toml` in the user's config folder."""
    given = os.environ.get("GRAPHFLOW_CONFIG_FILE")
    return os.path.abspath(os.path.expanduser(given)) if given else _default_user_file()


@functools.cache
def _default_user_file() -> str:
    import platformdirs

    return os.path.join(platformdirs.user_config_dir("graphflow", appauthor=False), "config.toml")


def _changed(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size
    except OSError:
        return None


@functools.lru_cache(maxsize=64)
def _has_section(path: str, changed: tuple[int, int]) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "[tool.graphflow" in file.read()
    except OSError:
        return False
