"""What looks made of the arms of a sweep with `--repeats auto`, in words and as tags: where each stopped, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tune.report.comparisons import comparison_json
from tune.stats.intervals import ALPHA
from tune.stats.looks import LOOKS, SPEED_MARGIN
from tune.stats.pairs import Comparison
from tune.stats.verdicts import ACCURACY_WORDS, FASTER, NOT_WORSE, SLOWER, SPEED_WORDS, STOP_WORDS, WITHIN_MARGIN

TAG = "look"  # of the sweep's run: look.ARM holds what the looks made of an arm, as JSON
ENDED = ("speed", "accuracy", "stopped_at", "because", "chance")


def stop_text(comparison: Comparison) -> str:
    """after 3 blocks: both decided; after 5 blocks: little chance of more (chance 12 %); "" without looks."""
    arm = comparison.looks
    if arm is None:
        return ""
    if arm.stopped_at is None:
        latest = max((each.look for each in (arm.speed, arm.accuracy) if each.look is not None), default=None)
        return "no look yet" if latest is None else f"after {latest} blocks: goes on"
    chance = "" if arm.chance is None else f" (chance {100 * arm.chance:.0f} %)"
    return f"after {arm.stopped_at} blocks: {STOP_WORDS[arm.because or '']}{chance}"


def look_notes(by_arm: Mapping[str, Comparison]) -> list[str]:
    """Where each arm stopped and why, and what the levels of the looks mean; no line without looks."""
    arms: dict[str, list[str]] = {}
    for arm, comparison in by_arm.items():
        if text := stop_text(comparison):
            arms.setdefault(text, []).append(arm)
    if not arms:
        return []
    *first, last = (look.blocks for look in LOOKS)
    stopped = "; ".join(f"{', '.join(names)} {text}" for text, names in arms.items())
    *shares, share = (f"{100 * look.alpha:g}" for look in LOOKS)
    return [
        f"Looks after {', '.join(map(str, first))} and {last} blocks (--repeats auto): {stopped}.",
        "Verdicts and intervals are those of the look that decided, or of the latest. The looks may err in "
        f"{', '.join(shares)} and {share} % of sweeps, in {100 * ALPHA:g} % together: for a false "
        f"'{SPEED_WORDS[FASTER]}' or '{SPEED_WORDS[SLOWER]}' of any arm, and for a false "
        f"'{SPEED_WORDS[WITHIN_MARGIN]}' (+-{100 * SPEED_MARGIN:g} %) or '{ACCURACY_WORDS[NOT_WORSE]}' of each arm.",
    ]


def look_tags(by_arm: Mapping[str, Comparison]) -> dict[str, str]:
    """Tags of the sweep's run: for each arm its verdicts, their looks, levels and intervals, and why it stopped."""
    return {
        f"{TAG}.{arm.replace('=', ':')}": json.dumps({**_looks(comparison), "stopped": stop_text(comparison)})
        for arm, comparison in by_arm.items()
        if comparison.looks is not None
    }


def _looks(comparison: Comparison) -> dict[str, Any]:
    looks = comparison_json(comparison)["looks"]
    return {name: looks[name] for name in ENDED}
