"""The report's line on what the arms proved: their kernels, and how near the gate's limits they came."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tune.kernel_names import short
from tune.tracking import TrialRecord

PAIRS = tuple((f"gate/{what}_error", f"gate/{what}_limit") for what in ("prediction", "gradient", "worst_series"))


def proof_note(arms: Mapping[str, Iterable[TrialRecord]]) -> list[str]:
    """One line over the arms whose trials passed the gate, or none where no trial says that it did.

    An arm's number is the largest over its trials: 1 is the limit. Arms that failed have their reason elsewhere.
    """
    told = [f"{arm} {text}" for arm, trials in arms.items() if (text := _proof(trials))]
    if not told:
        return []
    return [f"Gate (largest error / its limit; kernels of a profiled step): {'; '.join(told)}."]


def _proof(trials: Iterable[TrialRecord]) -> str:
    passed = [trial for trial in trials if trial.tags.get("gate", "").startswith("passed")]
    if not passed:
        return ""
    metrics = [trial.metrics for trial in passed]
    ratios = [one[error] / one[limit] for one in metrics for error, limit in PAIRS if error in one and limit in one]
    remarks = {trial.tags["gate"].removeprefix("passed").removeprefix(", ") for trial in passed} - {""}
    names = dict.fromkeys(name for trial in passed for name in _told(trial))
    said = "".join(f" ({text})" for text in sorted(remarks))
    number = f"{max(ratios):.2f}" if ratios else "(error not recorded)"
    return f"{number}, {' + '.join(names) or 'kernels not recorded'}{said}"


def _told(trial: TrialRecord) -> list[str]:
    """Short names; where the trial has no list of names, what it says in words."""
    names, text = kernel_list(trial), trial.tags.get("kernels", "")
    return [short(name) for name in names] if names is not None else [text] if text else []


def kernel_list(trial: TrialRecord) -> list[str] | None:
    """The proven kernels' names; None where the trial proved none, or its tag is no list of names."""
    try:
        names = json.loads(trial.tags.get("kernels", ""))
    except ValueError:
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
