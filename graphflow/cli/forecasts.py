"""`graphflow run --dry-run`: what a run would take from the cache, and what it would execute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from graphflow.cli.documents import dumped
from graphflow.cli.terminal import OutputFormat, only_data_on_stdout, write_data
from graphflow.common.wording import count_text
from graphflow.display.consoles import make_console

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.runs.forecasting import Forecast, NodeForecast

__all__ = ["show_forecast"]


def show_forecast(flow: Flow[Any, Any], parameters: Mapping[str, Any], output: OutputFormat) -> None:
    """Print what a run of the flow would do, node by node; no task runs."""
    with only_data_on_stdout():
        found = flow.forecast(**parameters)
    if output is OutputFormat.JSON:
        document = {
            "schema": "graphflow.forecast/1",
            "flow": found.flow_name,
            "forced": found.forced or None,
            "nodes": [asdict(each) for each in found.nodes],
        }
        write_data(dumped(document, indent=2))
        return
    console = make_console(stdout=True)
    console.print(_table(found))
    cached = sum(each.cached for each in found.nodes)
    executed = sum(each.executed for each in found.nodes)
    is_open = bool(found.forced) or any(each.unknown or each.width is None for each in found.nodes)
    rest = "; the rest depends on values that are not known yet" if is_open else ""
    console.print(f"{cached:,} cached, {count_text(executed, 'item')} to execute{rest}", soft_wrap=True)
    if found.forced:
        console.print(f"shown up to here: {found.forced}", markup=False, soft_wrap=True)


def _table(found: Forecast) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", overflow="fold")
    for name in ("items", "cached", "execute", "unknown"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found.nodes:
        table.add_row(Text(each.name), *_counts(each))
    return table


def _counts(node: NodeForecast) -> list[str]:
    if node.width is None:
        return ["?", "" if not node.is_cacheable else "?", "all" if not node.is_cacheable else "?", ""]
    return [
        f"{node.width:,}",
        *[f"{each:,}" if each else "" for each in (node.cached, node.executed, node.unknown)],
    ]
