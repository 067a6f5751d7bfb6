"""Turns of warm-ups on one GPU, with real processes: many compile together, and who times kernels is alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tune.trial.turns import Turns
with Turns(Path(sys.argv[2]), sys.argv[3]) as turns:
    print("compiles", flush=True)
    for line in sys.stdin:
        if line == "alone\\n":
            turns.alone()
            print("alone", flush=True)
        else:
            break
print("left", flush=True)
"""


class Process:
    """A process that warms up, and does as it is told."""

    def __init__(self, folder: Path, gpu: str) -> None:
        command = [sys.executable, "-c", PROCESS, str(ROOT), str(folder), gpu]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word: str) -> None:
        assert self.popen.stdin is not None
        print(word, file=self.popen.stdin, flush=True)

    def heard(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def waits(self) -> bool:
        """Whether it is blocked, seen by what the kernel says of its locks."""
        return any(
            "-> FLOCK" in line and f" {self.popen.pid} " in line
            for line in Path("/proc/locks").read_text().splitlines()
        )


@contextmanager
def processes(folder: Path, *gpus: str) -> Iterator[list[Process]]:
    started = [Process(folder, gpu) for gpu in gpus]
    try:
        yield started
    finally:
        for process in started:
            process.popen.kill()
            process.popen.communicate()


def _until_it_waits(process: Process) -> None:
    while not process.waits():
        assert process.popen.poll() is None


@pytest.mark.timeout(60)
def test_who_is_alone_waits_for_all_who_compile_and_newcomers_wait_for_it(tmp_path: Path) -> None:
    with processes(tmp_path, "GPU-1", "GPU-1") as (one, two):
        assert [one.heard(), two.heard()] == ["compiles", "compiles"]
        one.tell("alone")
        _until_it_waits(one)
        two.tell("leave")
        assert (two.heard(), one.heard()) == ("left", "alone")
        with processes(tmp_path, "GPU-1") as (newcomer,):
            _until_it_waits(newcomer)
            one.tell("leave")
            assert (one.heard(), newcomer.heard()) == ("left", "compiles")


@pytest.mark.timeout(60)
def test_two_that_want_to_be_alone_are_so_one_after_the_other(tmp_path: Path) -> None:
    with processes(tmp_path, "GPU-1", "GPU-1") as both:
        for process in both:
            assert process.heard() == "compiles"
        for process in both:
            process.tell("alone")
        first = both[0] if not _waiting(both[0], both[1]) else both[1]
        second = both[1] if first is both[0] else both[0]
        assert first.heard() == "alone" and second.waits()
        first.tell("leave")
        assert second.heard() == "alone"


def _waiting(one: Process, other: Process) -> bool:
    """Which of two waits, once one of them does: True for the first."""
    while True:
        if one.waits() != other.waits():
            return one.waits()


@pytest.mark.timeout(60)
def test_a_killed_process_holds_nobody_up_and_another_gpu_is_no_neighbour(tmp_path: Path) -> None:
    with processes(tmp_path, "GPU-1", "GPU-1", "GPU-2") as (one, two, elsewhere):
        assert [process.heard() for process in (one, two, elsewhere)] == ["compiles"] * 3
        elsewhere.tell("alone")
        assert elsewhere.heard() == "alone"
        one.tell("alone")
        _until_it_waits(one)
        two.popen.kill()
        assert one.heard() == "alone"
