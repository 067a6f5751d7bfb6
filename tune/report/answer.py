"""The answer of a sweep in one line: which arm to use. A search takes it from the pairs of its final only.

It compares validation errors of equal seeds, never the test set's, by the rules of tune/stats/pairs.py. An arm that is
to be used has two verdicts: FASTER in time and NOT_WORSE in error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune.common.words import counted
from tune.report.ablation import error_sentences
from tune.report.arms import ArmRow
from tune.report.comparisons import NO_LOOK, accuracy_text, ratio_text, speed_text
from tune.report.pareto import account_of
from tune.report.same_epochs import same_epochs
from tune.stats.intervals import MIN_PAIRS
from tune.stats.pairs import Accuracy, Comparison
from tune.stats.verdicts import FASTER, NOT_WORSE, too_few_text
from tune.tracking.reader import SweepRecord

NO_ANSWER = "No answer: no arm has a pair with the baseline."


@dataclass(frozen=True, kw_only=True)
class _Finalist:
    """An arm of the final that has enough pairs with the baseline."""

    arm: str
    comparison: Comparison
    accuracy: Accuracy

    @property
    def is_faster(self) -> bool:
        return self.comparison.verdict == FASTER

    @property
    def is_usable(self) -> bool:
        return self.is_faster and self.accuracy.verdict == NOT_WORSE

    @property
    def ratio(self) -> float:
        return self.comparison.ratio or 0.0

    def __str__(self) -> str:
        return (
            f"{ratio_text(self.comparison)} the baseline's epoch speed, {speed_text(self.comparison)}; validation MSE "
            f"{accuracy_text(self.accuracy)}; {counted(self.comparison.count, 'pair')}"
        )


def answer_line(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The answer of a search, or of arms that were compared; None where no arm was."""
    return " ".join(answer_sentences(record, rows)) or None


def answer_sentences(record: SweepRecord, rows: Sequence[ArmRow]) -> list[str]:
    """The same by sentence: the first one is the answer, the others say more of it. Empty where no arm was compared."""
    of_search = search_answer(record, rows)
    return [of_search] if of_search else error_sentences(record) or _sweep_sentences(record, rows)


def headline(record: SweepRecord, rows: Sequence[ArmRow]) -> str:
    """The answer in one short sentence, for the head of a page; `answer_sentences` says more."""
    if of_errors := error_sentences(record):
        return of_errors[0].removeprefix("Answer: ").capitalize()
    baseline = record.tags.get("baseline")
    searched = any("stage" in trial.tags for trial in record.trials)
    final = {trial.tags.get("arm") for trial in record.trials if trial.tags.get("stage") == "final"}
    fit = [row for row in rows if row.arm in final] if searched else rows
    compared = {row.arm: row.comparison for row in fit if row.comparison and row.comparison.count}
    if not compared:
        return NO_ANSWER
    if early := _too_early(compared.values()):
        return f"No answer yet: {early}."
    faster = {arm: each for arm, each in compared.items() if each.verdict == FASTER}
    usable = {arm: each for arm, each in faster.items() if each.accuracy and each.accuracy.verdict == NOT_WORSE}
    if not usable:
        kept = " without a worse validation error" if faster else ""
        return f"Stay with {baseline}: no arm is shown to be faster{kept}."
    best = max(usable, key=lambda arm: usable[arm].ratio or 0.0)
    return f"{best} trains an epoch {usable[best].ratio:.2f}x as fast as {baseline}, and its error is not worse."


def sweep_answer(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The answer of a sweep that is no search, in one line; None where there is none."""
    return " ".join(_sweep_sentences(record, rows)) or None


def _sweep_sentences(record: SweepRecord, rows: Sequence[ArmRow]) -> list[str]:
    """The arm with the largest gain over the baseline, of those that are faster and not worse.

    Empty where no arm has a pair, and for a search without its final. Arms are compared with the baseline only, so the
    answer does not say which of two arms is faster.
    """
    baseline = record.tags.get("baseline")
    compared = {row.arm: row.comparison for row in rows if row.comparison and row.comparison.count}
    if not compared or any("stage" in trial.tags for trial in record.trials):
        return []
    if early := _too_early(compared.values()):
        return [f"Answer: none yet, {early}."]
    faster = {arm: comparison for arm, comparison in compared.items() if comparison.verdict == FASTER}
    usable = {arm: each for arm, each in faster.items() if each.accuracy and each.accuracy.verdict == NOT_WORSE}
    by_gain = sorted(faster, key=lambda arm: faster[arm].ratio or 0.0, reverse=True)
    good = [arm for arm in by_gain if arm in usable]
    if good:
        comparison = usable[good[0]]
        line = f"Answer: {good[0]}, an epoch {ratio_text(comparison)} as fast as {baseline}'s, validation error "
        line += f"{accuracy_text(comparison.accuracy)}, {counted(comparison.count, 'pair')}."
    else:
        kept = " without a worse validation error" if faster else ""
        line = f"Answer: the baseline, {baseline}: no arm is shown to be faster{kept}."
    lines = [line]
    if others := [f"{arm} {ratio_text(usable[arm])}" for arm in good[1:]]:
        lines.append(f"Faster than {baseline}, too: {'; '.join(others)}.")
    errors = _error_texts(record, baseline, faster)
    costly = [f"{arm} {ratio_text(faster[arm])}, {errors[arm]}" for arm in by_gain if arm not in usable]
    return lines + ([f"Faster, but not shown to keep the error: {'; '.join(costly)}."] if costly else [])


def _too_early(compared: Iterable[Comparison]) -> str:
    """Why there is no verdict on any arm; "" if there is one. `compared`: at least one."""
    every = list(compared)
    most_pairs, looks = max(each.count for each in every), every[0].looks is not None
    if looks and all(each.looks and each.looks.stopped_at is None and each.verdict is None for each in every):
        return NO_LOOK
    if most_pairs >= MIN_PAIRS:
        return ""
    return too_few_text(most_pairs, "pair") + ("" if looks else f": --repeats {MIN_PAIRS} or more")


def _error_texts(record: SweepRecord, baseline: str | None, compared: Mapping[str, Comparison]) -> dict[str, str]:
    """Each arm's error relative to the baseline's, and in the same epochs where their best epochs lie apart."""
    texts = {arm: accuracy_text(comparison.accuracy) for arm, comparison in compared.items()}
    margins = [comparison.accuracy.margin for comparison in compared.values() if comparison.accuracy]
    for arm, same in same_epochs(record.trials, baseline, margins[0]).items() if margins else ():
        if arm in texts:
            texts[arm] += f" and in the same epochs {accuracy_text(same.accuracy)}"
    return texts


def search_answer(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
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
        return "no answer: the baseline has not finished"
    compared = [row.comparison for row in final if row.comparison and row.comparison.count]
    if not compared:
        return "no answer: no arm of the final has a pair with the baseline"
    if early := _too_early(compared):
        return f"no answer: {early}"
    finalists = list(_finalists(final))
    if not finalists:
        return "no answer: no arm of the final has a validation error to compare with the baseline's"
    best = max(finalists, key=lambda finalist: (finalist.is_usable, finalist.ratio))
    if best.is_usable:
        return f"use this{_reach(record)}: {settings[best.arm]} ({best}){_lower_in_error(best.accuracy, finalists)}"
    why = "no arm is shown to be faster"
    if any(finalist.is_faster for finalist in finalists):
        why = "no faster arm is shown to keep its accuracy"
    unchanged = Accuracy(difference=0.0, bounds=None, count=0, margin=best.accuracy.margin)  # the baseline's own
    remark = _lower_in_error(unchanged, finalists)
    return f"use this{_reach(record)}: {settings[baseline]} (the baseline: {why}; {best.arm}: {best}){remark}"


def _reach(record: SweepRecord) -> str:
    """How far the search looked; nothing of a search of an earlier version, which did not look beside its best."""
    account = account_of(record)
    if not account:
        return ""
    return ", the best found within one step" if account.get("complete") else ", the best found in the time given"


def _finalists(final: Iterable[ArmRow]) -> Iterable[_Finalist]:
    for row in final:
        if row.comparison and row.comparison.accuracy and row.comparison.count >= MIN_PAIRS:
            yield _Finalist(arm=row.arm, comparison=row.comparison, accuracy=row.comparison.accuracy)


def _lower_in_error(accuracy: Accuracy, finalists: Sequence[_Finalist]) -> str:
    """A remark where another arm of the final has an error that is lower than this one by more than the margin."""
    best = min(finalists, key=lambda finalist: finalist.accuracy.difference)
    if (1 + best.accuracy.difference) * (1 + accuracy.margin) >= 1 + accuracy.difference:
        return ""
    return f"; lower in error: {best.arm} ({best})"
