"""A forecast as a PNG picture: one panel a column, with history, forecast, and truth where it is known."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tune.common.errors import WrongInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 12
DOTTED = 13  # shorter forecasts have a dot for each row
HISTORY = 3  # rows of history for each row of the forecast, as far as there are any
PANEL_IN, PANEL_HEIGHT_IN, HEAD_IN = 6.4, 2.5, 0.9
DPI = 110
TITLE_LETTERS_IN = 11  # letters of the title that fit into an inch
HISTORY_COLOUR, TRUTH_COLOUR, FORECAST_COLOUR, LINE_COLOUR = "#8a8f98", "#1f2328", "#d9480f", "#b6bac1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One column. Shapes: L rows of history, N rows of forecast."""

    name: str
    times: np.ndarray
    """[L + N] datetime64, in the zone that the source names; or numbers of rows."""
    history: np.ndarray
    """[L], in the units of the source."""
    forecast: np.ndarray
    """[N], in the units of the source."""
    truth: np.ndarray | None
    """[N] where it is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForecastPicture:
    """What is drawn."""

    title: str
    panels: Sequence[Panel]
    rolled_from: int | None
    """The first row of the forecasts that was made from forecasts; None: there is none."""


def forecast_png(picture: ForecastPicture) -> bytes:
    """The picture of the first MOST_PANELS panels. WrongInput where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise WrongInput(
            "--plot needs the package matplotlib, which is not installed: pip install -r requirements.txt"
        ) from None
    shown = picture.panels[:MOST_PANELS]
    across = 1 if len(shown) == 1 else 2 if len(shown) <= 8 else 3
    down = math.ceil(len(shown) / across)
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        size = (max(PANEL_IN * across, 9.0), PANEL_HEIGHT_IN * down + HEAD_IN + (1.2 if down == 1 else 0))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        one_time = all(np.array_equal(panel.times, shown[0].times) for panel in shown)
        places = figure.subplots(down, across, squeeze=False, sharex=one_time).ravel()
        for place, panel in zip(places, shown, strict=False):
            _draw(place, panel, picture.rolled_from)
        for empty in places[len(shown) :]:
            empty.set_visible(False)
        for last in places[max(0, len(shown) - across) : len(shown)]:
            last.tick_params(labelbottom=True)
        title = textwrap.fill(picture.title, int(TITLE_LETTERS_IN * size[0]))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
        canvas.draw()
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()


def _draw(axes: Axes, panel: Panel, rolled_from: int | None) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    rows = len(panel.history)
    kept = min(rows, HISTORY * len(panel.forecast))
    times: Any = panel.times
    future = times[rows:]
    axes.plot(times[rows - kept : rows], panel.history[-kept:], color=HISTORY_COLOUR, linewidth=1.1, label="history")
    if panel.truth is not None:
        truth = np.concatenate((panel.history[-1:], panel.truth))  # one line with the history
        axes.plot(times[rows - 1 :], truth, color=TRUTH_COLOUR, linewidth=1.2, label="truth")
    look: dict[str, Any] = {"marker": ".", "markersize": 4} if len(future) < DOTTED else {}
    axes.plot(future, panel.forecast, color=FORECAST_COLOUR, linewidth=1.6, label="forecast", **look)
    axes.axvline(times[rows - 1], color=LINE_COLOUR, linewidth=1, zorder=0)
    if rolled_from is not None:
        first, last = times[rows + rolled_from], times[-1]
        axes.axvspan(first, last, color=FORECAST_COLOUR, alpha=0.07, linewidth=0, label="made from forecasts")
    axes.set_title(panel.name, loc="left", fontsize=9.5)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    if np.issubdtype(times.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=4, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
