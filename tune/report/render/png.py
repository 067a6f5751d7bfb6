"""The report's charts as PNG pictures, drawn by matplotlib: plotly needs a browser to export, which may be missing.

It draws what tune/report/charts.py uses: points with error bars, lines, stacked horizontal bars.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune.common.errors import WrongInput
from tune.report.charts import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH_IN, LEGEND_ROW_IN, LEAST_HEIGHT_IN = 8.0, 0.2, 4.0
DPI = 100  # dots an inch; plotly's heights in pixels are divided by it too
COLOURS_KEPT = 256  # makes a file a third as large, at the cost of the mixed colours at the edges of letters
MARKERS = {"circle": "o", "square": "s", "triangle-up": "^", "pentagon": "p"}
STYLES: Mapping[str, Any] = {
    "solid": "-",
    "dot": ":",
    "dashdot": "-.",
    "dash": "--",
    "longdash": (0, (8, 3)),
}


def png(chart: Chart) -> bytes:
    """The picture of a chart that has data.

    Raises:
        WrongInput: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise WrongInput(
            "the report's pictures need the package matplotlib, which is not installed: "
            "pip install -r requirements.txt; --html FILE does without"
        ) from None
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(WIDTH_IN, _height_in(chart)), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        _draw(figure, chart)
        canvas.draw()
        return _compressed(canvas.buffer_rgba())


def _height_in(chart: Chart) -> float:
    rows_px = chart.layout.get("height")
    if rows_px is not None:
        return max(1.8, rows_px / DPI)
    return max(LEAST_HEIGHT_IN, 1 + LEGEND_ROW_IN * sum(_in_legend(trace) for trace in chart.data))


def _in_legend(trace: Mapping[str, Any]) -> bool:
    return bool(trace.get("showlegend", True))


def _draw(figure: Figure, chart: Chart) -> None:
    axes = figure.add_subplot()
    axes.set_title(chart.title, loc="left", fontsize=11)
    if "categoryarray" in chart.layout["yaxis"]:  # from the bottom to the top, as plotly has it
        axes.set_yticks(range(len(chart.layout["yaxis"]["categoryarray"])))
        axes.set_yticklabels([html.unescape(name) for name in chart.layout["yaxis"]["categoryarray"]])
        axes.set_ylim(-0.6, len(chart.layout["yaxis"]["categoryarray"]) - 0.4)
    starts: dict[str, float] = {}  # where the next bar of a name begins
    for trace in chart.data:
        if trace["type"] == "bar":
            _bar(axes, trace, chart.layout["yaxis"]["categoryarray"], starts)
        else:
            _scatter(axes, trace, chart.layout["yaxis"].get("categoryarray"))
    for shape in chart.layout.get("shapes", ()):
        axes.axvline(shape["x0"], color="#888888", linewidth=1, linestyle=STYLES[shape["line"]["dash"]])
    for name, limit in (("xaxis", axes.set_xlim), ("yaxis", axes.set_ylim)):
        if "range" in chart.layout[name]:
            limit(*chart.layout[name]["range"])
    for name, put in (("xaxis", axes.set_xlabel), ("yaxis", axes.set_ylabel)):
        if title := chart.layout[name].get("title"):
            put(title["text"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    if chart.layout["xaxis"].get("tickformat") == "d":
        axes.locator_params(axis="x", integer=True)
    if chart.layout.get("showlegend", True):
        figure.legend(frameon=False, loc="outside right upper", fontsize=8)


def _bar(axes: Axes, trace: Mapping[str, Any], names: Sequence[str], starts: dict[str, float]) -> None:
    places = [names.index(name) for name in trace["y"]]
    left = [starts.get(name, 0.0) for name in trace["y"]]
    axes.barh(places, trace["x"], 0.7, left, color=trace["marker"]["color"], label=html.unescape(trace["name"]))
    starts |= {name: start + length for name, start, length in zip(trace["y"], left, trace["x"], strict=True)}


def _scatter(axes: Axes, trace: Mapping[str, Any], names: Sequence[str] | None) -> None:
    y = trace["y"] if names is None else [names.index(name) for name in trace["y"]]
    y = [float("nan") if value is None else value for value in y]
    label = html.unescape(trace["name"]) if _in_legend(trace) else "_unnamed"
    marker, line = trace.get("marker", {}), trace.get("line", {})
    colour = marker.get("color") or line.get("color")
    symbol = marker.get("symbol", "circle")
    look: dict[str, Any] = {"color": colour, "label": label}
    if "lines" in trace["mode"]:
        look |= {"linestyle": STYLES[line.get("dash", "solid")], "linewidth": line.get("width", 1.5)}
        look |= {"drawstyle": "steps-post"} if line.get("shape") == "hv" else {}
    else:
        look |= {"linestyle": "none"}
    if "markers" in trace["mode"]:
        look |= {"marker": MARKERS[symbol.removesuffix("-open")], "markersize": 0.6 * marker.get("size", 6)}
        look |= {"markerfacecolor": "none"} if symbol.endswith("-open") else {}
    if "error_x" in trace:
        reach = [trace["error_x"]["arrayminus"], trace["error_x"]["array"]]
        axes.errorbar(trace["x"], y, xerr=reach, capsize=3, elinewidth=1.5, **look)
    else:
        axes.plot(trace["x"], y, **look)
    if "text" in trace["mode"]:
        for text, point in zip(trace["text"], zip(trace["x"], y, strict=True), strict=True):
            axes.annotate(text, point, (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _compressed(pixels: Any) -> bytes:
    from PIL import Image

    height, width = pixels.shape[:2]
    picture = Image.frombuffer("RGBA", (width, height), bytes(pixels)).convert("RGB")
    stream = io.BytesIO()
    picture.quantize(COLOURS_KEPT, method=Image.Quantize.MAXCOVERAGE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
