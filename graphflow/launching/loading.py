"""Loading the flow of a run: from its file, its module or its pickle, at the version that was deployed, or with a word that it is another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.errors import EnvironmentMismatch, TargetError
from graphflow.launching.targets import load_flow
from graphflow.model.deployed import Source
from graphflow.orchestration.sources import digest_of, restored

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow

__all__ = ["load_source"]


def load_source(source: Source) -> tuple[Flow[Any, Any], str]:
    """Return the flow of a source, and what is to be said of its version; empty where that is the one that was deployed.

    Raises
    ------
    EnvironmentMismatch
        If it cannot be loaded here.
    """
    if source.kind == "pickle":
        found: Flow[Any, Any] = restored(source)
        return found, ""
    note = ""
    if source.kind == "file":
        path = Path(source.place.rpartition(":")[0])
        if source.version and digest_of(path) != source.version:
            note = f"{path} has changed since the flow was deployed; the run has the file as it is now"
    try:
        return load_flow(source.place), note
    except TargetError as error:
        raise EnvironmentMismatch(
            f"the flow cannot be loaded on this worker: {error}. Install what is missing, or deploy the flow from where it is"
        ) from error
