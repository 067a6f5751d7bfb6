"""Draws the chart that is the answer: each arm's speed-up beside its error, and the verdict in colour and words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune.report.comparisons import percent_text
from tune.report.marks import Answer, Answers
from tune.report.render.scales import Scale, cut, error_scale, ratio_scale
from tune.report.render.theme import LINE, OF_VERDICT, SOFT, TEXT
from tune.report.row_verdict import SLOW
from tune.stats.intervals import Bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTER_PX = 6.8
TOP_PX, BOTTOM_PX = 36, 40
LABEL_PX = 52  # room for a ratio beside its interval
NARROW_WORDS_PX = 30  # height of a narrow row's words in one line, above its intervals
NARROW_LETTERS = 44  # of a name and a verdict that fit beside each other
NAME_LETTERS = 30  # of a line of a name; a longer name takes two


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where things stand, in pixels from the left and the top."""

    width: int
    pitch: int  # of a row
    words: int  # height of a row's words, if they stand above its intervals
    middle: int  # of a row's intervals, from its top
    speed: tuple[float, float]
    error: tuple[float, float]
    number: float | None  # of the error's number; None: no room
    verdict: float


def _places(marks: Answers, *, narrow: bool) -> _Places:
    if narrow:
        words = NARROW_WORDS_PX if all(_beside(answer) for answer in marks.items) else 2 * NARROW_WORDS_PX - 10
        return _Places(
            width=358, pitch=36 + words, words=words, middle=16 + words, speed=(8, 222), error=(242, 350),
            number=None, verdict=350,
        )  # fmt: skip
    longest = max(len(line) for answer in marks.items for line in _name_lines(answer.arm))
    left = 24 + LETTER_PX * longest
    return _Places(
        width=1040, pitch=38, words=0, middle=19, speed=(left, 560), error=(592, 722), number=784, verdict=806
    )


def _beside(answer: Answer) -> bool:
    """Whether the arm's name and its verdict fit into one line of a narrow chart."""
    return len(answer.arm) + len(answer.verdict.text) + 2 <= NARROW_LETTERS


def _name_lines(name: str) -> list[str]:
    return textwrap.wrap(cut(name, 2 * NAME_LETTERS - 8), NAME_LETTERS)[:2] or [name]


def answers_height(marks: Answers, *, narrow: bool) -> int:
    """The chart's height in pixels."""
    return TOP_PX + _places(marks, narrow=narrow).pitch * len(marks.items) + BOTTOM_PX


def paint_answers(figure: Figure, marks: Answers, *, narrow: bool) -> None:
    """Fill the figure, of `answers_height`."""
    places = _places(marks, narrow=narrow)
    height = answers_height(marks, narrow=narrow)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, places.width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    speed, error = _speed_scale(marks.items, places), _error_scale(marks, places)
    _frame(axes, marks, places, speed, error, narrow=narrow)
    for number, answer in enumerate(marks.items):
        top = TOP_PX + number * places.pitch
        if number:
            axes.plot([0, places.width], [top, top], color=LINE, linewidth=0.8, zorder=0)
        _words(axes, answer, places, top, narrow=narrow)
        _speed(axes, answer, speed, top + places.middle)
        _error(axes, answer, error, places, top + places.middle)


def _speed_scale(answers: Sequence[Answer], places: _Places) -> Scale:
    ends = [end for answer in answers for end in (answer.ratio, *(answer.interval or ()))]
    before = LABEL_PX if any(answer.ratio < 1 for answer in answers) else 0
    after = LABEL_PX if any(answer.ratio >= 1 for answer in answers) else 0
    return ratio_scale(ends, *places.speed, before=before, after=after)


def _error_scale(marks: Answers, places: _Places) -> Scale:
    known = [answer for answer in marks.items if answer.error is not None]
    ends = [end for answer in known for end in (answer.error or 0.0, *(answer.error_bounds or ()))]
    return error_scale(ends, marks.margin, *places.error)


def _frame(axes: Axes, marks: Answers, places: _Places, speed: Scale, error: Scale, *, narrow: bool) -> None:
    """The two scales: upright lines behind the intervals, which leave out the words of a narrow chart's rows."""
    head: dict[str, Any] = {"color": SOFT, "va": "center_baseline", "fontsize": 11.5}
    floor = TOP_PX + places.pitch * len(marks.items)
    spans = (
        [(y + places.words, y + places.pitch) for y in range(TOP_PX, floor, places.pitch)]
        if narrow
        else [(TOP_PX, floor)]
    )

    def upright(x: float, **look: Any) -> None:
        for span in spans:
            axes.plot([x, x], span, **look)

    axes.text(places.speed[0], 14, "slower ← speed → faster", ha="left", **head)
    axes.text(places.error[0], 14, "error → worse" if narrow else "error: lower ← → higher", ha="left", **head)
    for scale, texts in (
        (speed, {value: f"{value:g}x" for value in speed.ticks}),
        (error, {value: f"{100 * value:+.3g} %" if value else "0" for value in error.ticks}),
    ):
        for value, text in texts.items():
            upright(scale(value), color=LINE, linewidth=0.8, zorder=0)
            axes.text(scale(value), floor + 16, text, ha="center", **head)
    for scale, value in ((speed, 1.0), (error, 0.0)):
        upright(scale(value), color=SOFT, linewidth=1.2, zorder=1)
    limit = error(marks.margin)
    upright(limit, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for span in spans:
        axes.fill_between([limit, error(error.high)], *span, color=OF_VERDICT[SLOW], alpha=0.1, linewidth=0)
    axes.text(speed(1), floor + 31, cut(f"as fast as {marks.baseline}", 40), ha=_side(speed, places), **head)


def _side(speed: Scale, places: _Places) -> str:
    """How the words under 1x are set, so that they stay within the picture."""
    share = (speed(1) - places.speed[0]) / (places.speed[1] - places.speed[0])
    return "left" if share < 0.3 else "right" if share > 0.7 else "center"


def _words(axes: Axes, answer: Answer, places: _Places, top: float, *, narrow: bool) -> None:
    colour = OF_VERDICT[answer.verdict.kind]
    verdict: dict[str, Any] = {"color": colour, "va": "center_baseline", "fontsize": 12, "weight": "bold"}
    text = f"{answer.verdict.sign} {answer.verdict.text}"
    if narrow:
        name = cut(answer.arm, NARROW_LETTERS)
        axes.text(8, top + 18, name, ha="left", va="center_baseline", weight="bold", color=TEXT)
        if places.words == NARROW_WORDS_PX:
            axes.text(places.verdict, top + 18, text, ha="right", **verdict)
        else:
            axes.text(8, top + 37, cut(text, NARROW_LETTERS), ha="left", **verdict)
        return
    lines = _name_lines(answer.arm)
    for number, line in enumerate(lines):
        y = top + places.middle + 14 * (number - (len(lines) - 1) / 2)
        axes.text(8, y, line, ha="left", va="center_baseline", weight="bold", color=TEXT)
    axes.text(places.verdict, top + places.middle, cut(text, 35), ha="left", **verdict)


def _speed(axes: Axes, answer: Answer, scale: Scale, y: float) -> None:
    colour = OF_VERDICT[answer.verdict.kind]
    x, one = scale(answer.ratio), scale(1)
    axes.fill_between([min(x, one), max(x, one)], y - 8, y + 8, color=colour, alpha=0.22, linewidth=0)
    _interval(axes, scale, answer.ratio, answer.interval, y, colour)
    faster = answer.ratio >= 1
    end = scale((answer.interval or (answer.ratio,) * 2)[1 if faster else 0])
    axes.text(
        max(end, x) + 10 if faster else min(end, x) - 10, y, f"{answer.ratio:.2f}x", ha="left" if faster else "right",
        va="center_baseline", weight="bold", color=TEXT,
    )  # fmt: skip


def _error(axes: Axes, answer: Answer, scale: Scale, places: _Places, y: float) -> None:
    if answer.error is None:
        return
    _interval(axes, scale, answer.error, answer.error_bounds, y, OF_VERDICT[answer.error_kind])
    if places.number is not None:
        axes.text(
            places.number, y, percent_text(answer.error), ha="right", va="center_baseline", fontsize=11.5, color=TEXT
        )


def _interval(axes: Axes, scale: Scale, value: float, bounds: Bounds | None, y: float, colour: str) -> None:
    """A dot, filled where there is an interval, and the interval with its two ends."""
    if bounds is not None:
        low, high = (scale(end) for end in bounds)
        axes.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt", zorder=3)
        for end in (low, high):
            axes.plot([end, end], [y - 6, y + 6], color=colour, linewidth=2, zorder=3)
    face = colour if bounds is not None else "none"
    axes.plot([scale(value)], [y], marker="o", markersize=7, color=colour, markerfacecolor=face, zorder=4)
