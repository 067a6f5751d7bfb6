"""What a chart holds, as plain values: intervals, points, lines, bars. Nothing here draws or knows a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tune.report.row_verdict import RowVerdict
from tune.stats.intervals import Bounds

# Okabe and Ito's colours, which colour-blind readers tell apart, without black and yellow (jfly.uni-koeln.de/color)
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
Dash = Literal["solid", "dotted", "dashdot", "dashed"]
DASHES: tuple[Dash, ...] = ("solid", "dotted", "dashdot", "dashed")  # the next one each time the colours repeat
SHAPES = ("o", "s", "^", "p")  # of points, likewise, in matplotlib's letters


@dataclass(frozen=True, kw_only=True)
class Look:
    """An arm looks the same in all charts."""

    colour: str
    dash: Dash
    shape: str


def look(place: int) -> Look:
    """The look of the arm at this place in the order of colours."""
    turn = place // len(COLOURS)
    return Look(colour=COLOURS[place % len(COLOURS)], dash=DASHES[turn % len(DASHES)], shape=SHAPES[turn % len(SHAPES)])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One arm beside the baseline: its speed-up and its error's difference, each with an interval where it has one."""

    arm: str
    ratio: float
    interval: Bounds | None
    error: float | None  # relative: 0.01 is 1 % more
    error_bounds: Bounds | None
    error_kind: str  # a key of tune.report.row_verdict.SIGNS: GOOD, SLOW for worse, or UNSURE
    verdict: RowVerdict


@dataclass(frozen=True, kw_only=True)
class Answers:
    items: Sequence[Answer]
    baseline: str
    margin: float  # the largest difference of an error that counts as none


@dataclass(frozen=True, kw_only=True)
class Point:
    name: str
    x: float
    y: float
    look: Look
    on_front: bool
    named: bool  # whether its name stands beside it, where there is room
    alone: bool  # on its device, for certain


@dataclass(frozen=True, kw_only=True)
class Points:
    items: Sequence[Point]
    front: Sequence[tuple[float, float]]  # the fastest first
    x_title: str
    y_title: str
    y_range: Bounds | None  # None: from the smallest to the largest


@dataclass(frozen=True, kw_only=True)
class Line:
    """A value for each epoch; None is a gap. `band`: (lowest, highest) of each epoch, or nothing."""

    name: str
    x: Sequence[int]
    y: Sequence[float | None]
    band: Sequence[Bounds] = ()
    look: Look


@dataclass(frozen=True, kw_only=True)
class Lines:
    items: Sequence[Line]
    y_title: str
    margin: float | None = None  # lines at +- this much; the values are relative then, and shown in percent


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of each bar, in seconds. One value for each of the names."""

    name: str
    values: Sequence[float]
    colour: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    items: Sequence[Part]
    names: Sequence[str]
    x_title: str


Marks = Answers | Points | Lines | Bars
