"""The report's comparisons: MLflow's trials -> pairs, and how speed and accuracy are worded beside the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tune.common.published import stored_rules
from tune.stats.intervals import BOOTSTRAP_FROM, ENOUGH, Bounds
from tune.stats.pairs import Accuracy, Comparison, Run, compare_arms, counted
from tune.tracking.reader import TrialRecord

UNFIT = {"false": "on a shared device", "unknown": "not known to be alone on their device"}  # by tag timing_valid
EPOCH, TOTAL = "final/median_epoch_s", "final/train_total_s"  # what is compared, in seconds


def run_of(status: str, tags: Mapping[str, str], metrics: Mapping[str, float], *, time: str = EPOCH) -> Run:
    """What counts of a trial: only a done one has a time or an error. A CPU is its name and host, as it has no UUID."""
    done, time_s, mse = status == "done", metrics.get(time), metrics.get("final/val_mse")
    alone = tags.get("timing_valid", "unknown")
    timed = time_s is not None and 0 < time_s < math.inf
    unfit = "not done" if not done else UNFIT.get(alone, "") or ("" if timed else UNTIMED[time])
    gpu = tags.get("gpu_uuid", "None")
    return Run(
        seed=tags.get("seed", ""),
        device=f"cpu {tags.get('device')} of {tags.get('hostname')}" if gpu == "None" else gpu,
        time_s=None if unfit else time_s,
        unfit=unfit,
        mse=mse if done and mse is not None and 0 < mse < math.inf else None,
    )


UNTIMED = {EPOCH: "without an epoch time", TOTAL: "without a total time"}


def comparisons(
    arms: Mapping[str, Sequence[TrialRecord]], baseline: str | None, margin: float, *, time: str = EPOCH
) -> dict[str, Comparison]:
    """Each arm but the baseline against it; nothing where the baseline is unknown. `time`: EPOCH or TOTAL.

    Trials of a search are left out: they ran at another time than the baseline, in no block of pairs. So are arms of
    the replaced study as published, which are other functions, or timed with other feeds.
    """
    ours = {arm: trials for arm, trials in arms.items() if all(stored_rules(trial.tags).compared for trial in trials)}
    paired = {arm: runs for arm, trials in ours.items() if (runs := runs_of(trials, time=time))}
    if baseline is None or baseline not in paired:
        return {}
    others = {arm: runs for arm, runs in paired.items() if arm != baseline}
    return compare_arms(paired[baseline], others, margin=margin)


def runs_of(trials: Sequence[TrialRecord], *, time: str = EPOCH) -> list[Run]:
    """What can be in a pair of an arm's trials."""
    fit = [trial for trial in trials if "seed" in trial.tags and trial.tags.get("stage") != "search"]
    return [run_of(trial.status, trial.tags, trial.metrics, time=time) for trial in fit]


def ratio_text(found: Comparison | None) -> str:
    """1.43x (1.40-1.46)"""
    if found is None or found.ratio is None:
        return "-"
    return f"{found.ratio:.2f}x" + (f" ({range_text(found.interval)})" if found.interval else "")


def range_text(bounds: Bounds) -> str:
    return f"{bounds[0]:.2f}-{bounds[1]:.2f}"


def accuracy_text(found: Accuracy | None) -> str:
    """not worse (+0.1 %, at most +0.4 %)"""
    if found is None:
        return "-"
    bounds = found.bounds
    limit = "" if bounds is None else f", at {_limit(found)}"
    return f"{found.verdict} ({_percent(found.difference)}{limit})"


def _limit(found: Accuracy) -> str:
    assert found.bounds is not None
    low, high = found.bounds
    return f"least {_percent(low)}" if found.verdict == "worse" else f"most {_percent(high)}"


def _percent(value: float) -> str:
    """Two digits, but none beyond a thousandth of a percent, which would say nothing."""
    percent = 100 * value
    if abs(percent) < 0.01:
        return f"{round(percent, 3) + 0.0:+g} %"  # + 0.0: no minus before a zero
    return f"{percent:+.2g} %" if abs(percent) < 10 else f"{percent:+.0f} %"


def pairing_notes(found: Mapping[str, Comparison], margin: float) -> list[str]:
    """What a reader must know of the ratios: what they are of, what was left out."""
    tested = sum(one.interval is not None for one in found.values())
    lines = []
    if found:
        lines.append(
            "'x baseline': the baseline's epoch time over the arm's, so above 1 the arm is faster; geometric mean over "
            f"pairs of one seed on one device, {_counts(found, tested)}. 'no difference "
            "shown' does not mean equal. 'x baseline, total' is the same of all training epochs together."
        )
    if any(one.accuracy is not None for one in found.values()):
        lines.append(
            "'accuracy' is the validation MSE beside the baseline's, seed by seed; 'not worse': its upper 95 % bound "
            f"is under {100 * margin:+g} %."
        )
    if drawn := [f"{arm} {range_text(one.bootstrap)}" for arm, one in found.items() if one.bootstrap]:
        lines.append(f"Bootstrap intervals (BCa over pairs, from {BOOTSTRAP_FROM}): {', '.join(drawn)}.")
    return lines + _left_out(found)


def _counts(found: Mapping[str, Comparison], tested: int) -> str:
    """How many pairs the arms have, and which of them an interval."""
    counts = sorted({one.count for one in found.values() if one.ratio is not None})
    each = f"{counts[0]} to {counts[-1]} pairs" if len(counts) > 1 else "".join(counted(n, "pair") for n in counts)
    family = f" (95 %, Holm over {tested} arms)" if tested > 1 else " (95 %)"
    if not tested:
        return f"{each or 'no pair'} an arm: a t interval takes {ENOUGH}"
    where = "" if counts[0] >= ENOUGH else f" where there are at least {ENOUGH}"
    return f"{each} an arm, with a t interval{where}{family}"


def moved_notes(arms: Mapping[str, Sequence[TrialRecord]], baseline: str | None) -> list[str]:
    """A line for each block that moved to another GPU half-way: which arms have no pair there, and why."""
    lines = []
    gpus = {
        (trial.tags["seed"], arm): trial.tags.get("gpu_uuid")
        for arm, trials in arms.items()
        for trial in trials
        if "seed" in trial.tags and trial.status == "done"
    }
    for seed, why in sorted(_moved(arms).items()):
        own = gpus.get((seed, baseline or ""))
        apart = [arm for (other, arm), gpu in gpus.items() if other == seed and gpu != own and arm != baseline]
        if own is not None and apart:
            lines.append(f"Seed {seed} makes no pair of {baseline} with {', '.join(apart)}, not on its GPU: {why}.")
    return lines


def _moved(arms: Mapping[str, Sequence[TrialRecord]]) -> dict[str, str]:
    """Why a block moved, by its seed."""
    trials = [trial for trials in arms.values() for trial in trials]
    return {trial.tags["seed"]: trial.tags["moved_because"] for trial in trials if "moved_because" in trial.tags}


def _left_out(found: Mapping[str, Comparison]) -> list[str]:
    """One line; arms with the same to say are named together. An arm of which nothing ran says so in its status."""
    arms: dict[str, list[str]] = {}
    for arm, one in found.items():
        if one.left_out and one.accuracy is not None:
            arms.setdefault(", ".join(f"{count} {why}" for why, count in sorted(one.left_out.items())), []).append(arm)
    if not arms:
        return []
    told = "; ".join(f"{', '.join(names)}: {text}" for text, names in arms.items())
    return [f"Pairs that 'x baseline' leaves out: {told}."]
