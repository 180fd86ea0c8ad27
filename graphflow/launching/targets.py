"""Finding a flow by its target: `file.py:flow`, `package.module:flow`, or a file with one flow."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

from graphflow.common.loading import LOADING, StopLoading
from graphflow.display.tracebacks import user_text
from graphflow.errors import TargetError

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow

__all__ = ["flows_of", "load_flow", "load_module"]


def load_flow(target: str) -> Flow[Any, Any]:
    """Return the flow that a target names.

    Raises
    ------
    TargetError
        If there is no such file or module, it cannot be imported, or it does not contain such a flow.
    """
    place, name = _split(target)
    return _pick(load_module(place), place, name)


def load_module(place: str, deployments: list[Any] | None = None) -> ModuleType:
    """Return the module of a file or of a name, loaded for its flows alone.

    Parameters
    ----------
    deployments
        What the code would deploy or serve is added to it; nothing is.

    Raises
    ------
    TargetError
        If there is none, or it cannot be imported.
    """
    token = LOADING.set([] if deployments is None else deployments)
    try:
        return _import_file(Path(place)) if _is_file(place) else _import_module(place)
    finally:
        LOADING.reset(token)


def _split(target: str) -> tuple[str, str | None]:
    place, colon, name = target.rpartition(":")
    if not colon:
        place, name = target, ""
    if not place or (colon and not name):
        raise TargetError(
            f"the target {target!r} is not of the form file.py:flow, package.module:flow, or file.py"
        )
    return place, name or None


def _is_flow(value: object) -> TypeGuard[Flow[Any, Any]]:
    from graphflow.authoring.flows import Flow  # here, as help and completion must not load the engine

    return isinstance(value, Flow)


def _is_file(place: str) -> bool:
    is_path = place.endswith(".py") or os.sep in place or place in (".", "..")
    return is_path or Path(place).is_file()


def _import_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise TargetError(f"{str(path)!r} is a folder; use a file in it, such as {path / 'flow.py'}:name")
    if not path.exists():
        raise TargetError(f"there is no file {str(path)!r}{_nearby_file(path)}")
    path = path.resolve()
    root, name = path.parent, path.stem
    while (root / "__init__.py").exists():  # a module of a package keeps its full name, for relative imports
        root, name = root.parent, f"{root.name}.{name}"
    _put_first_on_path(str(root))
    if name == path.stem:
        return _execute_file(path, _free_name(name, path))
    return _import_named(name, str(path))


def _execute_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{str(path)!r} is not a Python file; use a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except StopLoading:
        pass
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(str(path), error) from error
    return module


def _import_module(place: str) -> ModuleType:
    _put_first_on_path(os.getcwd())
    parts = place.split(".")
    if not all(part.isidentifier() for part in parts):
        raise TargetError(f"{place!r} is neither a file nor a module's name{_nearby_file(Path(place))}")
    try:
        found = importlib.util.find_spec(place)
    except ModuleNotFoundError as error:
        if error.name is None or not place.startswith(error.name):
            raise _import_failed(place, error) from error
        found = None
    except Exception as error:
        raise _import_failed(place, error) from error
    if found is None:
        hint = (
            f"; did you mean the file {place}.py?"
            if Path(f"{place}.py").is_file()
            else _nearby_file(Path(place))
        )
        raise TargetError(f"there is no module {place!r} on sys.path or in this folder{hint}")
    return _import_named(place, place)


def _import_named(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except StopLoading:
        raise TargetError(
            f"{place} begins to serve while it is imported; put that under `if __name__ == '__main__':`"
        ) from None
    except (Exception, SystemExit) as error:
        raise _import_failed(place, error) from error


def _import_failed(place: str, error: BaseException) -> TargetError:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        what += f" ({error.filename}, line {error.lineno})" if error.lineno and "line" not in what else ""
    frames = user_text(error)
    return TargetError(f"{place} cannot be imported: {what}" + (f"\n{frames}" if frames else ""))


def _pick(module: ModuleType, place: str, name: str | None) -> Flow[Any, Any]:
    flows = flows_of(module)
    if name is None:
        return _only(flows, place)
    found = getattr(module, name, None)
    if _is_flow(found):
        return found
    if not flows:
        raise TargetError(f"{place} contains no flow; decorate a function with @flow{_is_a(name, found)}")
    if found is not None:
        raise TargetError(f"{name!r} in {place} is {_kind(found)}, not a flow; flows there: {_listed(flows)}")
    hint = _did_you_mean(name, flows)
    raise TargetError(f"there is no flow {name!r} in {place}{hint}; flows there: {_listed(flows)}")


def _only(flows: dict[str, Flow[Any, Any]], place: str) -> Flow[Any, Any]:
    if len(flows) == 1:
        return next(iter(flows.values()))
    if not flows:
        raise TargetError(f"{place} contains no flow; decorate a function with @flow")
    first = next(iter(flows))
    raise TargetError(
        f"{place} contains {len(flows)} flows: {_listed(flows)}; choose one, such as {place}:{first}"
    )


def flows_of(module: ModuleType) -> dict[str, Flow[Any, Any]]:
    """Return the module's flows by name, each once: its own, or, if it has none, those it imported."""
    every: dict[str, Flow[Any, Any]] = {}
    for name, value in vars(module).items():
        if _is_flow(value) and not any(value is known for known in every.values()):
            every[name] = value
    own = {
        name: value
        for name, value in every.items()
        if getattr(value.fn, "__module__", module.__name__) == module.__name__
    }
    return own or every


def _free_name(stem: str, path: Path) -> str:
    """Return a module name for a file: its own, unless another module has it, as `queue.py` must not replace the library's."""
    try:
        spec = importlib.util.find_spec(stem) if stem.isidentifier() else None
    except (ImportError, ValueError):
        return f"{stem}_flow_file"
    origin = spec.origin if spec is not None else None
    is_own = origin is not None and os.path.exists(origin) and os.path.samefile(origin, path)
    if stem not in sys.modules and (spec is None or is_own) and stem.isidentifier():
        return stem
    return "".join(character if character.isalnum() else "_" for character in stem) + "_flow_file"


def _put_first_on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _nearby_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {str(folder)!r} either"
    names = [entry.name for entry in folder.iterdir() if entry.suffix == ".py"]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(folder / close[0])!r}?" if close else ""


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_a(name: str, found: object) -> str:
    return "" if found is None else f" ({name!r} is {_kind(found)})"


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name.lower()}"


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    shown = ", ".join(every[:10])
    return shown if len(every) <= 10 else f"{shown} and {len(every) - 10} more"
