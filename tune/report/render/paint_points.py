"""Puts the names of points beside them, where they cover neither a point nor another name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tune.report.marks import Point
from tune.report.render.scales import cut
from tune.report.render.theme import TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top
LETTER_PX, LINE_PX, POINT_PX = 6.8, 14.0, 9.0
MOST_LETTERS = 34


def place_labels(axes: Axes, points: Sequence[Point], *, width: int) -> None:
    """Name the points, those on the front first. A name without room is left out: the table has all of them."""
    centres = {id(point): tuple(axes.transData.transform((point.x, point.y))) for point in points}
    frame = axes.get_window_extent()
    taken: list[Box] = [_around(x, y) for x, y in centres.values()]
    for point in sorted((point for point in points if point.named), key=lambda point: not point.on_front):
        x, y = centres[id(point)]
        name = cut(point.name, MOST_LETTERS)
        for align, dx, dy in (("left", 12, 0), ("right", -12, 0), ("center", 0, 17), ("center", 0, -17),
                              ("left", 8, 15), ("right", -8, 15), ("left", 8, -15), ("right", -8, -15)):  # fmt: skip
            box = _box(name, align, x + dx, y + dy)
            inside = box[0] >= frame.x0 and box[2] <= width - 2 and box[1] >= frame.y0 and box[3] <= frame.y1 + LINE_PX
            if inside and not any(_meet(box, other) for other in taken):
                axes.annotate(
                    name, (point.x, point.y), (dx, dy), textcoords="offset points", ha=align, va="center_baseline",
                    fontsize=11, color=TEXT,
                )  # fmt: skip
                taken.append(box)
                break


def _around(x: float, y: float) -> Box:
    return x - POINT_PX, y - POINT_PX, x + POINT_PX, y + POINT_PX


def _box(name: str, align: str, x: float, y: float) -> Box:
    wide = LETTER_PX * len(name)
    left = {"left": x, "right": x - wide, "center": x - wide / 2}[align]
    return left, y - LINE_PX / 2, left + wide, y + LINE_PX / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
