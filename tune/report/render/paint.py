"""Draws a chart with matplotlib, for a wide or a narrow place. Sizes are in pixels of the page; text never shrinks.

The page's SVG and the PNG files come from here alone. Colours of THEME follow the reader's light or dark mode in SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune.report.charts import Chart
from tune.report.marks import Answers, Bars, Lines, Points
from tune.report.render.paint_answers import answers_height, paint_answers
from tune.report.render.paint_points import place_labels
from tune.report.render.scales import cut
from tune.report.render.theme import LINE, SOFT, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE_PX, NARROW_PX = 1040, 358
PX = 72  # of an inch: a point of matplotlib is a pixel
LETTER_PX = 6.6  # of the usual size, about
FONT: dict[Any, Any] = {
    "font.size": 12,
    "text.parse_math": False,
    "text.color": TEXT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
}
FONT |= {"xtick.color": SOFT, "ytick.color": SOFT, "grid.color": LINE, "svg.fonttype": "none", "axes.axisbelow": True}
DOTTED = 15  # lines with fewer epochs have a dot for each
NAME_LETTERS = 38  # of a bar's name
BAR_PX = 30  # height of a bar with its gap


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A chart's place around its axes, in pixels."""

    width: int
    height: int
    left: int
    top: int
    right: int = 16
    bottom: int = 48

    def axes(self, figure: Figure) -> Axes:
        across, down = self.width - self.left - self.right, self.height - self.top - self.bottom
        return figure.add_axes(
            (self.left / self.width, self.bottom / self.height, across / self.width, down / self.height)
        )


def paint(chart: Chart, *, narrow: bool) -> Figure:
    """The figure of a chart that has data. Call it within `matplotlib.rc_context(FONT)`."""
    marks = chart.marks
    width = NARROW_PX if narrow else WIDE_PX
    if isinstance(marks, Answers):
        figure = _figure(width, answers_height(marks, narrow=narrow))
        paint_answers(figure, marks, narrow=narrow)
    elif isinstance(marks, Points):
        figure = _points(marks, width)
    elif isinstance(marks, Lines):
        figure = _lines(marks, width)
    else:
        figure = _bars(marks, width, narrow=narrow)
    return figure


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / PX, height / PX), dpi=PX, facecolor="none")


def _plain(axes: Axes, *, across: bool = True, down: bool = True) -> None:
    """Thin grid lines, and no frame but the lower line."""
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    if across:
        axes.grid(axis="y", linewidth=0.8)
    if down:
        axes.grid(axis="x", linewidth=0.8)


def _points(marks: Points, width: int) -> Figure:
    frame = Frame(width=width, height=380 if width == WIDE_PX else 330, left=66, top=34, right=24)
    figure = _figure(frame.width, frame.height)
    axes = frame.axes(figure)
    _plain(axes)
    if marks.front:
        x, y = zip(*marks.front, strict=True)
        axes.plot(x, y, color=SOFT, linewidth=1, linestyle=":", drawstyle="steps-post", zorder=1)
    for point in marks.items:
        face = point.look.colour if point.alone else "none"
        axes.plot(
            [point.x], [point.y], linestyle="none", marker=point.look.shape, color=point.look.colour,
            markerfacecolor=face, markersize=13 if point.on_front else 9, zorder=3,
        )  # fmt: skip
    if marks.y_range:
        axes.set_ylim(*marks.y_range)
    axes.margins(0.08, 0.12)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    axes.set_xlabel(marks.x_title)
    _title_y(figure, frame, marks.y_title)
    place_labels(axes, marks.items, width=frame.width)
    return figure


def _title_y(figure: Figure, frame: Frame, text: str) -> None:
    """The name of the upright axis, above it and lying: nobody turns the head."""
    figure.text(8 / frame.width, 1 - 14 / frame.height, text, color=SOFT, ha="left", va="center")


def _lines(marks: Lines, width: int) -> Figure:
    names = [cut(line.name, int((width - 60) / LETTER_PX)) for line in marks.items]
    rows = _legend_rows(names, width)
    top = 34 + 20 * len(rows)
    frame = Frame(width=width, height=top + (300 if width == WIDE_PX else 240) + 48, left=66, top=top)
    figure = _figure(frame.width, frame.height)
    axes = frame.axes(figure)
    _plain(axes, down=False)
    scale = 100.0 if marks.margin is not None else 1.0
    for line in marks.items:
        y = [math.nan if value is None else scale * value for value in line.y]
        style: dict[str, Any] = {"color": line.look.colour, "linestyle": line.look.dash, "linewidth": 1.8}
        if len(y) < DOTTED:
            style |= {"marker": line.look.shape, "markersize": 4.5}
        axes.plot(line.x, y, **style)
        if line.band:
            low, high = ([scale * value for value in side] for side in zip(*line.band, strict=True))
            axes.fill_between(line.x, low, high, color=line.look.colour, alpha=0.13, linewidth=0)
    if marks.margin is not None:
        axes.axhline(0, color=SOFT, linewidth=1)
        for end in (-scale * marks.margin, scale * marks.margin):
            axes.axhline(end, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0 %")
    axes.margins(x=0.02)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True, nbins=10 if width == WIDE_PX else 6)
    _title_y(figure, frame, marks.y_title)
    _legend(figure, frame, marks, names, rows)
    return figure


def _legend_rows(names: Sequence[str], width: int) -> list[list[int]]:
    """The places of the names in each row of the legend."""
    rows: list[list[int]] = []
    room = 0.0
    for place, name in enumerate(names):
        needed = 42 + LETTER_PX * len(name)
        if not rows or needed > room:
            rows.append([])
            room = width - 16.0
        rows[-1].append(place)
        room -= needed
    return rows


def _legend(figure: Figure, frame: Frame, marks: Lines, names: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    from matplotlib.lines import Line2D

    for number, places in enumerate(rows):
        x, y = 8.0, 1 - (34 + 20 * number) / frame.height
        for line, name in ((marks.items[place], names[place]) for place in places):
            key = Line2D(
                [x / frame.width, (x + 22) / frame.width], [y, y], color=line.look.colour, linewidth=2.2,
                linestyle=line.look.dash,
            )  # fmt: skip
            figure.add_artist(key)
            figure.text((x + 28) / frame.width, y, name, va="center_baseline", ha="left", color=TEXT)
            x += 42 + LETTER_PX * len(name)


def _bars(marks: Bars, width: int, *, narrow: bool) -> Figure:
    names = [cut(name, NAME_LETTERS) for name in marks.names]
    shown = [part for part in marks.items if any(part.values)]
    left = 10 if narrow else int(24 + LETTER_PX * max(map(len, names)))
    pitch = BAR_PX + 18 if narrow else BAR_PX
    rows = _legend_rows([part.name for part in shown], width)
    top = 14 + 20 * len(rows)
    frame = Frame(width=width, height=top + pitch * len(names) + 48, left=left, top=top, right=64)
    figure = _figure(frame.width, frame.height)
    axes = frame.axes(figure)
    _plain(axes, across=False)
    places = range(len(names))
    starts = [0.0] * len(names)
    for part in shown:
        axes.barh(places, part.values, 18 / pitch, starts, color=part.colour, linewidth=0)
        starts = [start + value for start, value in zip(starts, part.values, strict=True)]
    for place, (name, end) in enumerate(zip(names, starts, strict=True)):
        axes.annotate(f"{end:.3g} s", (end, place), (6, 0), textcoords="offset points", va="center_baseline")
        if narrow:
            axes.annotate(name, (0, place), (0, 17), textcoords="offset points", va="center", ha="left")
    axes.set_ylim(len(names) - 0.5, -0.5 - (0.2 if narrow else 0))
    axes.set_yticks([] if narrow else list(places), [] if narrow else list(names))
    for label in axes.get_yticklabels():
        label.set_color(TEXT)
    axes.set_xlabel(marks.x_title)
    for number, row in enumerate(rows):
        x, y = 8.0, 1 - (14 + 20 * number) / frame.height
        for part in (shown[place] for place in row):
            figure.text(x / frame.width, y, "■", color=part.colour, va="center_baseline", ha="left")
            figure.text((x + 16) / frame.width, y, part.name, color=TEXT, va="center_baseline", ha="left")
            x += 42 + LETTER_PX * len(part.name)
    return figure
