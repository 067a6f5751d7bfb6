"""Verdicts: what pairs say of an arm. Results store the codes; only this file gives the words that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune.stats.intervals import MIN_PAIRS

FASTER, SLOWER = "faster", "slower"
NOT_WORSE, WORSE = "not_worse", "worse"
UNDECIDED = "undecided"  # the pairs are enough, but they show neither; this does not mean equal
WITHIN_MARGIN = "within_margin"  # shown to be as good as equal; only looks ask for it (tune/stats/looks.py)

SPEED_WORDS = {FASTER: "faster", SLOWER: "slower", WITHIN_MARGIN: "within 1 %", UNDECIDED: "too close to call"}
ACCURACY_WORDS = {NOT_WORSE: "not worse", WORSE: "worse", UNDECIDED: "undecided"}
CODES = tuple(dict.fromkeys((*SPEED_WORDS, *ACCURACY_WORDS)))

BOTH_DECIDED, LITTLE_CHANCE, LAST_LOOK = "both_decided", "little_chance", "last_look"  # why an arm stopped at a look
IS_SLOWER, NO_PAIR = "slower", "no_pair"
STOP_WORDS = {
    BOTH_DECIDED: "both decided",
    LITTLE_CHANCE: "little chance of more",
    LAST_LOOK: "last look",
    IS_SLOWER: "slower, so its error changes no choice",
    NO_PAIR: "no pair with the baseline",
}

EARLIER_WORDS = {"no difference shown": UNDECIDED, "not shown": UNDECIDED, "not worse": NOT_WORSE}
EARLIER_TOO_FEW = "no verdict"  # began the text that earlier versions stored where pairs were too few


def too_few(unit: str) -> str:
    """The words where there is no verdict. `unit`: pair, or trial where nothing pairs them."""
    return f"too few {unit}s"


def too_few_text(count: int, unit: str) -> str:
    """too few pairs (2, 3 needed)"""
    return f"{too_few(unit)} ({count}, {MIN_PAIRS} needed)"


def stored_verdict(stored: Mapping[str, Any]) -> str | None:
    """The code of a comparison, or of its accuracy, as any version's JSON holds it. None: too few pairs.

    Raises:
        ValueError: no version wrote this verdict.
    """
    verdict = stored["verdict"]
    # Earlier versions wrote "not shown" also for an accuracy with too few pairs, which has no bounds.
    if verdict is None or verdict.startswith(EARLIER_TOO_FEW) or stored.get("bounds", ()) is None:
        return None
    code = EARLIER_WORDS.get(verdict, verdict)
    if code not in CODES:
        raise ValueError(f"{verdict!r} is no verdict: known are {', '.join(CODES)}")
    return str(code)
