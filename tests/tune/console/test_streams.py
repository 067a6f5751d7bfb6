"""The command's own stdout and stderr: readers that quit, full disks, closed descriptors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tune.commands.main import main
from tune.common.errors import DONE, OUTPUT_CLOSED, WRONG_INPUT
from tune.console.progress import Progress
from tune.console.streams import lasting_stderr

PROGRAM = str(Path(__file__).resolve().parents[3] / "experiments.py")
PLAN = ["--sweep", "custom", "--dataset", "demo", "--plan"]
COMMANDS = {"list": ["list"], "plan": PLAN, "help": ["--help"]}


@contextmanager
def _pipe_without_a_reader() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def _run(folder: Path, arguments: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([sys.executable, PROGRAM, *arguments], cwd=folder, text=True, timeout=120, **streams)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_quits_ends_a_command_without_a_word(name: str, tmp_path: Path) -> None:
    with _pipe_without_a_reader() as writer:
        done = _run(tmp_path, COMMANDS[name], stdout=writer)
    assert (done.returncode, done.stderr) == (OUTPUT_CLOSED, "")


def test_both_streams_may_be_lost_at_once(tmp_path: Path) -> None:
    with _pipe_without_a_reader() as writer:
        assert _run(tmp_path, PLAN, stdout=writer, stderr=writer).returncode == OUTPUT_CLOSED
        assert _run(tmp_path, ["--what"], stdout=writer, stderr=writer).returncode == WRONG_INPUT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_below_stdout_is_one_line(name: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = _run(tmp_path, COMMANDS[name], stdout=full)
    (line,) = done.stderr.splitlines()
    assert done.returncode == WRONG_INPUT
    assert line.startswith("error: stdout cannot be written: No space left on device")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_stream_that_is_closed_from_the_start_gets_nothing(
    closed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, closed, None)
    assert main(PLAN) == DONE
    assert main([*PLAN, "--json", "-"]) == DONE
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("lost", ["closed", "full"])
def test_results_are_complete_if_progress_is_lost(lost: str, tmp_path: Path) -> None:
    arguments = [*PLAN, "--json", "-"]  # the plan's text then goes where progress goes
    if lost == "full":
        with open("/dev/full", "w") as full:
            done = _run(tmp_path, arguments, stderr=full)
    else:
        with _pipe_without_a_reader() as writer:
            done = _run(tmp_path, arguments, stderr=writer)
    assert done.returncode == DONE
    assert json.loads(done.stdout)["sweep"] == "custom"


def test_progress_goes_on_counting_once_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with _pipe_without_a_reader() as writer, open(os.dup(writer), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with lasting_stderr():
            progress = Progress(total=1, epochs=1)
            progress.started("a", seed=1, epochs=1)
            progress.ended("a", "done", None)
            assert progress.eta() == "0:00"
