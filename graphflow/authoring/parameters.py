"""A flow's parameters: bound to its signature, then checked and coerced by its annotations."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphflow.common.secrets import Secret, is_secret, is_secret_type, known, named_secret, reference_of
from graphflow.common.wording import with_article
from graphflow.errors import ParameterError
from graphflow.graph.handles import contains_handle

__all__ = ["bind_parameters", "takes_secret", "validated", "with_named_secrets"]

_PLAIN = (inspect.Parameter.empty, Any, object)


def with_named_secrets(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the secrets that `{"$secret": NAME}` stands for; secrets are masked from now on.

    Raises
    ------
    ParameterError, SettingsError
        If there is no secret of a name, or the file of secrets can be read by others.
    """
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        reference = reference_of(value)
        found[name] = value if reference is None else named_secret(reference)
        if is_secret(value):
            known(value)
    return found


def takes_secret(hint: Any) -> bool:
    """Return whether an annotation is of a secret, or of one among others."""
    return is_secret_type(hint) or any(takes_secret(each) for each in typing.get_args(hint))


def bind_parameters(
    fn: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all parameters by name, with defaults.

    Raises
    ------
    ParameterError
        If any is missing, unknown or given twice.
    """
    signature = inspect.signature(fn)
    known = list(signature.parameters)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values())
    for given in kwargs:
        if given not in signature.parameters and not takes_any:
            close = difflib.get_close_matches(given, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(known) or 'none'}"
            raise ParameterError(f"flow {name!r} has no parameter {given!r}{hint}")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ParameterError(f"flow {name}{signature}: {error}") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def validated(fn: Callable[..., Any], name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters coerced to their annotations; futures are left as they are.

    Raises
    ------
    ParameterError
        If a value does not match its annotation; all such values are listed.
    """
    signature = inspect.signature(fn)
    wanted = [
        each
        for each in signature.parameters.values()
        if each.annotation not in _PLAIN
        and each.name in parameters
        and not contains_handle(parameters[each.name])
    ]
    if not wanted:
        return parameters
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except Exception:
        # An annotation that cannot be evaluated here checks nothing.
        hints = {each.name: each.annotation for each in wanted if not isinstance(each.annotation, str)}
    checked = dict(parameters)
    problems: list[str] = []
    for parameter in wanted:
        hint = hints.get(parameter.name)
        if hint is None or hint in _PLAIN:
            continue
        value = parameters[parameter.name]
        if parameter.default is value and parameter.default is not inspect.Parameter.empty:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            hint = tuple[hint, ...]  # type: ignore[valid-type]
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            hint = dict[str, hint]  # type: ignore[valid-type]
        if isinstance(hint, type) and type(value) is hint and hint in (int, str, float, bool, bytes):
            continue
        hides = takes_secret(hint)
        if hides and isinstance(value, Secret) and not _is_ours(hint):
            value = value.get_secret_value()
        try:
            checked[parameter.name] = _coerced(hint, value)
        except ValueError as error:
            problems.append(_problem(parameter.name, hint, value, error, hides=hides))
        else:
            if is_secret(checked[parameter.name]):
                known(checked[parameter.name])
    if problems:
        raise ParameterError(f"flow {name!r}: " + "; ".join(problems))
    return checked


def _coerced(hint: Any, value: Any) -> Any:
    import pydantic

    try:
        adapter: Any = pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except pydantic.PydanticUserError:
        adapter = pydantic.TypeAdapter(hint)
    return adapter.validate_python(value)


def _is_ours(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return origin is Secret or any(_is_ours(each) for each in typing.get_args(hint))


def _problem(name: str, hint: Any, value: Any, error: ValueError, *, hides: bool) -> str:
    shown = (
        getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")
    )
    details = getattr(error, "errors", None)
    reason = str(error)
    if callable(details):
        reason = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}{': ' if each['loc'] else ''}{each['msg']}"
            for each in details()[:3]
        )
    if hides:
        return f"parameter {name!r} must be {shown}, not {with_article(type(value).__name__)} of another form"
    text = repr(value)
    return (
        f"parameter {name!r} must be {shown}, not {text if len(text) <= 80 else text[:77] + '...'} ({reason})"
    )
