"""What the arms proved: their kernels, and how near the gate's limits they came. A line of notes, rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from tune.gate.kernel_names import short
from tune.tracking.reader import TrialRecord

NAME_LENGTH = 40  # characters of a kernel's name in the line; the table has all of them
PAIRS = tuple((f"gate/{what}_error", f"gate/{what}_limit") for what in ("prediction", "gradient", "worst_series"))
UNKNOWN = "kernels not recorded"


def proof_note(arms: Mapping[str, Iterable[TrialRecord]]) -> list[str]:
    """One line over the arms whose trials passed the gate, or none where no trial says that it did."""
    told = [f"{arm} {number}, {_first(names)}{remarks}" for arm, (number, names, remarks) in _proofs(arms).items()]
    if not told:
        return []
    return [f"Gate (largest error / its limit; a kernel of a profiled step): {'; '.join(told)}."]


def proof_rows(arms: Mapping[str, Iterable[TrialRecord]]) -> list[list[str]]:
    """The same with every kernel's name: arm, error over limit, kernels."""
    found = _proofs(arms).items()
    return [[arm, f"{number}{remarks}", ", ".join(names) or UNKNOWN] for arm, (number, names, remarks) in found]


def _first(names: Sequence[str]) -> str:
    """One name says whose kernels ran; a long one says so in its beginning."""
    if not names:
        return UNKNOWN
    name = names[0] if len(names[0]) <= NAME_LENGTH else f"{names[0][: NAME_LENGTH - 3]}..."
    return f"{name} and {len(names) - 1} more" if len(names) > 1 else name


def _proofs(arms: Mapping[str, Iterable[TrialRecord]]) -> dict[str, tuple[str, list[str], str]]:
    """Number, kernels and remarks of each arm of which a trial passed the gate.

    An arm's number is the largest over its trials: 1 is the limit. Arms that failed have their reason elsewhere.
    """
    told = {arm: [one for one in trials if _passed(one)] for arm, trials in arms.items()}
    return {arm: _proof(passed) for arm, passed in told.items() if passed}


def _passed(trial: TrialRecord) -> bool:
    return trial.tags.get("gate", "").startswith("passed")


def _proof(passed: Sequence[TrialRecord]) -> tuple[str, list[str], str]:
    metrics = [trial.metrics for trial in passed]
    ratios = [one[error] / one[limit] for one in metrics for error, limit in PAIRS if error in one and limit in one]
    remarks = {trial.tags["gate"].removeprefix("passed").removeprefix(", ") for trial in passed} - {""}
    names = dict.fromkeys(name for trial in passed for name in _told(trial))
    said = "".join(f" ({text})" for text in sorted(remarks))
    number = f"{max(ratios):.2f}" if ratios else "(error not recorded)"
    return number, list(names), said


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
