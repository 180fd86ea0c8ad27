"""Deploying by targets and files: what needs to load a flow before it can be stored."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graphflow.authoring.deployments import Deployment
from graphflow.common.setting_sources import DEPLOYED
from graphflow.errors import DeploymentError, ParameterError, TaskOptionError
from graphflow.launching.targets import flows_of, load_flow, load_module
from graphflow.model import deployed
from graphflow.model.automated import Automation, Hook, automation_of, hook_of
from graphflow.model.map_options import parse_rate
from graphflow.model.sourced import Source
from graphflow.orchestration.notifying import check_addresses
from graphflow.orchestration.sources import source_of_target
from graphflow.orchestration.stores.opening import Stores

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow

__all__ = ["Change", "ChangePlan", "carry_out", "deployments_of", "flow_and_source", "plan_of"]

DEFAULT_FILE = "graphflow.toml"
_POOL_OPTIONS = ("size", "paused", "backend", "env")
_M = TypeVar("_M", Automation, Hook)
_NAMES = {
    "pool": "work_pool_name",
    "queue": "work_queue_name",
    "concurrency": "concurrency_limit",
    "key": "concurrency_key",
}
"""Short names of options, as the command line has them."""


def flow_and_source(target: str) -> tuple[Flow[Any, Any], Source]:
    """Return the flow of a target, and where its code is.

    Raises
    ------
    TargetError, DeploymentError
        If there is none, or it cannot be deployed from there.
    """
    if target.startswith(("git+", "git@", "http://", "https://", "ssh://")) or target.endswith(".zip"):
        source_of_target(target, None, load_flow)
    flow = load_flow(target)
    return flow, source_of_target(target, flow, flow.fn)


def deployments_of(file: str) -> list[Deployment]:
    """Return what a file deploys or serves; where it does neither, a deployment of each of its flows, named as the file.

    Raises
    ------
    TargetError
        If it cannot be loaded, or has no flow.
    """
    place, colon, _ = file.rpartition(":")
    found: list[Deployment] = []
    if colon:
        flow = load_flow(file)
        return [flow.to_deployment(Path(place).stem)]
    module = load_module(file, found)
    found += [each for each in vars(module).values() if isinstance(each, Deployment)]
    unique = {each.full_name: each for each in found}
    if unique:
        return list(unique.values())
    flows = flows_of(module)
    if not flows:
        # It says what to do.
        load_flow(file)
    return [flow.to_deployment(Path(file).stem) for flow in flows.values()]


# -- graphflow.toml -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of a plan; `fields` has what it was and will be, by name."""

    verb: str
    """`add`, `change` or `remove`."""
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]]
    model: deployed.Deployment | Automation | Hook | Mapping[str, Any] | None = None

    def text(self) -> str:
        """Return it for people."""
        sign = {"add": "+", "change": "~", "remove": "-"}[self.verb]
        lines = [f"{sign} {self.kind} {self.name}"]
        if self.verb == "change":
            lines += [f"    {name}: {before!r} -> {after!r}" for name, (before, after) in self.fields.items()]
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        fields = {name: {"before": before, "after": after} for name, (before, after) in self.fields.items()}
        return {"change": self.verb, "kind": self.kind, "name": self.name, "fields": fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """What makes a home what a file says."""

    file: Path
    changes: tuple[Change, ...]


def plan_of(stores: Stores, file: str | None) -> ChangePlan:
    """Return what has to change so that a home is what a file says; nothing is changed.

    Raises
    ------
    DeploymentError
        If the file is missing, no TOML, or says something unknown.
    """
    path, said = _read(file)
    # Addresses stay in the file: they often have passwords in them.
    check_addresses(said.get("notifications", {}))
    changes = [
        *_pool_changes(stores, said.get("pools", {})),
        *_limit_changes(stores, said.get("limits", {})),
        *_rate_changes(stores, said.get("rates", {})),
        *_deployment_changes(stores, path, said),
        *_automation_changes(stores, path, said.get("automations", {})),
        *_hook_changes(stores, path, said.get("hooks", {})),
    ]
    return ChangePlan(file=path, changes=tuple(changes))


def carry_out(stores: Stores, plan: ChangePlan) -> None:
    """Do what a plan says."""
    for change in plan.changes:
        match change.model:
            case deployed.Deployment() as model:
                stores.plans.put(model)
            case Automation() as model:
                stores.rules.put(model, made_by=str(plan.file))
            case Hook() as model:
                stores.hooks.put(model, made_by=str(plan.file))
            case None if change.kind == "automation":
                stores.rules.remove(change.name)
            case None if change.kind == "hook":
                stores.hooks.remove(change.name)
            case None:
                stores.plans.remove(change.name)
            case options if change.kind == "limit":
                stores.limits.set(change.name, **options)
            case options if change.kind == "rate":
                stores.limits.set_rate(change.name, **options)
            case options:
                stores.pools.ensure(change.name)
                stores.pools.change(change.name, **options)


def _read(file: str | None) -> tuple[Path, dict[str, Any]]:
    candidates = [Path(file)] if file is not None else [Path(DEFAULT_FILE), Path("pyproject.toml")]
    path = next((each for each in candidates if each.is_file()), None)
    if path is None:
        raise DeploymentError(
            f"there is no file {candidates[0]}; name one, or make it. It has [deployments.NAME] with flow = ..."
        )
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DeploymentError(f"{path} cannot be read: {error}") from None
    if path.name == "pyproject.toml":
        said = said.get("tool", {}).get("graphflow", {})
    # The same file has settings.
    return path.resolve(), {name: value for name, value in said.items() if name in DEPLOYED}


def _pool_changes(stores: Stores, said: Mapping[str, Any]) -> list[Change]:
    known = {each.name: each for each in stores.pools.all()}
    changes = []
    for name, options in said.items():
        for option in options:
            if option not in _POOL_OPTIONS:
                raise DeploymentError(
                    f"the pool {name} has no option {option!r}; it takes {', '.join(_POOL_OPTIONS)}"
                )
        wanted = {("is_paused" if option == "paused" else option): value for option, value in options.items()}
        pool = known.get(name)
        before = {option: None if pool is None else getattr(pool, option) for option in wanted}
        fields = {
            option: (before[option], value) for option, value in wanted.items() if before[option] != value
        }
        if pool is None or fields:
            verb = "add" if pool is None else "change"
            changes.append(Change(verb=verb, kind="pool", name=name, fields=fields, model=wanted))
    return changes


def _limit_changes(stores: Stores, said: Mapping[str, Any]) -> list[Change]:
    known: dict[str, Any] = {each.name: {"size": each.size} for each in stores.limits.all()}
    for name, size in said.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise DeploymentError(
                f"[limits]: {name} = {size!r} is not a number of slots; use {name} = 20, 0 or more"
            )
    return _named_changes("limit", known, {name: {"size": size} for name, size in said.items()})


def _rate_changes(stores: Stores, said: Mapping[str, Any]) -> list[Change]:
    known: dict[str, Any] = {
        each.name: {"per_second": each.per_second, "burst": each.burst} for each in stores.limits.rates()
    }
    wanted: dict[str, Any] = {}
    for name, given in said.items():
        options = given if isinstance(given, dict) else {"rate": given}
        burst = options.get("burst", 1)
        if not options.keys() <= {"rate", "burst"} or isinstance(burst, bool) or not isinstance(burst, int):
            raise DeploymentError(
                f'[rates]: {name} = {given!r}; use {name} = "50/s", or {name} = {{ rate = "50/s", burst = 10 }}'
            )
        try:
            per_second = parse_rate(f"[rates]: {name}", options.get("rate"))
        except TaskOptionError as error:
            raise DeploymentError(str(error)) from None
        if per_second is None or burst < 1:
            raise DeploymentError(f'[rates]: {name} = {given!r} has no rate; use {name} = "50/s"')
        wanted[name] = {"per_second": per_second, "burst": burst}
    return _named_changes("rate", known, wanted)


def _named_changes(
    kind: str, known: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> list[Change]:
    """Return what is to be added or changed; what a file leaves out stays, since others may have set it."""
    changes = []
    for name, after in wanted.items():
        before = known.get(name, {})
        fields = {of: (before.get(of), value) for of, value in after.items() if before.get(of) != value}
        if fields:
            verb = "change" if before else "add"
            changes.append(Change(verb=verb, kind=kind, name=name, fields=fields, model=after))
    return changes


def _deployment_changes(stores: Stores, path: Path, said: Mapping[str, Any]) -> list[Change]:
    known = {each.deployment.full_name: each.deployment for each in stores.plans.all()}
    changes, kept = [], set()
    for name, options in said.get("deployments", {}).items():
        model = _model_of(path, name, options)
        kept.add(model.full_name)
        before = known.get(model.full_name)
        fields = _differences(before, model)
        if before is None or fields:
            verb = "add" if before is None else "change"
            changes.append(
                Change(verb=verb, kind="deployment", name=model.full_name, fields=fields, model=model)
            )
    for full_name, deployment in known.items():
        if deployment.made_by == str(path) and full_name not in kept:
            changes.append(Change(verb="remove", kind="deployment", name=full_name, fields={}))
    return changes


def _automation_changes(stores: Stores, path: Path, said: Mapping[str, Any]) -> list[Change]:
    models = {name: automation_of(name, options) for name, options in said.items()}
    known = {each.automation.name: (each.automation, each.made_by) for each in stores.rules.all()}
    return _changes_of("automation", path, models, known)


def _hook_changes(stores: Stores, path: Path, said: Mapping[str, Any]) -> list[Change]:
    models = {name: hook_of(name, options) for name, options in said.items()}
    known = {each.name: (each, made_by) for each, made_by in stores.hooks.all()}
    return _changes_of("hook", path, models, known)


def _changes_of(
    kind: str, path: Path, models: Mapping[str, _M], known: Mapping[str, tuple[_M, str]]
) -> list[Change]:
    changes = []
    for name, model in models.items():
        before, made_by = known.get(name, (None, ""))
        old = {} if before is None else {**before.model_dump(mode="json"), "made_by": made_by}
        new = {**model.model_dump(mode="json"), "made_by": str(path)}
        fields = {each: (old.get(each), value) for each, value in new.items() if old.get(each) != value}
        if fields:
            verb = "add" if before is None else "change"
            changes.append(Change(verb=verb, kind=kind, name=name, fields=fields, model=model))
    for name, (_, made_by) in known.items():
        if made_by == str(path) and name not in models:
            changes.append(Change(verb="remove", kind=kind, name=name, fields={}))
    return changes


def _model_of(path: Path, name: str, options: Mapping[str, Any]) -> deployed.Deployment:
    given = {_NAMES.get(option, option): value for option, value in options.items()}
    target = given.pop("flow", None)
    if not isinstance(target, str):
        raise DeploymentError(f'{path}: [deployments.{name}] has no flow; use flow = "file.py:flow"')
    if ".py" in target and not Path(target).is_absolute():
        target = str(path.parent / target)
    flow, source = flow_and_source(target)
    try:
        made = Deployment.build_from_flow(flow, name, source=source, made_by=str(path), **given)  # type: ignore[call-arg,unused-ignore]
    except (DeploymentError, ParameterError, ValueError) as error:
        raise DeploymentError(f"{path}: [deployments.{name}]: {error}") from error
    return made.model


def _differences(
    before: deployed.Deployment | None, after: deployed.Deployment
) -> dict[str, tuple[Any, Any]]:
    old = {} if before is None else _document(before)
    new = _document(after)
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value}


def _document(model: deployed.Deployment) -> dict[str, Any]:
    named = sorted(model.named_schedules(), key=lambda each: each.slug)
    found: dict[str, Any] = model.model_copy(update={"schedules": tuple(named)}).model_dump(mode="json")
    return found
