"""What looks made of the arms of a sweep with `--repeats auto`, in words and as tags: where each stopped, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tune.report.comparisons import comparison_json, stop_text
from tune.stats.intervals import ALPHA
from tune.stats.looks import LOOKS, SPEED_MARGIN
from tune.stats.pairs import Comparison
from tune.stats.verdicts import ACCURACY_WORDS, FASTER, NOT_WORSE, SLOWER, SPEED_WORDS, WITHIN_MARGIN

TAG = "look"  # of the sweep's run: look.ARM holds what the looks made of an arm, as JSON


def look_notes(by_arm: Mapping[str, Comparison]) -> list[str]:
    """Where each arm stopped and why, and what the levels of the looks mean; no line without looks."""
    texts = {arm: text for arm, comparison in by_arm.items() if (text := stop_text(comparison))}
    if not texts:
        return []
    *first, last = (look.blocks for look in LOOKS)
    *shares, share = (f"{100 * look.alpha:g}" for look in LOOKS)
    return [
        f"Looks after {', '.join(map(str, first))} and {last} blocks (--repeats auto): {grouped(texts)}.",
        "Verdicts and intervals are those of the look that decided, or of the latest. The looks may err in "
        f"{', '.join(shares)} and {share} % of sweeps, in {100 * ALPHA:g} % together: for a false "
        f"'{SPEED_WORDS[FASTER]}' or '{SPEED_WORDS[SLOWER]}' of any arm, and for a false "
        f"'{SPEED_WORDS[WITHIN_MARGIN]}' (+-{100 * SPEED_MARGIN:g} %) or '{ACCURACY_WORDS[NOT_WORSE]}' of each arm.",
    ]


def grouped(texts: Mapping[str, str]) -> str:
    """fast, other after 3 blocks: both decided; slow after 5 blocks: ..."""
    arms: dict[str, list[str]] = {}
    for arm, text in texts.items():
        arms.setdefault(text, []).append(arm)
    return "; ".join(f"{', '.join(names)} {text}" for text, names in arms.items())


def look_tags(by_arm: Mapping[str, Comparison]) -> dict[str, str]:
    """Tags of the sweep's run: for each arm its verdicts, their looks, levels and intervals, and why it stopped."""
    return {
        f"{TAG}.{arm.replace('=', ':')}": json.dumps(comparison_json(comparison)["looks"])
        for arm, comparison in by_arm.items()
        if comparison.looks is not None
    }
