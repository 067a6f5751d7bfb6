"""The time left that a progress line names: of trials one after another, and of blocks on several GPUs."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.console.eta import makespan
from tune.console.progress import Progress
from tune.storage import steps_file
from tune.storage.steps_file import Steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [0.0]
    monkeypatch.setattr("tune.console.progress.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    return now_s


@given(lengths=st.lists(st.floats(0.1, 9), min_size=1, max_size=8), at_a_time=st.integers(1, 9))
def test_blocks_take_no_less_than_the_longest_or_their_share_and_no_more_than_one_gpu(
    lengths: list[float], at_a_time: int
) -> None:
    length = makespan(lengths, at_a_time)
    assert max(max(lengths), sum(lengths) / at_a_time) <= length * (1 + 1e-9)
    assert length <= sum(lengths) / at_a_time + max(lengths) + 1e-9


def test_blocks_begin_in_their_order_as_gpus_become_free() -> None:
    assert makespan([3, 1, 1, 4], 2) == 6
    assert makespan([], 2) == 0


def test_trials_that_run_at_the_same_time_are_not_counted_one_after_another(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=10, quiet=True)
    progress.expect_blocks([["a1", "a2"], ["b1", "b2"], ["c1", "c2"]], 2)
    assert (progress.total, progress.eta()) == (6, "unknown")
    for trial in ("a1", "b1"):
        progress.started(trial, seed=1, epochs=progress.epochs)
    clock[0] = 100.0
    for trial in ("a1", "b1"):
        progress.ended(trial, "done", None)
    assert progress.eta() == "5:00"  # 100 s each: a2 and b2 at a time, then c1 and c2 on one of the two
    for trial in ("a2", "b2"):
        progress.started(trial, seed=1, epochs=progress.epochs)
    clock[0] = 200.0
    for trial in ("a2", "b2"):
        progress.ended(trial, "done", None)
    assert progress.eta() == "3:20"


def test_half_a_trial_counts_as_half(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=2, quiet=True)
    progress.expect_blocks([["a1"], ["b1"]], 2)
    progress.started("a1", seed=1, epochs=progress.epochs)
    progress.started("b1", seed=1, epochs=progress.epochs)
    clock[0] = 10.0
    for trial in ("a1", "b1"):
        progress.epoch(trial, 1, {"loss/val_mse": 1.0, "time/train_s": 10.0, "speed/windows_per_s": 1.0})
    assert progress.eta() == "0:10"


def test_before_any_epoch_the_time_left_is_what_earlier_sweeps_say_less_what_has_passed(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=2, quiet=True)
    progress.expect_blocks([["a-s1"]], 1, expected_s=100.0)
    assert progress.eta() == "1:40"
    clock[0] = 30.0
    progress.started("a-s1", seed=1, epochs=2)
    assert progress.eta() == "1:10"
    clock[0] = 50.0
    progress.epoch("a-s1", 1, {"loss/val_mse": 1.0, "time/train_s": 5.0, "speed/windows_per_s": 1.0})
    assert progress.eta() == "0:05"


def test_the_time_left_says_what_it_is_the_time_to_if_that_need_not_be_the_end(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=2, quiet=True)
    progress.expect_blocks([["a-s1"]], 1, expected_s=100.0, until="the next look")
    assert progress.eta() == "1:40 to the next look"
    progress.expect_blocks([["a-s1"]], 1, expected_s=100.0)
    assert progress.eta() == "1:40"


def test_trials_without_names_that_run_at_the_same_time_share_the_time_left(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=1, quiet=True)
    progress.expect(8, at_a_time=2)
    assert progress.eta() == "unknown"
    for trial in ("x", "y"):
        progress.started(trial, seed=1, epochs=1)
    clock[0] = 10.0
    for trial in ("x", "y"):
        progress.ended(trial, "done", None)
    assert progress.eta() == "0:30"  # six of 10 s, two at a time


def test_a_new_stage_is_not_judged_by_the_trials_of_the_one_before(clock: list[float]) -> None:
    progress = Progress(total=0, epochs=1, quiet=True)
    progress.expect(1, until="the next step of the search")
    progress.started("search-a-s1", seed=1, epochs=1)
    clock[0] = 10.0
    progress.ended("search-a-s1", "done", None)
    assert progress.eta() == "0:00 to the next step of the search"
    progress.begin_stage()
    progress.expect_blocks([["a-s1"], ["a-s2"]], 1)
    assert progress.eta() == "unknown"
    progress.started("a-s1", seed=1, epochs=1)
    clock[0] = 110.0
    progress.ended("a-s1", "done", None)
    assert (progress.eta(), progress.total) == ("1:40", 3)


def test_a_long_epoch_has_a_line_now_and_then_until_it_is_done(tmp_path: Path) -> None:
    now, stream = [0.0], io.StringIO()
    progress = Progress(total=1, epochs=3, stream=stream, clock=lambda: now[0])
    progress.started("arm-s1", seed=1, epochs=3)

    def lines_at(seconds: float, done: int, epoch: int = 1) -> list[str]:
        now[0] = seconds
        steps_file.write(tmp_path / "steps" / "arm-s1", Steps(epoch=epoch, done=done, steps=1_385))
        before = stream.tell()
        progress.look_into_epochs(tmp_path / "steps")
        return stream.getvalue()[before:].splitlines()

    assert lines_at(5, 100) == ["[0/1 ended] arm-s1 epoch 1: 100 of 1,385 steps"]
    assert lines_at(10, 200) == []
    assert lines_at(40, 800) == ["[0/1 ended] arm-s1 epoch 1: 800 of 1,385 steps"]
    metrics = {"loss/val_mse": 0.5, "time/train_s": 60.0, "time/epoch_s": 66.0, "speed/windows_per_s": 9.0}
    progress.epoch("arm-s1", 1, metrics)
    assert lines_at(80, 1_385) == []  # of the epoch that is done
    assert len(lines_at(120, 7, epoch=2)) == 1
