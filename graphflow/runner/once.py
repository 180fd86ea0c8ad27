"""Items that run once only: what a task's `resolve` is given, and the error of an item that nobody resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from graphflow.cache.claims import OnceClaim
from graphflow.common.functions import signature_of
from graphflow.errors import IndeterminateError
from graphflow.ports import ResultStore
from graphflow.results.packs.format import SHARE_KEY, other_key
from graphflow.runner.step import Step

__all__ = ["Unresolved", "indeterminate", "unresolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """An item of a `run_once` task whose outcome is unknown; the argument of the task's `resolve`.

    It gives the item's result, if it finds that the work was done; it raises `Retry` if it was not, and the item runs; whatever
    else it raises leaves the item `Indeterminate`.

    Attributes
    ----------
    key
        The item's key, as hexadecimal digits.
    run_id, node, index
        What started it: the run, the node's name, and the map index, None if it is not a map.
    host, pid, began
        The process that died, and when it began the item.
    parameters
        The item's arguments, by name.
    """

    key: str
    run_id: str
    node: str
    index: int | None
    host: str
    pid: int
    began: datetime
    parameters: Mapping[str, Any]


def _named(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = signature_of(step.fn)
    if signature is None:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def unresolved(
    key: bytes, claim: OnceClaim, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Unresolved:
    """What is known of an item that somebody claimed, and left without a result."""
    return Unresolved(
        key=key.hex(),
        run_id=claim.run_id,
        node=claim.node,
        index=claim.index,
        host=claim.holder.host,
        pid=claim.holder.pid,
        began=datetime.fromtimestamp(claim.at, UTC),
        parameters=_named(step, args, kwargs),
    )


def indeterminate(
    name: str, key: bytes, claim: OnceClaim, store: ResultStore, signer: str, cause: BaseException | None
) -> IndeterminateError:
    """The error of such an item.

    Parameters
    ----------
    signer
        The fingerprint of the foreign key that its result is signed with, empty if there is no result.
    cause
        What the task's `resolve` raised.
    """
    who = f"process {claim.holder.pid} on {claim.holder.host} (run {claim.run_id})"
    text = (
        f"{name} was executed by {who}, and its task has run_once=True. Its result in {store.url} was "
        f"{other_key(signer, store)}, so it is ignored: {SHARE_KEY}, then resume the run"
        if signer
        else f"{name} was started by {who}, which died without a result: it may or may not have done its "
        f"work, and its task has run_once=True. Find out, then allow it to run again with `graphflow cache release {key.hex()}`"
    )
    error = IndeterminateError(
        text + (f". Its resolve= raised {type(cause).__name__}: {cause}" if cause is not None else "")
    )
    error.__cause__ = cause
    return error
