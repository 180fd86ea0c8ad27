"""Small HTML pages for notebooks: tables, bars and names of states, in a light and a dark look, without scripts.

All texts of users are escaped here: `Markup` is what has been, and everything else is text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from graphflow.common.escaping import printable
from graphflow.model.looks import LOOKS, kind_of

__all__ = ["Markup", "badge", "bar", "box", "duration", "element", "local_time", "table"]

_ORDER = ("completed", "cached", "skipped", "failed", "blocked", "cancelled", "paused", "retrying", "running")
_MAX_TEXT = 400


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def _escaped(content: Any) -> str:
    if isinstance(content, Markup):
        return content
    text = str(content)
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + " …"
    return html.escape(printable(text))


def element(tag: str, *contents: Any, **attributes: Any) -> Markup:
    """Return an element; what is no `Markup` among its contents and attributes is escaped. `class_` is the class."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(printable(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{given}>{''.join(map(_escaped, contents))}</{tag}>")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[str] = ()) -> Markup:
    """Return a table; the columns named in `numbers` stand right."""
    classes = ["n" if name in numbers else None for name in head]
    return element(
        "table",
        element(
            "tr",
            *[element("th", name, class_=its, scope="col") for name, its in zip(head, classes, strict=True)],
        ),
        *[
            element("tr", *[element("td", cell, class_=its) for cell, its in zip(row, classes, strict=True)])
            for row in rows
        ],
    )


def badge(state: str) -> Markup:
    """Return a state's name after its glyph, in its colour."""
    kind = kind_of(state)
    return element("span", LOOKS[kind].glyph, " ", state, class_=f"s-{kind}")


def bar(counts: Mapping[str, int], width: int | None) -> Markup:
    """Return a bar of the items' states in their colours; `counts` are by the names of states, the rest is pending."""
    kinds: dict[str, int] = {}
    for state, count in counts.items():
        kinds[kind_of(state)] = kinds.get(kind_of(state), 0) + count
    kinds.pop("pending", None)
    known = sum(kinds.values())
    whole = max(known, width or 0, 1)
    parts, at = [], 0.0
    for kind in _ORDER:
        if kinds.get(kind):
            length = max(1.0, 120 * kinds[kind] / whole)
            parts.append(
                element(
                    "rect",
                    x=f"{min(at, 119):.1f}",
                    y=0,
                    width=f"{length:.1f}",
                    height=8,
                    class_=f"f-{kind}",
                )
            )
            at += length
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()) or "nothing yet"
    return element(
        "svg",
        element("title", f"{told}, of {'unknown' if width is None else format(width, ',')}"),
        element("rect", x=0, y=0, width=120, height=8, class_="f-pending"),
        *parts,
        width=120,
        height=8,
        role="img",
    )


def duration(seconds: float | None) -> str:
    """Return a duration as text: `7.6 ms`, `31 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def local_time(moment: datetime | None) -> Markup:
    """Return a time in the zone of this machine, with its UTC time for programs."""
    if moment is None:
        return Markup("–")
    return element(
        "time",
        moment.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        datetime=moment.isoformat(timespec="seconds"),
    )


def box(*contents: Any) -> str:
    """Return a whole page fragment, with the style that its class has."""
    return element("div", Markup(f"<style>{_style()}</style>"), *contents, class_="graphflow")


def _style() -> str:
    light = "".join(_colours(kind, look.colour) for kind, look in LOOKS.items())
    dark = "".join(_colours(kind, look.dark, ".graphflow ") for kind, look in LOOKS.items())
    return (
        ".graphflow{font:13px/20px system-ui,sans-serif}"
        ".graphflow table{border-collapse:collapse;margin:4px 0;font:inherit;color:inherit}"
        ".graphflow td svg{vertical-align:middle}"
        ".graphflow th{font-weight:600;text-align:left;border-bottom:1px solid #8886;padding:2px 12px 2px 0}"
        ".graphflow td{text-align:left;padding:2px 12px 2px 0;vertical-align:top}"
        ".graphflow .n{text-align:right;font-variant-numeric:tabular-nums}"
        ".graphflow code,.graphflow pre{font:12px/18px ui-monospace,monospace;white-space:pre-wrap}"
        ".graphflow .m{opacity:.7}"
        ".graphflow svg text{font:12px system-ui,sans-serif;fill:currentColor}"
        ".graphflow .node{fill:none;stroke-width:1.5}.graphflow .edge{fill:none;stroke:#8889}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )


def _colours(kind: str, colour: str, scope: str = ".graphflow ") -> str:
    return f"{scope}.s-{kind}{{color:{colour}}}{scope}.f-{kind}{{fill:{colour}}}{scope}.e-{kind}{{stroke:{colour}}}"
