"""A report begins with the sweep's answer: the largest gain over the baseline, or why there is none."""

from __future__ import annotations

from typing import Any

import pytest
from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.answer import answer_line, headline
from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.tracking.reader import SweepRecord, TrialRecord


def _arm(arm: str, s: float, *, val_mse: float = 0.3, seeds: int = 3) -> list[TrialRecord]:
    """Trials that scatter by a thousandth, so their pairs have an interval."""
    metrics = [{"final/val_mse": val_mse + 1e-5 * seed} for seed in range(seeds)]
    return [_trial(arm, seed, s=s * (1 + 1e-3 * seed**2), metrics=metrics[seed]) for seed in range(seeds)]


def _answer(*arms: list[TrialRecord], **tags: str) -> str | None:
    record = _sweep(*(trial for trials in arms for trial in trials), **tags)
    return answer_line(record, arm_rows(record))


def test_the_largest_gain_whose_error_is_not_worse_is_named_and_the_other_gains_after_it() -> None:
    answer = _answer(_arm("none", 2.0), _arm("fast", 1.0), _arm("other", 1.5))
    assert answer is not None
    assert answer.startswith(
        "Answer: fast, an epoch 2.00x (2.00-2.00) as fast as none's, validation error not worse (+0 %"
    )
    assert ", 3 pairs. Faster than none, too: other 1.33x" in answer


@pytest.mark.parametrize(
    ("arms", "begins"),
    [
        (
            [("fast", {"s": 1.0, "val_mse": 0.4})],
            "Answer: the baseline, none: no arm is shown to be faster without a worse validation",
        ),
        ([("fast", {"s": 3.0})], "Answer: the baseline, none: no arm is shown to be faster."),
        ([("fast", {"s": 2.0})], "Answer: the baseline, none: no arm is shown to be faster."),
        ([("fast", {"s": 1.0, "seeds": 2})], "Answer: none yet, too few pairs (2, 3 needed): --repeats 3 or more."),
    ],
    ids=["worse", "slower", "as fast", "too few pairs"],
)
def test_where_no_gain_is_shown_it_says_so(arms: list[tuple[str, dict[str, Any]]], begins: str) -> None:
    answer = _answer(_arm("none", 2.0), *(_arm(arm, **given) for arm, given in arms))
    assert answer is not None and answer.startswith(begins)


def test_an_arm_that_is_faster_with_a_worse_error_is_named_apart() -> None:
    answer = _answer(_arm("none", 2.0), _arm("fast", 1.0, val_mse=0.4), _arm("other", 1.5))
    assert answer is not None and answer.startswith("Answer: other, ")
    assert "Faster, but not shown to keep the error: fast 2.00x (2.00-2.00), worse (+33" in answer


def test_without_pairs_or_a_searchs_final_there_is_no_answer() -> None:
    assert _answer(_arm("none", 2.0)) is None
    searched = [_trial("fast", 1, tags={"stage": "search"}), _trial("none", 1)]
    assert _answer(searched) is None


def test_page_and_markdown_begin_with_the_answer_and_the_terminal_ends_with_it() -> None:
    record: SweepRecord = _sweep(*_arm("none", 2.0), *_arm("fast", 1.0))
    answer = answer_line(record, arm_rows(record))
    assert answer is not None and notes(record, arm_rows(record))[-1] == answer
    assert f"**{answer}**" in markdown(record).split("| arm", 1)[0]
    page = html_page(record).split("<table", 1)[0]
    assert '<p class="answer">fast trains an epoch 2.00x as fast as none, and its error is not worse.</p>' in page
    assert '<p class="more">fast, an epoch 2.00x (2.00-2.00) as fast as none' in page
    assert '<p class="answer">No answer: no arm has a pair' in html_page(_sweep(*_arm("none", 2.0)))


@pytest.mark.parametrize(
    ("trials", "line"),
    [
        ([*_arm("none", 2.0), *_arm("slow", 3.0)], "Stay with none: no arm is shown to be faster."),
        (
            [*_arm("none", 2.0), *_arm("fast", 1.0, val_mse=0.4)],
            "Stay with none: no arm is shown to be faster without a worse validation error.",
        ),
        ([_trial("none", 1), _trial("fast", 1)], "No answer yet: too few pairs (1, 3 needed): --repeats 3 or more."),
        ([_trial("none", 1)], "No answer: no arm has a pair with the baseline."),
    ],
)
def test_the_headline_says_in_one_sentence_what_to_take(trials: list[Any], line: str) -> None:
    record = _sweep(*trials)
    assert headline(record, arm_rows(record)) == line
