"""`graphflow doctor`: whether this installation can run flows, and what to do where it cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from graphflow.cli.documents import dumped
from graphflow.cli.exits import ExitCode
from graphflow.cli.terminal import OutputFormat, write_data
from graphflow.display.consoles import make_console

__all__ = ["doctor"]

_SIGNS = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "broken": ("✘", "red")}


def doctor(
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="Output format.")
    ] = OutputFormat.TABLE,
) -> None:
    """Check versions, home, key, result store, cluster, ports, clock, disk and limits.

    Exit codes: 0 all is well or there are warnings, 1 something is broken.
    """
    from graphflow.runs.checkup import Verdict, check_all  # help must not load the engine

    console = make_console(stdout=True)
    done = []
    for check in check_all():
        done.append(check)
        if output is OutputFormat.TABLE:
            sign, style = _SIGNS[check.verdict]
            console.print(Text.assemble((sign, style), f" {check.name:<13} {check.found}"), soft_wrap=True)
            if check.advice:
                console.print(f"  {'':<13} → {check.advice}", markup=False, soft_wrap=True)
    is_broken = any(check.verdict is Verdict.BROKEN for check in done)
    if output is OutputFormat.JSON:
        document = {
            "schema": "graphflow.doctor/1",
            "is_broken": is_broken,
            "checks": [asdict(check) for check in done],
        }
        write_data(dumped(document, indent=2))
    raise typer.Exit(ExitCode.FAILED if is_broken else ExitCode.COMPLETED)
