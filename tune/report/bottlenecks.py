"""The report's lines on where the arms' time goes, and on GPUs whose clocks were held down meanwhile.

Throttled epochs are in every median and ratio (tune.measure.gpu_sampler says why); from WARN_PCT of a trial's samples the report
warns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from tune.measure.bottleneck import NEEDED, STEP_BUSY, Epoch, diagnose_settled, settled
from tune.measure.gpu_sampler import throttling
from tune.tracking.reader import TrialRecord

WARN_PCT = 10.0
Arms = Mapping[str, Sequence[TrialRecord]]


def diagnoses(arms: Arms) -> dict[str, str]:
    """One line for each arm, over its trials that are done; arms whose times are not known are left out."""
    return {arm: line for arm, trials in arms.items() if (line := _diagnosis(trials))}


def _diagnosis(trials: Iterable[TrialRecord]) -> str | None:
    done = [trial for trial in trials if trial.status == "done"]
    epochs = [epoch for trial in done if (own := epochs_of(trial)) for epoch in settled(own)]
    busy_ms = [trial.metrics[STEP_BUSY] for trial in done if STEP_BUSY in trial.metrics]
    return diagnose_settled(
        epochs,
        on_gpu=any(trial.tags.get("gpu_uuid", "None") != "None" for trial in done),
        step_busy_ms=fmean(busy_ms) if busy_ms else None,
    )


def epochs_of(trial: TrialRecord) -> list[Epoch]:
    """The trial's epochs in order, each with what MLflow has of NEEDED."""
    found: dict[int, dict[str, float | None]] = {}
    for name in NEEDED:
        for step, value in trial.history.get(name, []):
            found.setdefault(step, {})[name] = value
    return [found[step] for step in sorted(found)]


def time_notes(arms: Arms) -> list[str]:
    """A line for each arm on what bounds it, then those on throttled GPUs."""
    lines = [f"Time of {arm}: {line}." for arm, line in diagnoses(arms).items()]
    return lines + [line for arm, trials in arms.items() for line in _throttled(arm, trials)]


def _throttled(arm: str, trials: Iterable[TrialRecord]) -> list[str]:
    shares = {trial.trial_id: values for trial in trials if (values := _history(trial, "gpu/throttled_pct"))}
    epochs = [value for values in shares.values() for value in values]
    held = sum(value > 0 for value in epochs)
    if not held:
        return []
    lines = [f"{arm}: the GPU's clocks were held down in {held} of {len(epochs)} epochs ({_why(trials)}); they count."]
    bad = {trial: share for trial, values in shares.items() if (share := fmean(values)) >= WARN_PCT}
    if bad:
        told = ", ".join(f"{trial} ({share:.0f} %)" for trial, share in bad.items())
        lines.append(
            f"Warning: at least {WARN_PCT:g} % of the samples of {told} show a throttled GPU: these times tell of its "
            "cooling and power limit too."
        )
    return lines


def _why(trials: Iterable[TrialRecord]) -> str:
    every = 0
    for trial in trials:
        for value in _history(trial, "gpu/throttle_reasons"):
            every |= int(value)
    return ", ".join(throttling(every)) or "reason not recorded"


def _history(trial: TrialRecord, name: str) -> list[float]:
    return [value for _, value in trial.history.get(name, [])]
