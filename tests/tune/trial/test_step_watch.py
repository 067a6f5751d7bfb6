"""How far an epoch is: written while it takes long, from what the device has finished, and gone at the end."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from tune.measure.timer import EpochTimer
from tune.storage import steps_file
from tune.storage.steps_file import Steps
from tune.trial.step_watch import StepWatch


def _wait_for(file: Path) -> Steps:
    until = time.monotonic() + 30
    while (found := steps_file.read(file)) is None:
        assert time.monotonic() < until, "nothing was written"
        time.sleep(0.01)
    return found


def test_a_long_epoch_is_told_of_and_the_file_is_gone_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "steps" / "trial"
    watch = StepWatch(file, period_s=0.02)
    with watch.epoch(3, 70, lambda: 41):
        assert _wait_for(file) == Steps(epoch=3, done=41, steps=70)
    watch.close()
    assert not file.parent.exists()


def test_an_epoch_of_less_than_a_period_is_not_told_of(tmp_path: Path) -> None:
    file = tmp_path / "steps" / "trial"
    watch = StepWatch(file, period_s=3600)
    for epoch in (1, 2):
        with watch.epoch(epoch, 70, lambda: 41):
            pass
    assert not file.parent.exists()
    watch.close()


def test_without_a_reader_there_is_no_thread() -> None:
    watch = StepWatch(None)
    with watch.epoch(1, 2, lambda: 1):
        assert watch._thread is None
    watch.close()


def test_a_timer_knows_the_steps_that_the_device_has_finished() -> None:
    timer = EpochTimer(torch.device("cpu"))
    with timer.epoch():
        for done in range(5):
            assert timer.finished() == done
            with timer.step():
                pass
    marks = [mark for _, mark in timer._steps]
    for mark in marks[3:]:  # as events that the device has not reached
        mark.passed = lambda: False  # type: ignore[method-assign]
    assert timer.finished() == 3


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "trial").write_text("3 41")
    assert steps_file.read(tmp_path / "trial") is None
    assert steps_file.read(tmp_path / "other") is None
