"""The report's lines on where the arms' time goes, and on GPUs that throttled meanwhile.

Throttled epochs are in every median and ratio (tune.measure.gpu_sampler says why). The report warns from WARN_PCT of a
trial's samples on.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from tune.measure.bottleneck import NEEDED, STEP_BUSY, Epoch, diagnose_settled, settled
from tune.measure.gpu_sampler import throttling
from tune.report.comparisons import TrialsByArm
from tune.tracking.reader import TrialRecord

WARN_PCT = 10.0


def diagnoses(arms: TrialsByArm) -> dict[str, str]:
    """One line for each arm, over its done trials. Arms whose times are not known are left out."""
    return {arm: line for arm, trials in arms.items() if (line := _diagnosis(trials))}


def _diagnosis(trials: Iterable[TrialRecord]) -> str | None:
    done = [trial for trial in trials if trial.status == "done"]
    epochs = [epoch for trial in done if (all_epochs := epochs_of(trial)) for epoch in settled(all_epochs)]
    busy_ms = [trial.metrics[STEP_BUSY] for trial in done if STEP_BUSY in trial.metrics]
    return diagnose_settled(
        epochs,
        on_gpu=any(trial.tags.get("gpu_uuid", "None") != "None" for trial in done),
        step_busy_ms=fmean(busy_ms) if busy_ms else None,
    )


def epochs_of(trial: TrialRecord) -> list[Epoch]:
    """The trial's epochs in order, each with the metrics of NEEDED that MLflow has."""
    epochs: dict[int, dict[str, float | None]] = {}
    for name in NEEDED:
        for step, value in trial.history.get(name, []):
            epochs.setdefault(step, {})[name] = value
    return [epochs[step] for step in sorted(epochs)]


def time_notes(arms: TrialsByArm) -> list[str]:
    """A line for each arm on what bounds it, then the lines on throttled GPUs."""
    lines = [f"Time of {arm}: {line}." for arm, line in diagnoses(arms).items()]
    return lines + [line for arm, trials in arms.items() for line in _throttled(arm, trials)]


def _throttled(arm: str, trials: Iterable[TrialRecord]) -> list[str]:
    shares = {trial.trial_id: values for trial in trials if (values := _history(trial, "gpu/throttled_pct"))}
    epochs = [value for values in shares.values() for value in values]
    throttled = sum(value > 0 for value in epochs)
    if not throttled:
        return []
    lines = [f"{arm}: the GPU throttled in {throttled} of {len(epochs)} epochs ({_why(trials)}); they count."]
    means = {trial_id: fmean(values) for trial_id, values in shares.items()}
    if often := ", ".join(f"{trial_id} ({share:.0f} %)" for trial_id, share in means.items() if share >= WARN_PCT):
        lines.append(
            f"Warning: at least {WARN_PCT:g} % of the samples of {often} show a throttled GPU: these times also depend "
            "on its cooling and power limit."
        )
    return lines


def _why(trials: Iterable[TrialRecord]) -> str:
    mask = 0
    for trial in trials:
        for value in _history(trial, "gpu/throttle_reasons"):
            mask |= int(value)
    return ", ".join(throttling(mask)) or "reason not recorded"


def _history(trial: TrialRecord, name: str) -> list[float]:
    return [value for _, value in trial.history.get(name, [])]
