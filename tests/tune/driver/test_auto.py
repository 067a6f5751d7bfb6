"""`--repeats auto`: what has to run follows from the records alone, and no trial runs that no look needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from blocks_kit import plan_of
from report_kit import timed

from tune.cluster.share import Share
from tune.config.repeats import AUTO
from tune.driver.auto import Needed, first_trials, run_needed
from tune.driver.blocks import Blocks
from tune.plan.plan import Plan, PlannedTrial
from tune.storage.trial_log import TrialLog

GAINS = {"a1": 0.5, "a2": 0.0, "a3": 0.012}  # s of 2 s; a1 and a2 are clear, a3 scatters
SCATTER = {"a3": 0.005}


def _plan(arms: int = 4) -> Plan:
    return plan_of(arms, AUTO)


class Records:
    """Stands in for a Tracker, and for a Collector."""

    def __init__(self, plan: Plan, statuses: Mapping[str, str] | None = None) -> None:
        self.trials: dict[str, TrialLog] = {}
        self._statuses = statuses or {}  # by arm, of its trials
        self.announce(first_trials(plan))

    @property
    def ended(self) -> dict[str, str]:
        return {trial_id: log.status for trial_id, log in self.trials.items() if log.status}

    def status_of(self, trial_id: str) -> str | None:
        return self.trials[trial_id].status

    def announce(self, trials: Sequence[PlannedTrial]) -> None:
        for trial in trials:
            tags = {"arm": trial.arm, "seed": str(trial.seed), "timing_valid": "true", "gpu_uuid": "GPU-a"}
            self.trials.setdefault(trial.trial_id, TrialLog(tags=tags))

    def end(self, trial: PlannedTrial) -> None:
        """A trial ends with a time and an error that its arm and seed decide."""
        chance = random.Random(trial.trial_id)
        log, scatter = self.trials[trial.trial_id], SCATTER.get(trial.arm, 0.0003)
        assert log.status is None, "it runs twice"
        log.status = self._statuses.get(trial.arm, "done")
        time_s = (2.0 - GAINS.get(trial.arm, 0.0)) * (1 + chance.gauss(0, scatter))
        if log.status == "done":
            log.metrics = {**timed(time_s), "final/val_mse": 0.3 * (1 + chance.gauss(0, 0.0003))}


def _run(plan: Plan, records: Records, *, stop_after: int = 10**6) -> list[str]:
    """Run it on one GPU, at most so many trials; the ids in the order in which they ran."""
    ran: list[str] = []
    needed = Needed(plan, records)  # type: ignore[arg-type]
    blocks = Blocks(needed.left(), begun={}, record=lambda gpus: None, needed=needed.of)
    while not blocks.done and len(ran) < stop_after:
        assignment = blocks.take("gpu", gpus={"gpu"})
        assert assignment is not None
        records.announce([assignment.trial])
        records.end(assignment.trial)
        blocks.ended(assignment.trial)
        ran.append(assignment.trial.trial_id)
    return ran


def test_a_clear_arm_stops_at_the_first_look_and_the_baseline_runs_as_long_as_any_arm() -> None:
    plan = _plan()
    records = Records(plan)
    _run(plan, records)
    blocks = {arm: sum(f"-{arm}-" in trial for trial in records.ended) for arm in ("a0", "a1", "a2", "a3")}
    assert blocks["a1"] == blocks["a2"] == 3
    assert blocks["a3"] in (5, 10) and blocks["a0"] == blocks["a3"]
    assert records.ended.keys() == records.trials.keys()  # nothing was announced that did not run


@pytest.mark.parametrize("killed_after", [0, 5, 11, 12, 13, 15, 16])
def test_a_driver_killed_anywhere_goes_on_with_the_same_trials(killed_after: int) -> None:
    plan = _plan()
    whole = Records(plan)
    expected = _run(plan, whole)
    records = Records(plan)
    first = _run(plan, records, stop_after=killed_after)
    again = _run(plan, records)  # a new driver knows the records only
    assert first + again == expected
    assert Needed(plan, records).left() == []  # type: ignore[arg-type]


def test_an_arm_that_fails_ends_at_the_first_look_and_the_others_go_on() -> None:
    plan = _plan()
    records = Records(plan, {"a2": "oom"})
    _run(plan, records)
    assert sum("-a2-" in trial for trial in records.ended) == 3
    assert sum("-a3-" in trial for trial in records.ended) in (5, 10)


@pytest.mark.parametrize("status", ["failed", "unsupported", "nan"])
def test_without_a_baseline_nothing_runs_after_the_first_look(status: str) -> None:
    plan = _plan()
    records = Records(plan, {"a0": status})
    assert len(_run(plan, records)) == 12


def test_a_free_gpu_goes_on_before_a_look_only_with_arms_that_are_open() -> None:
    plan = _plan()
    records = Records(plan)
    needed = Needed(plan, records)  # type: ignore[arg-type]
    blocks = Blocks(needed.left(), begun={}, record=lambda gpus: None, needed=needed.of)
    gpus = {"x", "y"}
    running: dict[str, PlannedTrial] = {}
    ahead = []
    for turn in range(1000):
        for gpu in sorted(gpus - running.keys()):
            if assignment := blocks.take(gpu, gpus=gpus):
                running[gpu] = assignment.trial
                records.announce([assignment.trial])
                if plan.block(assignment.trial) == 3:
                    ahead.append(assignment.trial.arm)
        if blocks.done:
            break
        gpu = sorted(running)[turn % len(running)]
        records.end(running[gpu])
        blocks.ended(running.pop(gpu))
    assert "a3" in ahead and "a0" in ahead
    assert Needed(plan, records).left() == []  # type: ignore[arg-type]
    # block 3 of two GPUs begins beside block 2, so it may hold arms that the look after block 2 ends; block 4 may not
    assert not [trial for trial in records.ended if trial.endswith("-s5") and ("-a1-" in trial or "-a2-" in trial)]


def test_more_gpus_than_blocks_before_a_look_run_ahead_of_it() -> None:
    plan = _plan()
    needed = Needed(plan, Records(plan))  # type: ignore[arg-type]
    seeds = {gpus: {trial.seed for trial in needed.before_look(gpus)} for gpus in (1, 2, 8, 16)}
    assert {gpus: len(blocks) for gpus, blocks in seeds.items()} == {1: 3, 2: 4, 8: 8, 16: 10}


def test_a_line_says_what_each_look_ended() -> None:
    plan, lines = _plan(), list[str]()
    records = Records(plan)
    for trial in first_trials(plan):
        records.end(trial)
    Needed(plan, records, lines.append).left()  # type: ignore[arg-type]
    (line,) = lines
    assert line.startswith("look after 3 blocks: ends ") and "a1 (faster: both decided)" in line
    assert line.endswith("; 1 of 3 arms go on with the baseline")


def test_looks_are_made_though_no_arm_has_enough_pairs_for_them() -> None:
    """Two of the first three blocks give no pair: the arm goes on, and the later looks count the rest."""
    plan, lines = _plan(2), list[str]()
    records = Records(plan)
    ran = 0
    needed = Needed(plan, records, lines.append)  # type: ignore[arg-type]
    while left := needed.left():
        records.announce(left[:1])
        records.end(left[0])
        if left[0].seed in (1, 2):
            records.trials[left[0].trial_id].tags["timing_valid"] = "false"
            records.trials[left[0].trial_id].metrics.pop("final/val_mse")
        ran += 1
    assert [line.partition(":")[0] for line in lines] == ["look after 3 blocks", "look after 5 blocks"]
    assert ran == 10


class Lists:
    """Stands in for a Launcher: ends each list of trials at once."""

    def __init__(self, records: Records, gpus: float, lose: Callable[[PlannedTrial], bool] = lambda trial: False):
        self.share, self.records, self.lose = Share(cpus=1, gpus=gpus, at_a_time=1), records, lose
        self.lists: list[list[PlannedTrial]] = []
        self.given: list[dict[str, Any]] = []

    def run(self, trials: Sequence[PlannedTrial], collector: Any, **given: Any) -> None:
        self.lists.append(list(trials))
        self.given.append(given)
        for trial in trials:
            if not self.lose(trial):
                self.records.announce([trial])
                self.records.end(trial)


def _lists(plan: Plan, launcher: Lists) -> None:
    records = launcher.records
    needed = Needed(plan, records)  # type: ignore[arg-type]
    run_needed(launcher, needed, records, records.announce)  # type: ignore[arg-type]


def test_without_leased_gpus_the_trials_before_each_look_are_a_list_of_their_own() -> None:
    plan = _plan()
    launcher = Lists(Records(plan), gpus=0)
    _lists(plan, launcher)
    assert [sorted({plan.block(trial) for trial in each}) for each in launcher.lists][:2] == [[0, 1, 2], [3, 4]]
    assert {trial.arm for trial in launcher.lists[1]} == {"a0", "a3"}
    leased = Lists(Records(plan), gpus=1)
    _lists(plan, leased)
    assert len(leased.lists) == 1 and leased.given[0]["in_blocks"] is True


def test_a_trial_without_an_end_ends_the_run_instead_of_looping() -> None:
    plan = _plan()
    launcher = Lists(Records(plan), gpus=0, lose=lambda trial: trial.arm == "a3" and trial.seed == 2)
    _lists(plan, launcher)
    assert len(launcher.lists) == 1
    assert [trial.trial_id for trial in Needed(plan, launcher.records).before_look()] == ["s-a3-s2"]  # type: ignore[arg-type]


def test_fixed_repeats_need_every_trial() -> None:
    plan = plan_of(2, 4)
    records = Records(plan)
    assert Needed(plan, records).left() == list(plan.runnable) == first_trials(plan)  # type: ignore[arg-type]
    launcher = Lists(records, gpus=0)
    _lists(plan, launcher)
    assert [len(each) for each in launcher.lists] == [8]


def test_auto_is_another_sweep_than_as_many_fixed_repeats() -> None:
    auto, fixed = _plan(2), plan_of(2, 10)
    assert [trial.trial_id for trial in auto.trials] == [trial.trial_id for trial in fixed.trials]
    keys = {plan.key(data_sha256="d", tracking_uri="sqlite:///m.db") for plan in (auto, fixed)}
    assert len(keys) == 2
    assert auto.blocks == fixed.blocks == 10
