"""A sweep's result in one line: what a search says to use, from the pairs of its final only, or the largest gain shown.

It compares validation errors of equal seeds, never the test set's, by the rules of tune/stats/pairs.py: an arm is to be used
that is shown to be faster and shown not to be worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.report.comparisons import accuracy_text, ratio_text
from tune.report.same_epochs import same_epochs
from tune.stats.intervals import ENOUGH
from tune.stats.pairs import FASTER, NOT_WORSE, Accuracy, Comparison, counted

if TYPE_CHECKING:
    from tune.report.arms import ArmRow
    from tune.tracking.reader import SweepRecord


NO_RESULT = "No result: no arm has a pair with the baseline."


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """An arm of the final that has enough pairs with the baseline."""

    arm: str
    found: Comparison
    accuracy: Accuracy

    @property
    def is_faster(self) -> bool:
        return self.found.verdict == FASTER

    @property
    def is_as_good(self) -> bool:
        return self.accuracy.verdict == NOT_WORSE

    @property
    def ratio(self) -> float:
        return self.found.ratio or 0.0

    def __str__(self) -> str:
        return (
            f"{ratio_text(self.found)} the baseline's epoch speed, {self.found.verdict}; validation MSE "
            f"{accuracy_text(self.accuracy)}; {counted(self.found.count, 'pair')}"
        )


def headline(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The line of a search or of arms that were compared; None where nothing was."""
    return verdict(record, rows) or answer(record, rows)


def answer(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """Which arm has the largest gain over the baseline that is shown, at an error shown not to be worse.

    None where no arm has a pair, and of a search without its final. Arms are compared with the baseline only: it does
    not say which of two is faster.
    """
    baseline = record.tags.get("baseline")
    found = {row.arm: row.compared for row in rows if row.compared and row.compared.count and not row.is_baseline}
    if not found or any("stage" in trial.tags for trial in record.trials):
        return None
    most = max(one.count for one in found.values())
    if most < ENOUGH:
        needed = f"{ENOUGH} are needed (--repeats {ENOUGH} or more)"
        return f"Answer: none yet, {counted(most, 'pair')} an arm at most: {needed}."
    fast = {arm: one for arm, one in found.items() if one.verdict == FASTER}
    good = {arm: one for arm, one in fast.items() if one.accuracy and one.accuracy.verdict == NOT_WORSE}
    order = sorted(fast, key=lambda arm: (arm in good, fast[arm].ratio or 0.0), reverse=True)
    others = [f"{arm} {ratio_text(fast[arm])}" for arm in order if arm in good][1:]
    errors = _errors(record, baseline, fast)
    costly = [f"{arm} {ratio_text(fast[arm])}, {errors[arm]}" for arm in order if arm not in good]
    if good:
        best = good[order[0]]
        line = f"Answer: {order[0]}, an epoch {ratio_text(best)} as fast as {baseline}'s, validation error "
        line += f"{accuracy_text(best.accuracy)}, {counted(best.count, 'pair')}."
    else:
        kept = " without a worse validation error" if fast else ""
        line = f"Answer: {baseline}; no arm is shown to be faster{kept}."
    line += f" Faster than {baseline}, too: {'; '.join(others)}." if others else ""
    return line + (f" Faster, but not shown to keep the error: {'; '.join(costly)}." if costly else "")


def _errors(record: SweepRecord, baseline: str | None, found: Mapping[str, Comparison]) -> dict[str, str]:
    """Each arm's error beside the baseline's, and beside that of the same epochs where the best ones lie apart."""
    texts = {arm: accuracy_text(one.accuracy) for arm, one in found.items()}
    margins = [one.accuracy.margin for one in found.values() if one.accuracy]
    for arm, same in same_epochs(record.trials, baseline, margins[0]).items() if margins else ():
        if arm in texts:
            texts[arm] += f" and in the same epochs {accuracy_text(same.accuracy)}"
    return texts


def verdict(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The line under the table of a search with a final; None for any other sweep."""
    settings = {
        trial.tags["arm"]: trial.tags.get("settings", "")
        for trial in record.trials
        if trial.tags.get("stage") == "final" and "arm" in trial.tags
    }
    if not settings:
        return None
    baseline = record.tags.get("baseline", "")
    final = [row for row in rows if row.arm in settings]
    if not any(row.is_baseline and row.trials for row in final):
        return "no verdict: the baseline has not finished"
    most = max((row.compared.count for row in final if row.compared), default=0)
    if not most:
        return "no verdict: no arm of the final has a pair with the baseline"
    sure = [
        _Compared(arm=row.arm, found=row.compared, accuracy=row.compared.accuracy)
        for row in final
        if row.compared and row.compared.accuracy and row.compared.count >= ENOUGH
    ]
    if not sure and most >= ENOUGH:
        return "no verdict: no arm of the final has a validation error to compare with the baseline's"
    if not sure:
        return f"no verdict, {counted(most, 'pair')} only, {ENOUGH} are needed: --repeats {ENOUGH} or more"
    best = max(sure, key=lambda one: (one.is_faster and one.is_as_good, one.ratio))
    if best.is_faster and best.is_as_good:
        return f"use this: {settings[best.arm]} ({best}){_more_accurate(best.accuracy, sure)}"
    none = Accuracy(difference=0.0, bounds=None, count=0, margin=best.accuracy.margin)  # the baseline beside itself
    why = _why_the_baseline(sure)
    return f"use this: {settings[baseline]} (the baseline: {why}; {best.arm}: {best}){_more_accurate(none, sure)}"


def _why_the_baseline(compared: Sequence[_Compared]) -> str:
    if any(one.is_faster for one in compared):
        return "no faster arm is shown to keep its accuracy"
    return "no arm is shown to be faster"


def _more_accurate(accuracy: Accuracy, compared: Sequence[_Compared]) -> str:
    """A remark where another arm of the final has an error that is lower than this one by more than the margin."""
    best = min(compared, key=lambda one: one.accuracy.difference)
    if (1 + best.accuracy.difference) * (1 + accuracy.margin) >= 1 + accuracy.difference:
        return ""
    return f"; lower in error: {best.arm} ({best})"
