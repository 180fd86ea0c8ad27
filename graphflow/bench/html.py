"""A chart as one HTML file that needs no network: Bokeh, with its script inside."""

from __future__ import annotations

from graphflow.bench.chart import Chart

__all__ = ["html_of"]


def html_of(chart: Chart) -> str:
    """Return the whole page; a click on a name in the legend hides its line."""
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    plot = figure(
        title=f"{chart.title} ({chart.subtitle})",
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label=chart.x_label,
        y_axis_label=chart.y_label,
        x_range=(0.8 * 10.0 ** chart.x_range[0], 1.25 * 10.0 ** chart.x_range[1]),
        y_range=tuple(10.0**exponent for exponent in chart.y_range),
        sizing_mode="stretch_width",
        height=560,
        tools="pan,wheel_zoom,box_zoom,reset,save",
    )
    for series in chart.series:
        source = ColumnDataSource(
            {
                "n": [n for n, _ in series.points],
                "cost": [cost for _, cost in series.points],
                "peer": [series.peer] * len(series.points),
            }
        )
        style = {"color": series.colour, "legend_label": series.peer}
        plot.line("n", "cost", source=source, line_width=3.5 if series.is_own else 2, **style)
        plot.scatter("n", "cost", source=source, size=9 if series.is_own else 7, **style)
    plot.add_tools(
        HoverTool(tooltips=[("", "@peer"), ("items", "@n{0,0}"), ("µs per item", "@cost{0,0.00}")])
    )
    plot.xaxis.formatter.min_exponent = 7  # plain numbers up to millions
    plot.legend.click_policy = "hide"
    plot.add_layout(plot.legend[0], "right")
    page: str = file_html(plot, resources=INLINE, title=chart.title)
    return page
