"""Templates: made to HTML with everything escaped, and the files that pages refer to."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from graphflow.common.escaping import printable
from graphflow.dashboard import parts, texts
from graphflow.model.looks import kind_of

__all__ = ["asset", "asset_name", "embedded", "render"]


def _finalized(value: Any) -> Any:
    """Return what is put into a page: texts of users with escapes for what acts on terminals and readers."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("graphflow.dashboard"),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "clock": texts.clock,
        "embedded": embedded,
        "kind": kind_of,
        "number": texts.number,
        "quoted": _quoted,
        "rate": texts.rate,
        "shortened": texts.shortened,
        "ranges": texts.ranges,
        "took": texts.took,
        "utc": texts.utc,
    }
    made.globals |= {"bar": parts.bar, "legend": parts.legend, "words": parts.count_words}
    return made


def _quoted(text: str) -> str:
    """Return a name as a part of a path."""
    return quote(text, safe="")


def render(template: str, **context: Any) -> str:
    """Return a template, such as `run.html`, with a context as HTML."""
    return _environment().get_template(template).render(context)


def embedded(value: Any) -> Markup:
    """Return a value as JSON for a `<script>` element: nothing in it ends the element."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def asset(name: str) -> str:
    """Return a file of ours: `style.css` or `app.js`."""
    return resources.files("graphflow.dashboard").joinpath("static", name).read_text(encoding="utf-8")


@cache
def asset_name(name: str) -> str:
    """Return the name under which a file of ours is served, which changes with what is in it."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{hashlib.sha256(asset(name).encode()).hexdigest()[:12]}.{suffix}"
