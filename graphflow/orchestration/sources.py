"""Where the code of a flow is: found from the flow when it is deployed, and compared when it runs."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from graphflow.common import settings
from graphflow.common.functions import plain_function
from graphflow.errors import DeploymentError, EnvironmentMismatch
from graphflow.model.deployed import Source
from graphflow.results.packs.single import keep, restore
from graphflow.results.stores.opening import open_store

__all__ = ["digest_of", "restored", "source_of", "source_of_target"]

CODE_FOLDER = "code"


def source_of(flow: Any, fn: Callable[..., Any]) -> Source:
    """Return where the code of a flow is: its file, the module that is installed, or else a pickle of it.

    Raises
    ------
    DeploymentError
        If the flow is no name of its file or module, or cannot be pickled.
    """
    plain = plain_function(fn)
    module = sys.modules.get(getattr(plain, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    name = None if module is None else _name_in(module, flow)
    if file is None or module is None or not Path(file).is_file():
        return _pickled(flow, fn.__name__)
    if name is None:
        raise DeploymentError(
            f"the flow {fn.__name__} cannot be deployed from {file}: no name of that module is this flow. Define it at the top of the"
            " file, and not inside a function"
        )
    if module.__name__ != "__main__" and "site-packages" in Path(file).parts:
        return Source(
            kind="module", place=f"{module.__name__}:{name}", version=_distribution_version(module.__name__)
        )
    path = Path(file).resolve()
    return Source(kind="file", place=f"{path}:{name}", version=digest_of(path))


def source_of_target(target: str, flow: Any, fn: Callable[..., Any]) -> Source:
    """Return the source that a target of the command line names.

    Raises
    ------
    DeploymentError
        If it is a kind of source that is not supported.
    """
    if target.startswith(("git+", "git@", "http://", "https://", "ssh://")) or target.endswith(".zip"):
        raise DeploymentError(
            f"the source {target!r} cannot be deployed: code from git and bundles are not supported yet; clone it, and use"
            " file.py:flow, or install it, and use package.module:flow"
        )
    place = target.rpartition(":")[0] or target
    if place.endswith(".py") or "/" in place:
        return source_of(flow, fn)
    module = sys.modules[place]
    name = _name_in(module, flow)
    return Source(kind="module", place=f"{place}:{name}", version=_distribution_version(place))


def digest_of(path: Path) -> str:
    """Return what tells versions of a file apart."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()
    except OSError as error:
        raise EnvironmentMismatch(
            f"the file {path} cannot be read: {error.strerror}. The flow was deployed from there; deploy it from its new place"
        ) from None


def restored(source: Source) -> Any:
    """Return the flow of a pickle, once its signature was verified.

    Raises
    ------
    EnvironmentMismatch
        If it was made with another Python.
    ResultDamaged
        If it is not as it was written, or was not signed by this installation.
    """
    here = _python()
    if source.python != here:
        raise EnvironmentMismatch(
            f"the flow was pickled with Python {source.python}, but this worker runs Python {here}; deploy it from a file, or run"
            " the worker with that Python"
        )
    return restore(_code_store(), dict(source.stored), f"the code of {source.place}")


def _pickled(flow: Any, name: str) -> Source:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(flow)
    except Exception as error:
        raise DeploymentError(
            f"the flow {name} is in no file, and cannot be pickled: {type(error).__name__}: {error}; save it in a file, and deploy"
            " file.py:flow"
        ) from error
    digest = hashlib.blake2b(data, digest_size=12).hexdigest()
    stored = keep(_code_store(), f"{name}-{digest}", data)
    return Source(kind="pickle", place=f"{name}-{digest}", version=digest, stored=stored, python=_python())


def _code_store() -> Any:
    return open_store(str(settings.home() / CODE_FOLDER))


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _name_in(module: Any, flow: Any) -> str | None:
    return next((name for name, value in vars(module).items() if value is flow), None)


def _distribution_version(module: str) -> str:
    top = module.partition(".")[0]
    for name in metadata.packages_distributions().get(top, ()):
        return f"{name} {metadata.version(name)}"
    return ""
