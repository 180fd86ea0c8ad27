"""`graphflow limits` and `graphflow rates`: how much runs may do at once, and how often they may begin, all together."""

from __future__ import annotations

from typing import Annotated

import typer

from graphflow.cli import completing
from graphflow.cli.addressed import connected
from graphflow.cli.documents import ListFormat
from graphflow.cli.stored import Listed, show_list
from graphflow.display.consoles import make_console

__all__ = ["limits", "rates"]

limits = typer.Typer(
    help="Look after limits: slots that all runs share, by the tags of tasks, flows and deployments.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
rates = typer.Typer(
    help="Look after rates: starts per time that all runs share, by the tags of tasks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

LimitName = Annotated[
    str, typer.Argument(metavar="NAME", help="The limit.", autocompletion=completing.limits)
]
RateName = Annotated[str, typer.Argument(metavar="NAME", help="The rate.", autocompletion=completing.rates)]


@limits.command("ls")
def list_limits(output: Listed = ListFormat.TABLE) -> None:
    """List limits, and who has slots of them."""
    with connected() as gf:
        documents = [each.model_dump(mode="json") for each in gf.limits]
    for each in documents if output is ListFormat.TABLE else ():
        each["holders"] = [f"{of['holder']}: {of['slots']}" for of in each["holders"]]
    show_list(("name", "size", "in_use", "wanted", "holders"), documents, output, "graphflow.limit/1")


@limits.command("set")
def set_limit(
    name: LimitName, size: Annotated[int, typer.Argument(help="Slots; 0 lets nothing begin.", min=0)]
) -> None:
    """Make a limit or change its size; runs that go on follow within a second."""
    with connected() as gf:
        gf.limits.set(name, size)
    _say(f"the limit {name} has {size} slot{'' if size == 1 else 's'}")


@limits.command("rm")
def remove_limit(name: LimitName) -> None:
    """Remove a limit: its name holds nothing up any more."""
    with connected() as gf:
        gf.limits.remove(name)
    _say(f"the limit {name} is removed")


@rates.command("ls")
def list_rates(output: Listed = ListFormat.TABLE) -> None:
    """List rates."""
    with connected() as gf:
        documents = [each.model_dump(mode="json") for each in gf.rates]
    show_list(("name", "per_second", "burst"), documents, output, "graphflow.rate/1")


@rates.command("set")
def set_rate(
    name: RateName,
    rate: Annotated[str, typer.Argument(metavar="N/TIME", help="Such as 50/s, 600/min or 1000/h.")],
    burst: Annotated[
        int, typer.Option("--burst", min=1, help="How many may begin at once after a pause.")
    ] = 1,
) -> None:
    """Make a rate or change it; runs that go on follow within a second."""
    with connected() as gf:
        gf.rates.set(name, rate, burst=burst)
    _say(f"the rate {name} is {rate}")


@rates.command("rm")
def remove_rate(name: RateName) -> None:
    """Remove a rate: its name holds nothing up any more."""
    with connected() as gf:
        gf.rates.remove(name)
    _say(f"the rate {name} is removed")


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
