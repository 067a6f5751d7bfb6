"""The report's comparisons: MLflow's trials become pairs, and speed and accuracy become words and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tune.common.published import stored_rules
from tune.common.words import counted
from tune.report.work import EPOCH, REFUSED, TOTAL, total_s
from tune.stats.auto import compare_at_looks, look_at
from tune.stats.intervals import BOOTSTRAP_MIN_PAIRS, MIN_PAIRS, Bounds
from tune.stats.looks import Standing
from tune.stats.pairs import MARGIN, Accuracy, Comparison, TrialResult, compare_arms
from tune.stats.verdicts import (
    ACCURACY_WORDS,
    NOT_WORSE,
    SPEED_WORDS,
    STOP_WORDS,
    UNDECIDED,
    WORSE,
    too_few,
    too_few_text,
)
from tune.tracking.reader import TrialRecord

UNFIT = {"false": "on a shared device", "unknown": "not known to be alone on their device"}  # by tag timing_valid
OPEN = ("planned", "running")  # statuses of trials that have not ended
OF_SEARCH = ("search", "probe")  # values of the tag stage
NO_LOOK = "no look yet"
UNTIMED = {EPOCH: "without an epoch time", TOTAL: "without a total time"}
TrialsByArm = Mapping[str, Sequence[TrialRecord]]


def trial_result(
    status: str, tags: Mapping[str, str], metrics: Mapping[str, float], *, time: str = EPOCH
) -> TrialResult:
    """What counts of a trial. Only a done trial has a time or an error. A CPU has no UUID: its name and host count.

    time: EPOCH, or TOTAL, which is taken for all training windows too.
    """
    done, mse = status == "done" and REFUSED not in tags, metrics.get("final/val_mse")
    time_s = metrics.get(EPOCH) if time == EPOCH else total_s(metrics)
    alone = tags.get("timing_valid", "unknown")
    timed = time_s is not None and 0 < time_s < math.inf
    refused = tags.get(REFUSED, "not done") if not done else ""
    unfit = refused or UNFIT.get(alone, "") or ("" if timed else UNTIMED[time])
    gpu = tags.get("gpu_uuid", "None")
    return TrialResult(
        seed=tags.get("seed", ""),
        device=f"cpu {tags.get('device')} of {tags.get('hostname')}" if gpu == "None" else gpu,
        time_s=None if unfit else time_s,
        unfit=unfit,
        mse=mse if done and mse is not None and 0 < mse < math.inf else None,
        ended=status not in OPEN,
    )


def comparisons(
    arms: TrialsByArm, baseline: str | None, margin: float, *, time: str = EPOCH, looks: bool = False
) -> dict[str, Comparison]:
    """Compare each other arm with the baseline; nothing where the baseline is unknown. `time`: EPOCH or TOTAL.

    looks: of a sweep with `--repeats auto`. Its arms stopped by their EPOCH and MARGIN, whatever is asked for here.

    Trials of a search are left out: they ran at another time than the baseline, in no block of pairs. So are arms of
    the replaced study as published, which are other functions, or timed with other feeds, and refused arms.
    """
    results = _compared(arms, time)
    if baseline is None or baseline not in results:
        return {}
    others = {arm: fit for arm, fit in results.items() if arm != baseline}
    if not looks:
        return compare_arms(results[baseline], others, margin=margin)
    stops = standings(arms, baseline)
    looked = {arm: fit for arm, fit in others.items() if arm in stops}
    return compare_at_looks(results[baseline], looked, margin=margin, stops=stops)


def standings(arms: TrialsByArm, baseline: str) -> dict[str, Standing]:
    """Where each arm of a sweep with `--repeats auto` stands, by its trials so far (tune.stats.looks).

    Arms that cannot run, and those that are in no comparison, stand nowhere.
    """
    unsupported = {arm for arm, trials in arms.items() if any(trial.status == "unsupported" for trial in trials)}
    results = {arm: fit for arm, fit in _compared(arms, EPOCH).items() if arm not in unsupported}
    others = {arm: fit for arm, fit in results.items() if arm != baseline}
    return look_at(results.get(baseline, ()), others, margin=MARGIN)


def _compared(arms: TrialsByArm, time: str) -> dict[str, list[TrialResult]]:
    """The results of the arms that are in comparisons."""
    ours = {
        arm: trials
        for arm, trials in arms.items()
        if all(stored_rules(trial.tags).compared for trial in trials) and not refusal(trials)
    }
    return {arm: fit for arm, trials in ours.items() if (fit := trial_results(trials, time=time))}


def trial_results(trials: Sequence[TrialRecord], *, time: str = EPOCH) -> list[TrialResult]:
    """The results of an arm's trials that can be in a pair."""
    fit = [trial for trial in trials if "seed" in trial.tags and not is_of_search(trial)]
    return [trial_result(trial.status, trial.tags, trial.metrics, time=time) for trial in fit]


def refusal(trials: Sequence[TrialRecord]) -> str:
    """Why an arm is in no comparison, by the work of its trials (tune.report.work); "" if it may be in one."""
    return next((why for trial in trials if (why := trial.tags.get(REFUSED))), "")


def is_of_search(trial: TrialRecord) -> bool:
    """Whether the trial ran in the search of a `full` sweep, or probed a cell of it: not in its final."""
    return trial.tags.get("stage") in OF_SEARCH


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as results store it, with verdicts as codes; a verdict is None with too few pairs."""
    fields = asdict(comparison) | {"verdict": comparison.verdict}
    if comparison.accuracy is not None:
        fields["accuracy"] |= {"verdict": comparison.accuracy.verdict}
    if comparison.looks is not None:
        fields["looks"] |= {"stopped": stop_text(comparison)}
    return fields


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


def speed_text(comparison: Comparison) -> str:
    """The words of the verdict on speed: faster; too few pairs (2, 3 needed)"""
    if comparison.verdict is None:
        enough = comparison.looks is not None and comparison.count >= MIN_PAIRS
        return NO_LOOK if enough else too_few_text(comparison.count, comparison.unit)
    return SPEED_WORDS[comparison.verdict]


def ratio_text(comparison: Comparison | None) -> str:
    """1.43x (1.40-1.46)"""
    if comparison is None or comparison.ratio is None:
        return "-"
    return f"{comparison.ratio:.2f}x" + (f" ({range_text(comparison.interval)})" if comparison.interval else "")


def range_text(bounds: Bounds) -> str:
    """1.40-1.46"""
    return f"{bounds[0]:.2f}-{bounds[1]:.2f}"


def accuracy_text(accuracy: Accuracy | None) -> str:
    """not worse (+0.1 %, at most +0.4 %); too few pairs (+0.1 %)"""
    if accuracy is None:
        return "-"
    difference, verdict = percent_text(accuracy.difference), accuracy.verdict
    if accuracy.bounds is None or verdict is None:
        return f"{too_few(accuracy.unit)} ({difference})"
    low, high = accuracy.bounds
    limit = f"least {percent_text(low)}" if verdict == WORSE else f"most {percent_text(high)}"
    return f"{ACCURACY_WORDS[verdict]} ({difference}, at {limit})"


def percent_text(value: float) -> str:
    """Two digits, but none beyond a thousandth of a percent, which would say nothing."""
    percent = 100 * value
    if abs(percent) < 0.01:
        return f"{round(percent, 3) + 0.0:+g} %"  # + 0.0: no minus before a zero
    return f"{percent:+.2g} %" if abs(percent) < 10 else f"{percent:+.0f} %"


def pairing_notes(by_arm: Mapping[str, Comparison], margin: float) -> list[str]:
    """What the ratios and accuracies are of, and which pairs were left out."""
    lines = []
    if by_arm:
        lines.append(
            "'x baseline' is the baseline's 'all windows s/epoch' over the arm's: above 1 the arm is faster. It is the "
            f"geometric mean over pairs of one seed on one device, {_counts(by_arm)}. '{SPEED_WORDS[UNDECIDED]}' does "
            "not mean equal. 'x baseline, total' is the same for all training epochs together."
        )
    if any(comparison.accuracy is not None for comparison in by_arm.values()):
        lines.append(
            "'accuracy' is the validation MSE relative to the baseline's, seed by seed; "
            f"'{ACCURACY_WORDS[NOT_WORSE]}': its upper {_bound(by_arm)} is under {100 * margin:+g} %."
        )
    bootstraps = [f"{arm} {range_text(bounds)}" for arm, each in by_arm.items() if (bounds := each.bootstrap)]
    if bootstraps:
        lines.append(f"Bootstrap intervals (BCa over pairs, from {BOOTSTRAP_MIN_PAIRS}): {', '.join(bootstraps)}.")
    return lines + _left_out(by_arm)


def _bound(by_arm: Mapping[str, Comparison]) -> str:
    return "bound" if any(comparison.looks is not None for comparison in by_arm.values()) else "95 % bound"


def _counts(by_arm: Mapping[str, Comparison]) -> str:
    """How many pairs the arms have, and which arms have an interval."""
    with_interval = sum(comparison.interval is not None for comparison in by_arm.values())
    counts = sorted({comparison.count for comparison in by_arm.values() if comparison.ratio is not None})
    each = f"{counts[0]} to {counts[-1]} pairs" if len(counts) > 1 else "".join(counted(n, "pair") for n in counts)
    family = f" (95 %, Holm over {with_interval} arms)" if with_interval > 1 else " (95 %)"
    if any(comparison.looks is not None for comparison in by_arm.values()):
        family = " of its look"
    if not with_interval:
        return f"{each or 'no pair'} an arm: a t interval takes {MIN_PAIRS}"
    where = "" if counts[0] >= MIN_PAIRS else f" where there are at least {MIN_PAIRS}"
    return f"{each} an arm, with a t interval{where}{family}"


def moved_notes(arms: TrialsByArm, baseline: str | None) -> list[str]:
    """A line for each block that moved to another GPU half-way: which arms have no pair there, and why."""
    lines = []
    gpus = {
        (trial.tags["seed"], arm): trial.tags.get("gpu_uuid")
        for arm, trials in arms.items()
        for trial in trials
        if "seed" in trial.tags and trial.status == "done"
    }
    for seed, why in sorted(_moved(arms).items()):
        baselines_gpu = gpus.get((seed, baseline or ""))
        apart = [
            arm for (other, arm), gpu in gpus.items() if other == seed and gpu != baselines_gpu and arm != baseline
        ]
        if baselines_gpu is not None and apart:
            lines.append(f"Seed {seed} makes no pair of {baseline} with {', '.join(apart)}, not on its GPU: {why}.")
    return lines


def _moved(arms: TrialsByArm) -> dict[str, str]:
    """Why a block moved, by its seed."""
    trials = [trial for trials in arms.values() for trial in trials]
    return {trial.tags["seed"]: trial.tags["moved_because"] for trial in trials if "moved_because" in trial.tags}


def _left_out(by_arm: Mapping[str, Comparison]) -> list[str]:
    """One line that names arms with the same reasons together. An arm of which nothing ran says so in its status."""
    arms: dict[str, list[str]] = {}
    for arm, comparison in by_arm.items():
        if comparison.left_out and comparison.accuracy is not None:
            arms.setdefault(left_out_text(comparison), []).append(arm)
    if not arms:
        return []
    texts = "; ".join(f"{', '.join(names)}: {reasons}" for reasons, names in arms.items())
    return [f"Pairs that 'x baseline' leaves out: {texts}."]


def left_out_text(comparison: Comparison) -> str:
    """2 not done, 1 on different devices; "" where every pair counts."""
    return ", ".join(f"{count} {why}" for why, count in sorted(comparison.left_out.items()))
