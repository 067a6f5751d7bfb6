"""Which trials a sweep still needs. With `--repeats auto` looks decide it, from what is recorded alone.

So a driver that was killed at a look goes on as if it had not been, and a report sees the looks that the driver saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from tune.common.words import counted
from tune.config.repeats import AUTO
from tune.driver.collector import Collector
from tune.driver.launcher import Launcher
from tune.plan.plan import Plan, PlannedTrial
from tune.report.comparisons import TrialsByArm, standings
from tune.report.work import with_work
from tune.stats.looks import FIRST_BLOCKS, LOOKS, MOST_BLOCKS, Standing
from tune.stats.verdicts import SPEED_WORDS, STOP_WORDS
from tune.storage.trial_log import TrialLog
from tune.tracking.reader import TrialRecord
from tune.tracking.tracker import Tracker


class Needed:
    """The trials of a plan that have to run, by what the tracker holds. Without `auto` these are all.

    A trial that need not run any more never has to again: arms that have stopped stay so.

    on_look: is given a line for each look that was made.
    """

    def __init__(self, plan: Plan, tracker: Tracker, on_look: Callable[[str], None] = lambda line: None) -> None:
        self.plan, self._tracker, self._on_look = plan, tracker, on_look
        self._arms = {trial.arm for trial in plan.runnable} - {plan.sweep.baseline}
        self._standings = dict.fromkeys(self._arms, Standing())
        self._awaited = {trial.trial_id for trial in first_trials(plan) if trial.unsupported is None}  # by a look

    def of(self, trials: Iterable[PlannedTrial]) -> list[PlannedTrial]:
        """Those that have to run, or have run, in the same order."""
        if self.plan.repeats != AUTO:
            return list(trials)
        self._look()
        return [trial for trial in trials if self._runs(trial)]

    def left(self) -> list[PlannedTrial]:
        """Those that have not ended, in the order of the plan. A look may end some of them, too."""
        ended = self._tracker.ended
        return self.of(trial for trial in self.plan.runnable if trial.trial_id not in ended)

    def before_look(self, at_a_time: int = 1) -> list[PlannedTrial]:
        """Those of `left` in the blocks before the next look; without `auto` all of them.

        at_a_time: GPUs that take blocks, so that each may run ahead of the look by one.
        """
        left = self.left()
        if self.plan.repeats != AUTO or not left:
            return left
        first = min(map(self.plan.block, left))
        blocks = next(look.blocks for look in LOOKS if first < look.blocks)
        begun = math.ceil(blocks / at_a_time) * at_a_time
        return [trial for trial in left if self.plan.block(trial) < begun]

    def _runs(self, trial: PlannedTrial) -> bool:
        block = self.plan.block(trial)
        if block < FIRST_BLOCKS:
            return True
        if trial.arm == self.plan.sweep.baseline:
            return any(self._arm_runs(arm, block) for arm in self._arms)
        return self._arm_runs(trial.arm, block)

    def _arm_runs(self, arm: str, block: int) -> bool:
        if arm not in self._standings:  # it is in no comparison, or cannot run
            return False
        stopped_at = self._standings[arm].stopped_at
        return stopped_at is None or block < stopped_at

    def _look(self) -> None:
        """Make the looks that the records allow, once all trials that the next one needs have ended."""
        if not self._awaited:
            return
        ended = self._tracker.ended
        self._awaited.difference_update(ended)
        if self._awaited:
            return
        self._standings = standings(_records(self.plan, self._tracker.trials), self.plan.sweep.baseline)
        made = self._made(ended)
        running = any(arm.stopped_at is None for arm in self._standings.values())
        following = next((look.blocks for look in LOOKS if look.blocks > made), 0) if running else 0
        self._awaited = self._seen_at(following) - ended.keys()
        if made:
            self._on_look(_line(made, self._standings))

    def _made(self, ended: Mapping[str, str]) -> int:
        """The blocks of the latest look that was made; 0 without one."""
        made = 0
        for look in LOOKS:
            seen = self._seen_at(look.blocks)
            if not seen or not seen <= ended.keys():
                break
            made = look.blocks
        return made

    def _seen_at(self, blocks: int) -> set[str]:
        """The trials that a look after so many blocks sees: of the arms that ran until then, and of the baseline."""
        arms = {arm for arm, each in self._standings.items() if (each.stopped_at or MOST_BLOCKS) >= blocks}
        if not arms:
            return set()
        arms.add(self.plan.sweep.baseline)
        block = self.plan.block
        return {each.trial_id for each in self.plan.runnable if each.arm in arms and block(each) < blocks}


def _line(blocks: int, arms: Mapping[str, Standing]) -> str:
    ended = [f"{arm} ({_why(each)})" for arm, each in arms.items() if each.stopped_at == blocks]
    left = [arm for arm, each in arms.items() if each.stopped_at is None]
    line = f"look after {blocks} blocks: " + (f"ends {', '.join(ended)}" if ended else "ends no arm")
    return f"{line}; {len(left)} of {counted(len(arms), 'arm')} go on with the baseline" if left else line


def _why(arm: Standing) -> str:
    speed = "" if arm.speed.verdict is None else f"{SPEED_WORDS[arm.speed.verdict]}: "
    return speed + STOP_WORDS[arm.because or ""]


def run_needed(
    launcher: Launcher,
    needed: Needed,
    collector: Collector,
    announce: Callable[[Sequence[PlannedTrial]], None],
) -> None:
    """Run what is left of a plan: all, or with `auto` until its looks have ended every arm.

    On leased GPUs, a free GPU goes on with a block that some arm still needs, while others end the blocks before a
    look. Elsewhere the trials before each look are a list of their own.

    announce: is given trials before they begin.
    """
    if needed.plan.in_blocks and launcher.share.gpus == 1:
        launcher.run(needed.left(), collector, in_blocks=True, needed=needed.of, announce=announce)
        return
    while trials := needed.before_look():
        announce(trials)
        launcher.run(trials, collector, in_blocks=needed.plan.in_blocks)
        if any(collector.status_of(trial.trial_id) is None for trial in trials):
            return


def first_trials(plan: Plan) -> list[PlannedTrial]:
    """The trials that are announced when a sweep starts: all, or those before the first look."""
    return [trial for trial in plan.trials if plan.repeats != AUTO or plan.block(trial) < FIRST_BLOCKS]


def _records(plan: Plan, logs: dict[str, TrialLog]) -> TrialsByArm:
    """The plan's trials that were announced, as a report reads them."""
    records = [_record(trial, logs[trial.trial_id]) for trial in plan.trials if trial.trial_id in logs]
    arms: dict[str, list[TrialRecord]] = {}
    for record in with_work(records):
        arms.setdefault(record.tags["arm"], []).append(record)
    return arms


def _record(trial: PlannedTrial, log: TrialLog) -> TrialRecord:
    params = {name: str(value) for name, value in trial.config.flat().items()}
    return TrialRecord(
        trial_id=trial.trial_id,
        run_id="",
        name=trial.run_name,
        status=log.status or "planned",
        reason=log.reason,
        params=params,
        tags=log.tags,
        metrics=log.metrics,
        history={},
    )
