"""One launch of a run in its own process, which `graphflow chaos` kills; run as a module, with an order as JSON."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from graphflow.cli.backend_option import opened, parse_backend
from graphflow.cli.parameters import parse_parameters
from graphflow.common.pickling import dumps
from graphflow.errors import GraphflowError
from graphflow.identity.hashing import canonical_digest
from graphflow.launching.targets import load_flow
from graphflow.runs.documents import value_text

__all__ = ["LaunchOrder", "LaunchResult"]

MAX_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """What to run, as on the command line, and the file for the outcome."""

    target: str
    run_id: str
    place: str
    pairs: list[str]
    params: str | None = None
    backend: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """The outcome of a launch that was not killed; `digest` is empty if the value has none."""

    pid: int
    state: str
    message: str = ""
    digest: str = ""
    text: str = ""


def live(order: LaunchOrder) -> LaunchResult:
    """Start or resume the run, and wait for its end."""
    flow = load_flow(order.target)
    parameters = parse_parameters(order.pairs, mapping=order.params, function=flow.fn)
    with opened(None if order.backend is None else parse_backend(order.backend)) as backend:
        chosen = flow if backend is None else flow.with_options(backend=backend)
        found: Any = chosen.run(run_id=order.run_id, **parameters)
        run = asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
    if not run.state.is_completed():
        return LaunchResult(pid=os.getpid(), state=run.state.name, message=str(run.exception or ""))
    return LaunchResult(
        pid=os.getpid(),
        state=run.state.name,
        digest=_digest(run.value),
        text=value_text(run.value)[:MAX_SHOWN],
    )


async def _awaited(found: Any) -> Any:
    return await found


def _digest(value: Any) -> str:
    digest = canonical_digest(value)
    if digest is None:
        try:
            digest = hashlib.blake2b(dumps(value), digest_size=16).digest()
        except Exception:
            return ""
    return digest.hex()


def main() -> None:
    """Carry out the order given as the only argument."""
    order = LaunchOrder(**json.loads(sys.argv[1]))
    try:
        result = live(order)
    except GraphflowError as error:
        result = LaunchResult(pid=os.getpid(), state="", message=f"{type(error).__name__}: {error}")
    part = f"{order.place}.part"
    with open(part, "w") as file:
        json.dump(asdict(result), file)
    os.replace(part, order.place)


if __name__ == "__main__":
    main()
