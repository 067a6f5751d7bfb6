"""The time left of a sweep whose arms take a while to begin, once each."""

from __future__ import annotations

import pytest

from tune.console.eta import TimeLeft, arm_of

EPOCHS = 10
NEW_S, OLD_S = 70.0, 5.0  # before the first epoch: of an arm's first trial, and of the others


class Sweep:
    """Trials one after another; an epoch of arm `a` takes 1 s, of `b` 2 s."""

    def __init__(self) -> None:
        self.now_s, self.time_left = 0.0, TimeLeft(EPOCHS)

    def run(self, trial: str, head_s: float, *, epochs: int = EPOCHS) -> Sweep:
        """Of a head of NEW_S, all but OLD_S was compiling."""
        epoch_s = 2.0 if trial.startswith("b") else 1.0
        self.time_left.began(trial, self.now_s)
        self.now_s += head_s
        for _ in range(epochs):
            self.now_s += epoch_s
            self.time_left.epoch(trial, self.now_s, epoch_s)
        if epochs == EPOCHS:
            self.time_left.ended(trial, self.now_s, head_s - OLD_S)
        return self

    def left(self, *trials: str) -> list[float | None]:
        left_s = self.time_left.left_s(trials, self.now_s)
        return [None if left_s is None else left_s.get(trial, 0.0) for trial in trials]


def test_nothing_is_known_before_the_first_epoch_and_what_is_left_then_is_known_at_once() -> None:
    assert Sweep().left("a-s1") == [None]
    assert Sweep().run("a-s1", NEW_S, epochs=1).left("a-s1") == [9.0]


def test_what_an_arm_does_once_is_counted_once_for_each_arm() -> None:
    sweep = Sweep().run("a-s1", NEW_S)
    assert sweep.left("a-s1", "b-s1") == [0.0, NEW_S + 1 + 9]
    assert sweep.left("a-s2") == [OLD_S + 1 + 9]  # no later trial has begun: a first one without its compiling
    assert sweep.left("b-s1", "b-s2") == [NEW_S + 1 + 9, OLD_S + 1 + 9]
    sweep.run("a-s2", OLD_S)
    assert sweep.left("a-s3", "b-s1") == [OLD_S + 1 + 9, NEW_S + 1 + 9]


def test_an_arms_own_trials_say_how_long_its_others_take() -> None:
    sweep = Sweep().run("a-s1", NEW_S).run("b-s1", NEW_S).run("a-s2", OLD_S)
    assert sweep.left("a-s3", "b-s2") == [OLD_S + 10, OLD_S + 20]


@pytest.mark.parametrize(("epochs", "left_s"), [(4, 6.0), (9, 1.0)])
def test_a_running_trial_has_its_epochs_left(epochs: int, left_s: float) -> None:
    sweep = Sweep().run("a-s1", NEW_S).run("a-s2", OLD_S, epochs=epochs)
    assert sweep.left("a-s2") == [left_s]


def test_a_trial_that_has_begun_has_the_rest_of_its_start_left_and_never_less_than_none() -> None:
    sweep = Sweep().run("a-s1", NEW_S).run("a-s2", OLD_S)
    sweep.time_left.began("a-s3", sweep.now_s)
    sweep.now_s += 4.0
    assert sweep.left("a-s3") == [OLD_S + 1 - 4 + 9]
    sweep.now_s += 100.0
    assert sweep.left("a-s3") == [10.0]


def test_trials_that_end_before_an_epoch_are_all_there_is_to_go_by_until_one_has_one() -> None:
    sweep = Sweep()
    sweep.time_left.began("a-s1", 0.0)
    sweep.time_left.ended("a-s1", 3.0)
    assert sweep.left("b-s1") == [3.0]
    assert sweep.run("b-s1", NEW_S).left("b-s2") == [OLD_S + 2 + 18]


def test_the_gap_between_two_trials_and_the_end_of_a_trial_count() -> None:
    sweep = Sweep()
    for seed in (1, 2):
        sweep.run(f"a-s{seed}", OLD_S, epochs=EPOCHS - 1)
        sweep.now_s += 1.0
        sweep.time_left.epoch(f"a-s{seed}", sweep.now_s, 1.0)
        sweep.now_s += 3.0  # test set, model
        sweep.time_left.ended(f"a-s{seed}", sweep.now_s)
        sweep.now_s += 2.0  # nothing runs
    assert sweep.left("a-s3", "a-s4") == [OLD_S + 10 + 3, 2 + OLD_S + 10 + 3]  # the first one's gap has passed
    sweep.run("a-s3", OLD_S)
    assert sweep.left("a-s4") == [2 + OLD_S + 10 + 2]  # a-s3 had no end


def test_epochs_that_get_shorter_are_expected_to_do_so_again() -> None:
    time_left, now_s = TimeLeft(4), 0.0
    for trial, done in (("a-s1", 4), ("a-s2", 2)):
        time_left.began(trial, now_s)
        for epoch_s in (4.0, 4.0, 1.0, 1.0)[:done]:
            now_s += epoch_s
            time_left.epoch(trial, now_s, epoch_s)
        if done == 4:
            time_left.ended(trial, now_s)
    assert time_left.left_s(["a-s2"], now_s) == {"a-s2": 2.0}


def test_an_arm_that_has_not_run_takes_what_its_weight_says() -> None:
    sweep = Sweep().run("a-s1", OLD_S)
    sweep.time_left.weights = {"a": 2.0, "c": 6.0}
    assert sweep.left("c-s1") == [OLD_S + 30]
    assert sweep.left("d-s1") == [OLD_S + 20]  # without a weight: the mean of the others


def test_trials_without_a_name_take_as_long_as_those_that_ended() -> None:
    sweep = Sweep()
    assert sweep.time_left.all_left_s(2, 0.0) is None
    sweep.run("a-s1", OLD_S)
    assert sweep.time_left.all_left_s(2, sweep.now_s) == 2 * (OLD_S + 10)
    sweep.run("a-s2", OLD_S, epochs=4)
    assert sweep.time_left.all_left_s(2, sweep.now_s) == 6 + 2 * (OLD_S + 10)


def test_an_arm_is_known_by_its_trials_name_without_the_seed() -> None:
    assert [arm_of(name) for name in ("attention-eager-s12", "pruning-static-4-8-s1", "odd")] == [
        "attention-eager",
        "pruning-static-4-8",
        "odd",
    ]
