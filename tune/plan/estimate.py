"""How long a plan will take, from earlier trials on the same device. Never a guess; what is scaled says `assumed`.

Only sweeps under the storage folder are read (tune/plan/history.py). A trial's epochs take what the median one of
trials with the same work took. If there is none, the trial with the nearest work that can be compared is scaled: by the
FLOPs of an epoch, to the power that the earlier trials themselves show (1 where they show none). If there is none
either, or the FLOPs are not known before the data are read, the trial's time is not known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from model.flops import train_step_flops
from tune.config.repeats import AUTO, blocks_text
from tune.config.step_shape import step_shape
from tune.console.eta import arm_of, makespan
from tune.machine.code_identity import code_identity
from tune.plan.history import KIND, History, PastTrial, compiles, read_history, work
from tune.plan.plan import Plan, PlannedTrial
from tune.plan.search_estimate import SearchTimes, search_times
from tune.plan.search_plan import SearchPlan
from tune.stats.looks import FIRST_BLOCKS

UNKNOWN = "not known (no earlier trial on this device can be compared)"
NO_SEARCH = "not known (no earlier search like this one on this device)"
ASSUMED = "assumed: scaled by the FLOPs of an epoch"
LEAST_POWER = 0.2  # of FLOPs that an epoch's time can go with
MOST_SCALED = 16.0  # times the FLOPs of an earlier trial, or that part of it; further away it says nothing
APART = 2.0  # FLOPs that differ by less show no power


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one trial is expected to take."""

    epoch_s: float
    between_s: float  # outside its epochs: the gap before it, start, end
    compile_s: float  # gate and compiling, if it is the first of its arm; 0 where this code has run the arm before
    like: str | None  # the arm that it is scaled from; None: the same work was measured

    def seconds(self, epochs: int) -> float:
        return self.between_s + epochs * self.epoch_s


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan is expected to take, in seconds. A part that is not known is None, and not in the total."""

    around_s: float | None  # start and end of the command
    warm_up_s: float | None  # of all arms that this code has not run here
    trials_s: tuple[float, float]  # with the fewest and the most blocks that may run; of the known trials
    blocks_s: tuple[float, ...]  # each block of known trials, in order
    at_a_time: int
    known: int  # trials that can run and of which something is known, with the most blocks
    assumed: Counter[str]  # the arm that a trial is scaled from -> such trials
    trials: int  # that can run

    @property
    def fixed_s(self) -> float:
        """What does not depend on the number of trials, as far as known."""
        return (self.around_s or 0.0) + (self.warm_up_s or 0.0)


def time_line(plan: Plan, storage: Path, *, at_a_time: int = 1) -> str:
    """One line: how long a plan will take, as far as known. at_a_time: the number of GPUs to run it on."""
    if isinstance(plan, SearchPlan):
        times = _search_times(plan, storage)
        return NO_SEARCH if times is None else _search_text(plan, plan.draws, times)
    found = estimate(plan, storage, at_a_time=at_a_time)
    return UNKNOWN if found is None else _text(plan, found)


def estimate(plan: Plan, storage: Path, *, at_a_time: int = 1) -> Estimate | None:
    """What `plan` is expected to take; None if nothing is known of any of its trials."""
    history = history_of(plan, storage)
    expected = expected_trials(plan, history)
    if not expected:
        return None
    lengths, fewest = _lengths(plan, expected), _fewest_blocks(plan)
    return Estimate(
        around_s=history.around_s,
        warm_up_s=_warm_up_s(plan, history, expected),
        trials_s=(makespan(lengths[:fewest], at_a_time), makespan(lengths, at_a_time)),
        blocks_s=tuple(lengths),
        at_a_time=at_a_time,
        known=len(expected),
        assumed=Counter(trial.like for trial in expected.values() if trial.like is not None),
        trials=len(plan.runnable),
    )


def fits(plan: Plan, storage: Path, minutes: float, *, at_a_time: int = 1) -> tuple[int, int] | None:
    """(blocks that are expected to end within `minutes`, blocks of the plan); None where that is not known.

    Without pairs each trial is a block. Not known: a trial of the plan, or the warm-up.
    """
    found = None if isinstance(plan, SearchPlan) else estimate(plan, storage, at_a_time=at_a_time)
    if found is None or found.known < found.trials or found.warm_up_s is None:
        return None
    left_s = 60 * minutes - found.fixed_s
    ended = [count for count in range(len(found.blocks_s) + 1) if makespan(found.blocks_s[:count], at_a_time) <= left_s]
    return max(ended, default=0), len(found.blocks_s)


def fits_line(plan: Plan, storage: Path, minutes: float, *, at_a_time: int = 1) -> str:
    """One line: what of a plan is expected to be done within `minutes`."""
    if isinstance(plan, SearchPlan):
        return _search_fits(plan, plan.draws, _search_times(plan, storage), minutes)
    found = fits(plan, storage, minutes, at_a_time=at_a_time)
    if found is None:
        return f"not known for {minutes:g} minutes"
    ended, every = found
    what = "blocks" if plan.in_blocks else "trials"
    if ended == every:
        return f"all of it in {minutes:g} minutes"
    return f"{ended} of {every} {what} in {minutes:g} minutes"


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is expected of trials that are about to run."""

    weights: Mapping[str, float]  # seconds of an epoch of each arm of which something is known
    seconds: float | None  # of all of them, with the warm-up; None: something is not known


def outlook(plan: Plan, history: History, left: Sequence[PlannedTrial], *, at_a_time: int = 1) -> Outlook:
    """What the trials of `plan` that are `left` are expected to take."""
    some = replace(plan, trials=tuple(left))
    expected, found = expected_trials(some, history), None
    if len(expected) == len(left):
        warm_up_s = _warm_up_s(some, history, expected)
        lengths = _lengths(some, expected)
        found = None if warm_up_s is None else warm_up_s + makespan(lengths, at_a_time)
    return Outlook(weights={arm_of(trial): one.epoch_s for trial, one in expected.items()}, seconds=found)


def _lengths(plan: Plan, expected: Mapping[str, Expected]) -> list[float]:
    """Seconds of each block of trials of which something is known. Without pairs, each trial is a block of its own."""
    blocks: dict[float, float] = defaultdict(float)
    for number, trial in enumerate(plan.runnable):
        if trial.trial_id in expected:
            seconds = expected[trial.trial_id].seconds(trial.config.train.epochs)
            blocks[trial.seed if plan.in_blocks else number] += seconds
    return list(blocks.values())


def expected_trials(plan: Plan, history: History) -> dict[str, Expected]:
    """What each trial that can run is expected to take, by its id; without those of which nothing is known."""
    found: dict[str, Expected | None] = {}
    expected = {}
    for trial in plan.runnable:
        kind = compiles(trial.config.flat())
        if kind not in found:
            found[kind] = _expected(trial, plan, history)
        if (one := found[kind]) is not None:
            expected[trial.trial_id] = one
    return expected


def history_of(plan: Plan, storage: Path) -> History:
    """What earlier sweeps under `storage` took on the device of `plan`."""
    return read_history(storage, plan.device.name, code_identity()["code_sha256"])


def _fewest_blocks(plan: Plan) -> int:
    if not plan.in_blocks:
        return len(plan.runnable)
    return FIRST_BLOCKS if plan.repeats == AUTO else plan.blocks


def _expected(trial: PlannedTrial, plan: Plan, history: History) -> Expected | None:
    params = trial.config.flat()
    alike, scale, like = history.like(params), 1.0, None
    if not alike:
        comparable = [past for past in history.trials if _kind(past.params) == _kind(params) and past.epoch_flops]
        flops = _epoch_flops(trial, plan)
        if not comparable or flops is None:
            return None
        alike, like = _nearest(comparable, params, flops)
        if abs(math.log(flops / (alike[0].epoch_flops or flops))) > math.log(MOST_SCALED):
            return None
        scale = (flops / (alike[0].epoch_flops or flops)) ** _power(comparable)
    own_s = [past.compiled_s for past in alike if past.compiled_s > 0]
    return Expected(
        epoch_s=scale * median(past.epoch_s for past in alike),
        between_s=median(past.between_s for past in alike),
        compile_s=0.0 if compiles(params) in history.compiled or not own_s else median(own_s),
        like=like,
    )


def _kind(params: Mapping[str, Any]) -> tuple[Any, ...]:
    return (params.get("model.recompute") == "always", *(params.get(name) for name in KIND))


def _epoch_flops(trial: PlannedTrial, plan: Plan) -> float | None:
    """Of the training steps of an epoch; None while the data's windows or channels are not known."""
    channels = plan.data_of(trial).channels
    if trial.train_windows is None or channels is None:
        return None
    steps = trial.train_windows // trial.config.train.batch_size
    return float(steps * train_step_flops(step_shape(trial.config, channels=channels))) or None


def _nearest(comparable: Sequence[PastTrial], params: Mapping[str, Any], flops: float) -> tuple[list[PastTrial], str]:
    """The trials of one earlier arm: with the same attention if there is one, and FLOPs nearest to `flops`."""

    def distance(past: PastTrial) -> tuple[bool, float]:
        other = past.params.get("model.attention") != params.get("model.attention")
        return other, abs(math.log((past.epoch_flops or flops) / flops))

    nearest = min(comparable, key=distance)
    return [past for past in comparable if work(past.params) == work(nearest.params)], nearest.arm


def _power(comparable: Iterable[PastTrial]) -> float:
    """With which power of FLOPs these trials' epochs go: the slope of their logarithms; 1 where they show none."""
    points = {(math.log(past.epoch_flops), math.log(past.epoch_s)) for past in comparable if past.epoch_flops}
    logs = [flops for flops, _ in points]
    if max(logs) - min(logs) < math.log(APART):
        return 1.0
    mean_flops, mean_s = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((flops - mean_flops) ** 2 for flops, _ in points)
    slope = sum((flops - mean_flops) * (seconds - mean_s) for flops, seconds in points) / spread
    return min(1.0, max(LEAST_POWER, slope))


def _warm_up_s(plan: Plan, history: History, expected: Mapping[str, Expected]) -> float | None:
    """Of the arms that are new to this code: as earlier ones together took, else one after another; None: unknown."""
    new: dict[str, float] = {}
    for trial in plan.runnable:
        kind = compiles(trial.config.flat())
        if kind in history.compiled:
            continue
        if trial.trial_id not in expected:
            return None
        new[kind] = expected[trial.trial_id].compile_s
    if not new:
        return 0.0
    if history.warm_ups:
        return median(seconds * max(1.0, len(new) / arms) for arms, seconds in history.warm_ups)
    return sum(new.values()) if any(new.values()) else None


def _text(plan: Plan, found: Estimate) -> str:
    total = _range(*(found.fixed_s + seconds for seconds in found.trials_s))
    trials = f"{found.known} of {found.trials} trials" if found.known < found.trials else f"{found.trials} trials"
    if plan.repeats == AUTO and plan.in_blocks:
        trials = f"{trials} in {blocks_text(plan.repeats)}" if found.known < found.trials else blocks_text(plan.repeats)
    how = "one after another"
    if found.at_a_time > 1:
        how = f"on {found.at_a_time} GPUs{', those of one seed on one' if plan.in_blocks else ''}"
    parts = [f"{trials} {how} {_range(*found.trials_s)}"]
    parts.append("warm-up not known" if found.warm_up_s is None else f"warm-up {_words(found.warm_up_s)}")
    if found.around_s is not None:
        parts.append(f"start and end {_words(found.around_s)}")
    line = f"about {total}: {', '.join(parts)}, as earlier ones took"
    if found.assumed:
        like = ", ".join(sorted(found.assumed))
        line += f"; {found.assumed.total()} trials {ASSUMED} from {like}"
    return line


def _search_times(plan: Plan, storage: Path) -> SearchTimes | None:
    return search_times(storage, plan.device.name, plan.trials[0].config.flat())


def _final_s(plan: Plan, times: SearchTimes) -> tuple[float, float]:
    """With the fewest and the most blocks that may run."""
    fewest = FIRST_BLOCKS if plan.repeats == AUTO else plan.blocks
    return fewest * times.block_s, plan.blocks * times.block_s


def _search_fits(plan: Plan, draws: int, times: SearchTimes | None, minutes: float) -> str:
    if times is None:
        return f"not known for {minutes:g} minutes"
    left_s = 60 * minutes - times.probes_s - _final_s(plan, times)[0]
    trained = max(0, min(draws, int(left_s / times.trial_s))) if times.trial_s else draws
    return f"{trained} of the {draws} trials of the search, probes and the final in {minutes:g} minutes"


def _search_text(plan: Plan, draws: int, times: SearchTimes) -> str:
    search_s, final_s = draws * times.trial_s, _final_s(plan, times)
    total = _range(*(search_s + times.probes_s + seconds for seconds in final_s))
    return (
        f"about {total}: search {_words(search_s)}, probes and polish {_words(times.probes_s)}, final "
        f"{_range(*final_s)}, as earlier searches took"
    )


def _range(fewest_s: float, most_s: float) -> str:
    fewest, most = _words(fewest_s), _words(most_s)
    return most if fewest == most else f"{fewest} to {most}"


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
