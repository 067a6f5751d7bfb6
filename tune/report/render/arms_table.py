"""The table of arms on the page: numbers, with each interval drawn beside the others on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tune.report.arms import ArmRow, epoch_text, total_text
from tune.report.comparisons import percent_text, range_text
from tune.report.marks import Answer, Answers
from tune.report.render.scales import Scale, error_scale, ratio_scale
from tune.report.row_verdict import SIGNS, row_verdict
from tune.stats.intervals import Bounds

TOTAL = "whole training,\u00a0s"
HEAD = ("arm", "s/epoch", "speed", "error", "test MSE", TOTAL, "verdict")
LESS = ("test MSE", TOTAL, "s/epoch")  # columns without which a narrow page does; all are in the details
EDGE = 3.0  # percent of a drawing that stays free at its two ends
WHOLE = 100.0


def arms_table(rows: Sequence[ArmRow], answers: Answers) -> str:
    """The table of the arms that ran, as HTML. `answers` are those of the chart."""
    drawn = {answer.arm: answer for answer in answers.items}
    ends = [end for answer in answers.items for end in (answer.ratio, *(answer.interval or ()))]
    errors = [end for answer in answers.items for end in (answer.error or 0.0, *(answer.error_bounds or ()))]
    speed = ratio_scale(ends, EDGE, WHOLE - EDGE)
    error = error_scale(errors, answers.margin, EDGE, WHOLE - EDGE)
    head = "".join(f"<th{_kind(name)}>{escape(name)}</th>" for name in HEAD)
    body = "\n".join(_row(row, drawn.get(row.arm), speed, error, answers.margin) for row in rows)
    table = f'<table class="arms">\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table>'
    return f'<div class="wide-table">{table}</div>'


def _kind(name: str) -> str:
    kinds = [{"arm": "", "speed": "drawn", "error": "drawn", "verdict": "said"}.get(name, "number")]
    kinds += ["less"] if name in LESS else []
    return f' class="{" ".join(kinds)}"' if any(kinds) else ""


def _row(row: ArmRow, answer: Answer | None, speed: Scale, error: Scale, margin: float) -> str:
    verdict = row_verdict(row)
    sign = "" if row.is_baseline else f"{SIGNS[verdict.kind]} "
    cells = {
        "arm": escape(row.arm),
        "s/epoch": escape(epoch_text(row)),
        "speed": _speed(answer, speed),
        "error": _error(answer, error, margin),
        "test MSE": "-" if row.test_mse is None else f"{row.test_mse:.4f}",
        TOTAL: escape(total_text(row)),
        "verdict": f'<span class="verdict {verdict.kind}">{sign}{escape(verdict.text)}</span>',
    }
    shown = "".join(f"<td{_kind(name)}>{cells[name]}</td>" for name in HEAD)
    base = ' class="base"' if row.is_baseline else ""
    return f"<tr{base}>{shown}</tr>"


def _speed(answer: Answer | None, scale: Scale) -> str:
    if answer is None:
        return ""
    interval = f" ({range_text(answer.interval)})" if answer.interval else ""
    number = f'<span class="keep"><strong>{answer.ratio:.2f}x</strong>{interval}</span>'
    return number + drawn_interval(scale, answer.ratio, answer.interval, answer.verdict.kind, (1.0,))


def _error(answer: Answer | None, scale: Scale, margin: float) -> str:
    if answer is None or answer.error is None:
        return ""
    bounds = answer.error_bounds
    limits = f" ({' to '.join(percent_text(end).removesuffix(' %') for end in bounds)})" if bounds else ""
    number = f'<span class="keep">{percent_text(answer.error)}{limits}</span>'.replace(" %", "\u00a0%")
    return number + drawn_interval(scale, answer.error, bounds, answer.error_kind, (0.0, margin))


def drawn_interval(scale: Scale, value: float, bounds: Bounds | None, kind: str, lines: Sequence[float]) -> str:
    """An interval as SVG, as wide as its cell. `scale` gives percents; `lines`: values with an upright line.

    The first line is whole, the others are dashed. A value without an interval is a ring.
    """

    def upright(at: float, dashes: str) -> str:
        x = f"{scale(at):.2f}%"
        return f'<line x1="{x}" x2="{x}" y1="0" y2="14" stroke="var(--soft)" stroke-width="1"{dashes}/>'

    shapes = [upright(at, ' stroke-dasharray="2 2"' if number else "") for number, at in enumerate(lines)]
    colour = f"var(--{kind})"
    if bounds is not None:
        low, high = (f"{scale(end):.2f}%" for end in bounds)
        shapes.append(f'<line x1="{low}" x2="{high}" y1="7" y2="7" stroke="{colour}" stroke-width="3"/>')
    fill = colour if bounds is not None else "var(--page)"
    shapes.append(
        f'<circle cx="{scale(value):.2f}%" cy="7" r="3.5" stroke="{colour}" stroke-width="1.5" fill="{fill}"/>'
    )
    return f'<svg aria-hidden="true">{"".join(shapes)}</svg>'
