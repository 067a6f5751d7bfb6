"""What an arm's row says in a word: its verdict on speed and error, with a sign, so that colour never stands alone."""

from __future__ import annotations

from dataclasses import dataclass

from tune.report.arms import ArmRow
from tune.report.comparisons import speed_text
from tune.stats.pairs import Accuracy
from tune.stats.verdicts import ACCURACY_WORDS, FASTER, NOT_WORSE, SLOWER, WITHIN_MARGIN, WORSE

GOOD, COSTLY, SLOW, EVEN, UNSURE = "good", "costly", "slow", "even", "unsure"
SIGNS = {GOOD: "▲", COSTLY: "△", SLOW: "▼", EVEN: "●", UNSURE: "○"}


@dataclass(frozen=True, kw_only=True)
class RowVerdict:
    """`kind` is a key of SIGNS; `text` the words, such as "faster, not worse"."""

    kind: str
    text: str

    @property
    def sign(self) -> str:
        return SIGNS[self.kind]


def row_verdict(row: ArmRow) -> RowVerdict:
    """The verdict on an arm; of the baseline, and of an arm without one, the reason."""
    comparison = row.comparison
    if row.is_baseline:
        return RowVerdict(kind=UNSURE, text="baseline")
    if row.shown_as or row.refused:
        return RowVerdict(kind=UNSURE, text=row.shown_as or "refused")
    if comparison is None or not row.trials:
        return RowVerdict(kind=UNSURE, text=row.status)
    speed = comparison.verdict
    if speed is None:
        return RowVerdict(kind=UNSURE, text=speed_text(comparison))
    error = comparison.accuracy.verdict if comparison.accuracy else None
    known = {NOT_WORSE: "error not worse", WORSE: f"error {ACCURACY_WORDS[WORSE]}"}
    words = speed_text(comparison) + ("" if error is None else f", {known.get(error, 'error undecided')}")
    faster = GOOD if error == NOT_WORSE else COSTLY
    kind = {FASTER: faster, SLOWER: SLOW, WITHIN_MARGIN: EVEN}.get(speed, UNSURE)
    return RowVerdict(kind=kind, text=words)


def error_kind(accuracy: Accuracy | None) -> str:
    """GOOD: not worse. SLOW, which has the colour of what is worse: worse. Else UNSURE."""
    return {NOT_WORSE: GOOD, WORSE: SLOW}.get((accuracy and accuracy.verdict) or "", UNSURE)
