"""Parameters of runs, compared with what was stored of the flow: what is certainly wrong is refused before a run is made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from graphflow.errors import ParameterError
from graphflow.model.deployed import Deployment

__all__ = ["check_parameters", "text_names"]

_NAMES = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def check_parameters(deployment: Deployment, given: Mapping[str, Any]) -> None:
    """Check the parameters of a run over those of its deployment; the flow itself checks the rest when it runs.

    Raises
    ------
    ParameterError
        If one is missing, unknown, or of a type that its annotation cannot take.
    """
    schema = deployment.parameter_schema
    if not schema:
        return
    known: Mapping[str, Any] = schema.get("properties", {})
    for name, value in given.items():
        if name not in known:
            if schema.get("additionalProperties"):
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(known) or 'none'}"
            raise ParameterError(f"the flow of {deployment.full_name} has no parameter {name!r}{hint}")
        kinds = _kinds(known[name])
        if kinds and not any(_fits(kind, value) for kind in kinds):
            wanted = " or ".join(_NAMES.get(kind, kind) for kind in kinds)
            raise ParameterError(
                f"the parameter {name!r} of {deployment.full_name} must be {wanted}, not {value!r}"
            )
    missing = [
        name for name in schema.get("required", ()) if name not in given and name not in deployment.parameters
    ]
    if missing:
        raise ParameterError(
            f"the flow of {deployment.full_name} needs a value of {', '.join(missing)}; use -p {missing[0]}=... or parameters={{...}}"
        )


def text_names(deployment: Deployment) -> list[str]:
    """Return the parameters that are texts, and nothing else."""
    properties: Mapping[str, Any] = deployment.parameter_schema.get("properties", {})
    return [name for name, schema in properties.items() if _kinds(schema) in (["string"], ["string", "null"])]


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """Return the JSON types that a value may have; none where the schema does not say."""
    if "anyOf" in schema:
        found = [_kinds(each) for each in schema["anyOf"]]
        return [kind for each in found for kind in each] if all(found) else []
    kind = schema.get("type")
    return [kind] if isinstance(kind, str) else []


def _fits(kind: str, value: Any) -> bool:
    """Return whether a value is of a JSON type, or a text that such a value may be read from."""
    if isinstance(value, Mapping):
        return kind == "object" or set(value) == {"$secret"}
    match kind:
        case "integer" | "number":
            return isinstance(value, int | float) or (isinstance(value, str) and _is_number(value))
        case "boolean":
            return isinstance(value, bool | int) or (isinstance(value, str) and value.lower() in _BOOLEANS)
        case "string":
            return isinstance(value, str)
        case "array":
            return isinstance(value, list)
        case "null":
            return value is None
        case _:
            return kind not in _NAMES


_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "1", "0")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
