"""The live table: what it shows, where it stays plain lines, and a real sweep at a real terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tune.console import live
from tune.console.live import LiveProgress, make_progress
from tune.console.progress import Progress
from tune.storage.steps_file import Steps

ROOT = Path(__file__).resolve().parents[3]
METRICS = {
    "loss/val_mse": 0.51234, "speed/step_ms": 3.456, "time/train_s": 1.5, "time/epoch_s": 2.0, "speed/windows_per_s": 9,
}  # fmt: skip


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(name="progress")
def progress_fixture() -> LiveProgress:
    console = Console(file=_Terminal(), force_terminal=True, width=100, highlight=False, color_system=None)
    return LiveProgress(total=4, epochs=3, console=console)


def _shown(progress: LiveProgress) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(progress.table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def _lines(progress: LiveProgress) -> list[list[str]]:
    return [line.split() for line in _shown(progress).splitlines()]


def test_a_running_trial_has_its_label_seed_epoch_error_times_and_time_left(progress: LiveProgress) -> None:
    progress.started("pruning-none-s2", seed=2, epochs=5)
    assert _lines(progress)[1] == ["pruning-none", "2", "0/5", "-", "-", "-", "-"]
    progress.epoch("pruning-none-s2", 1, METRICS)
    progress.epoch("pruning-none-s2", 2, {**METRICS, "time/epoch_s": 4.0})
    assert _lines(progress)[1] == ["pruning-none", "2", "2/5", "0.5123", "3.46", "1.50", "0:09"]  # 3 epochs of 3 s


def test_a_trial_that_starts_again_keeps_what_it_had_shown(progress: LiveProgress) -> None:
    for _ in range(2):
        progress.started("a-s1", seed=1, epochs=3)
        progress.epoch("a-s1", 1, METRICS)
    assert [line[:3] for line in _lines(progress)[1:-2]] == [["a", "1", "1/3"]]


def test_the_sweep_stands_below_with_all_that_ended_in_earlier_sessions_too(progress: LiveProgress) -> None:
    before = {"a": "done", "b": "stopped", "c": "unsupported", "d": "oom"}
    progress.expect(3, before)
    progress.ended("e", "done", None)
    progress.ended("f", "failed_gate", "too far")
    assert _shown(progress).startswith("3 done, 2 failed, 1 unsupported, 1 left\n")
    progress.expect(1, {**before, "e": "done", "f": "failed_gate"})  # nothing counts twice
    assert progress.counts() == "3 done, 2 failed, 1 unsupported, 1 left"


def test_a_bar_is_filled_by_epochs_and_never_overfilled(progress: LiveProgress) -> None:
    progress.expect(2)
    assert _lines(progress)[-1][-4:] == ["0", "%", "ETA", "unknown"]
    progress.started("a-s1", seed=1, epochs=4)
    progress.epoch("a-s1", 1, METRICS)
    (bar, *numbers) = _lines(progress)[-1]
    assert numbers[:2] == ["12", "%"] and set(bar) <= set("━╸╺")
    for trial in ("a-s1", "b-s1", "c-s1"):
        progress.ended(trial, "done", None)
    full, *numbers = _lines(progress)[-1]
    assert numbers[:2] == ["100", "%"] and len(full) > 5 * len(bar)


def test_more_trials_than_fit_are_counted(progress: LiveProgress) -> None:
    for number in range(live.MOST_ROWS + 3):
        progress.started(f"t{number}-s1", seed=1, epochs=3)
    assert "and 3 more" in _shown(progress)


def test_names_and_reasons_are_no_markup(progress: LiveProgress) -> None:
    progress.started("[red]x[/red]-s1", seed=1, epochs=1)
    assert "[red]x[/red]" in _shown(progress)
    progress.ended("[red]x[/red]-s1", "failed", "[bold]no[/nothing]")
    assert "[red]x[/red]-s1 failed: [bold]no[/nothing]" in progress.console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_scroll_above_the_table_which_is_gone_in_the_end_also_after_ctrl_c(
    progress: LiveProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, out = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(KeyboardInterrupt), progress:
        progress.started("a-s1", seed=1, epochs=3)
        print("from elsewhere", file=sys.stderr)
        print("a result")
        raise KeyboardInterrupt
    assert sys.stderr is errors and sys.stdout is out
    text = progress.console.file.getvalue()  # type: ignore[attr-defined]
    assert "from elsewhere" in text and out.getvalue() == "a result\n"
    assert text.rstrip().endswith("0 done, 0 failed, 0 unsupported, 4 left")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize(
    ("stream", "term", "force", "quiet", "kind"),
    [
        (_Terminal, "xterm", None, False, LiveProgress),
        (_Terminal, "dumb", None, False, Progress),
        (_Terminal, "xterm", None, True, Progress),
        (io.StringIO, "xterm", None, False, Progress),
        (io.StringIO, "xterm", "1", False, Progress),  # rich takes FORCE_COLOR for a terminal
    ],
    ids=["terminal", "dumb terminal", "quiet", "pipe", "pipe in colour"],
)
def test_plain_lines_stay_where_a_table_cannot(
    stream: Any, term: str, force: str | None, quiet: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", term)
    if force:
        monkeypatch.setenv("FORCE_COLOR", force)
    monkeypatch.setattr(sys, "stderr", stream())
    assert type(make_progress(total=1, epochs=1, quiet=quiet)) is kind


def _read_all(terminal: int, into: list[bytes]) -> None:
    while True:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            return
        into.append(chunk)


def test_a_sweep_at_a_terminal_shows_the_table_and_keeps_stdout_for_json(tmp_path: Path) -> None:
    arguments = [
        "--sweep", "custom", "--dataset", "demo", "--epochs", "2", "--repeats", "1", "--json", "-",
        "--set", "data.context_length=96", "--set", "data.prediction_length=24",
        "--set", "model.d_model=32", "--set", "model.ffn_dim=32",
    ]  # fmt: skip
    unset = ("MLFLOW_TRACKING_URI", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    ours, theirs = pty.openpty()
    written: list[bytes] = []
    with subprocess.Popen(
        [sys.executable, str(ROOT / "experiments.py"), *arguments],
        cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
        env=environment | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    ) as process:  # fmt: skip
        os.close(theirs)
        reader = threading.Thread(target=_read_all, args=(ours, written))
        reader.start()
        out = process.communicate(timeout=300)[0]
        reader.join(timeout=30)
    os.close(ours)
    text = b"".join(written).decode()
    assert process.returncode == 0, text
    assert [trial["status"] for trial in json.loads(out)["trials"]] == ["done"]
    assert "ms/step" in text and "custom-base" in text and "1/2" in text
    assert "[1/1 ended] custom-base-s1 done" in text and "1 done, 0 failed, 0 unsupported, 0 left" in text
    assert "custom-base-s1 started" not in text and "windows/s" not in text  # those are the plain lines


def test_the_table_says_how_far_a_long_epoch_is(progress: LiveProgress) -> None:
    progress.started("arm-s1", seed=1, epochs=3)
    progress.within_epoch("arm-s1", Steps(epoch=1, done=415, steps=1_385))
    assert "0/3 +29 %" in _shown(progress)
    progress.epoch("arm-s1", 1, METRICS)
    assert "1/3 " in _shown(progress) and "1/3 +" not in _shown(progress)
