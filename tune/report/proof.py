"""What the arms proved: their kernels, and how close their errors are to the gate's limits."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tune.gate.kernel_names import short
from tune.report.comparisons import TrialsByArm
from tune.tracking.reader import TrialRecord

NAME_LENGTH = 40  # characters of a kernel's name in the note; the table has all of them
LIMITS = tuple((f"gate/{what}_error", f"gate/{what}_limit") for what in ("prediction", "gradient", "worst_series"))
UNKNOWN = "kernels not recorded"


def proof_note(arms: TrialsByArm) -> list[str]:
    """One line over the arms whose trials passed the gate; none where no trial says that it passed."""
    proofs = [f"{arm} {number}, {_first(names)}{remarks}" for arm, (number, names, remarks) in _proofs(arms).items()]
    if not proofs:
        return []
    return [f"Gate (largest error / its limit; a kernel of a profiled step): {'; '.join(proofs)}."]


def proof_rows(arms: TrialsByArm) -> list[list[str]]:
    """The same with every kernel's name: arm, error over limit, kernels."""
    proofs = _proofs(arms).items()
    return [[arm, f"{number}{remarks}", ", ".join(names) or UNKNOWN] for arm, (number, names, remarks) in proofs]


def _first(names: Sequence[str]) -> str:
    """One name says whose kernels ran, and the beginning of a long name does too."""
    if not names:
        return UNKNOWN
    name = names[0] if len(names[0]) <= NAME_LENGTH else f"{names[0][: NAME_LENGTH - 3]}..."
    return f"{name} and {len(names) - 1} more" if len(names) > 1 else name


def _proofs(arms: TrialsByArm) -> dict[str, tuple[str, list[str], str]]:
    """Number, kernels and remarks of each arm of which a trial passed the gate.

    An arm's number is its largest error over the limit. Arms that failed have their reason elsewhere.
    """
    passed = {arm: [trial for trial in trials if _passed(trial)] for arm, trials in arms.items()}
    return {arm: _proof(trials) for arm, trials in passed.items() if trials}


def _passed(trial: TrialRecord) -> bool:
    return trial.tags.get("gate", "").startswith("passed")


def _proof(passed: Sequence[TrialRecord]) -> tuple[str, list[str], str]:
    metrics = [trial.metrics for trial in passed]
    ratios = [each[error] / each[limit] for each in metrics for error, limit in LIMITS if {error, limit} <= each.keys()]
    remarks = {trial.tags["gate"].removeprefix("passed").removeprefix(", ") for trial in passed} - {""}
    names = dict.fromkeys(name for trial in passed for name in _kernel_names(trial))
    number = f"{max(ratios):.2f}" if ratios else "(error not recorded)"
    return number, list(names), "".join(f" ({remark})" for remark in sorted(remarks))


def _kernel_names(trial: TrialRecord) -> list[str]:
    """Short names; the tag's text where the trial has no list of names."""
    names, text = kernel_list(trial), trial.tags.get("kernels", "")
    return [short(name) for name in names] if names is not None else [text] if text else []


def kernel_list(trial: TrialRecord) -> list[str] | None:
    """The proven kernels' names; None where the trial proved none, or its tag is no list of names."""
    try:
        names = json.loads(trial.tags.get("kernels", ""))
    except ValueError:
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
