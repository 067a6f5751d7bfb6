"""A warning where epochs stalled so often that a machine's timings cannot be trusted."""

from __future__ import annotations

from tune.report.comparisons import TrialsByArm

STALLED_PCT = "time/stalled_pct"  # of an epoch's time, as tune.measure.timer has it
MUCH_PCT = 10.0  # an epoch that lost so much of its time has stalled
OFTEN = 0.2  # share of the epochs


def stall_note(arms: TrialsByArm) -> list[str]:
    """One line, or none. The epochs are those of all finished trials."""
    trials = [trial for trials in arms.values() for trial in trials if trial.status == "done"]
    found = [value for trial in trials for _, value in trial.history.get(STALLED_PCT, [])]
    stalled = sum(value > MUCH_PCT for value in found)
    if not found or stalled < OFTEN * len(found):
        return []
    return [
        f"Timings on this machine are not trustworthy: {stalled} of {len(found)} epochs lost over {MUCH_PCT:.0f} % "
        "of their time in stalls. Run nothing beside a sweep, and look at the power and heat limits of the GPU."
    ]
