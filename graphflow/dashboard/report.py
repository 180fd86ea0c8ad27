"""A run as one file that opens offline: the page of the run, with style, script, plots and data inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from markupsafe import Markup

from graphflow.dashboard import plots
from graphflow.dashboard.rendering import asset, render
from graphflow.dashboard.runpage import rendered_parts, run_parts

__all__ = ["report_html"]

Run: TypeAlias = Any
"""A view of `runs`, which are above this folder."""


def report_html(run: Run, document: Mapping[str, Any], *, has_plots: bool = True) -> str:
    """Return the report of a run; nothing in it is loaded from elsewhere.

    Parameters
    ----------
    document
        The run as JSON, which is put in too.
    has_plots
        Whether the script that draws plots is put in: 1.3 MB. The figures are there as numbers in any case.

    Raises
    ------
    GraphflowError
        If plots are wanted and Bokeh has no script.
    """
    found = run_parts(run, is_report=True, has_plots=has_plots)
    return render(
        "report.html",
        title=run.name,
        theme="",
        base="",
        style_text=Markup(asset("style.css")),
        script_text=_script(asset("app.js")),
        bokeh_text=_script(plots.bokeh_script().decode()) if has_plots else "",
        skeletons=Markup(plots.skeletons().replace("<", "\\u003c")) if has_plots else "",
        parts=rendered_parts(found),
        columns=found.columns if has_plots else {},
        document=document,
    )


def _script(text: str) -> Markup:
    """Return a script of ours, or Bokeh's, for a `<script>` element, which it must not end."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
