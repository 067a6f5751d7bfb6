"""Signals that stop a command, in processes of their own: the first in order, the second at once, whatever hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from system_kit import skip_for_want_of

ROOT = Path(__file__).resolve().parents[3]
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
BEGIN = """
import contextlib, ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from tune.common import signals
signals.install(hint="; again")
def ready(): print("ready", flush=True)
def stopped():
    print("stopped by", signals.received().name, flush=True)
    signals.over()
    sys.exit(signals.exit_code(0))
"""
# A call that no signal interrupts, as one into a library may be
HANG = """
lock = ctypes.create_string_buffer(64)
def hang():
    for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


class Program:
    """A script that has said that it is ready."""

    def __init__(self, script: str, *prefix: str, ignored: signal.Signals | None = None) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", BEGIN + script],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            preexec_fn=lambda: [
                signal.signal(number, signal.SIG_IGN if number == ignored else signal.default_int_handler)
                for number in (signal.SIGINT, ignored or signal.SIGINT)
            ],
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self.process.communicate()

    def ends(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=100)
        return self.process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(
    ("number", "waits"),
    [
        (signal.SIGINT, "time.sleep(100)"),
        (signal.SIGTERM, "threading.Event().wait(100)"),
        # A signal while it starts leaves it alone, holding none of our pipes
        (signal.SIGHUP, "subprocess.run(['sleep', '20'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"),
        (signal.SIGUSR1, "import asyncio; asyncio.run(asyncio.sleep(100))"),
        (signal.SIGTERM, "os.read(os.pipe()[0], 1)"),
    ],
)
def test_a_signal_stops_whatever_waits_with_128_and_its_number(number: signal.Signals, waits: str) -> None:
    program = Program(f"try: ready(); {waits}\nexcept KeyboardInterrupt: stopped()")
    program.process.send_signal(number)
    assert program.ends() == (128 + number, f"stopped by {number.name}\n", "")


def test_what_is_deferred_is_not_cut_in_half() -> None:
    program = Program(
        "try:\n with signals.deferred():\n  ready(); time.sleep(1); print('whole', flush=True)\n print('not this')\n"
        "except KeyboardInterrupt: stopped()"
    )
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == (143, "whole\nstopped by SIGTERM\n", "")


def test_a_call_into_a_library_is_interrupted_after_a_while_but_not_what_it_calls_back() -> None:
    program = Program(
        "signals.PATIENCE_S = 0.1\n"
        "def callback():\n with signals.deferred(): time.sleep(1); print('whole', flush=True)\n"
        "try:\n with signals.calls_into_library(): ready(); callback(); time.sleep(100)\n"
        "except KeyboardInterrupt: stopped()"
    )
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == (143, "whole\nstopped by SIGTERM\n", "")


@pytest.mark.parametrize("number", STOPPING)
def test_a_library_can_neither_replace_our_handlers_nor_stop_ignoring_a_signal(number: signal.Signals) -> None:
    script = (
        "with signals.calls_into_library():\n"
        f" signal.signal({int(number)}, lambda *_: os._exit(7))\n"
        "signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
        f"try: ready(); os.kill(os.getpid(), {int(number)}); signal.alarm(1); time.sleep(100)\n"
        "except KeyboardInterrupt: stopped()"
    )
    assert Program(script).ends() == (128 + number, f"stopped by {number.name}\n", "")
    assert Program(script, ignored=number).ends() == (0, "", "")


@pytest.mark.parametrize("script", ["ready()\ntime.sleep(100)", f"{HANG}\nready()\nhang()"])
def test_a_second_signal_ends_the_process_and_what_it_started_at_once(script: str) -> None:
    """Also one that a `finally` or a library keeps busy."""
    program = Program(
        "child = subprocess.Popen(['sleep', '100'])\ntry:\n "
        + script.replace("\n", "\n ")
        + "\nfinally: time.sleep(100)"
    )
    children = psutil.Process(program.process.pid).children()
    program.process.send_signal(signal.SIGUSR1)
    time.sleep(1.0)  # two signals within half a second count as one
    program.process.send_signal(signal.SIGTERM)
    assert program.ends()[0] == 138
    _, alive = psutil.wait_procs(children, timeout=10)
    assert len(children) == 1 and alive == []


def test_one_stop_that_comes_as_two_signals_is_one() -> None:
    program = Program(
        "try: ready(); time.sleep(100)\nexcept KeyboardInterrupt: time.sleep(1.5); stopped()"
    )  # as `timeout` sends it, to its child and to the group of its child
    for _ in range(2):
        program.process.send_signal(signal.SIGTERM)
    code, out, _ = program.ends()
    assert (code, out) == (143, "stopped by SIGTERM\n")


@pytest.mark.parametrize("heard", [True, False])
def test_a_process_whose_main_thread_hangs_takes_its_last_steps_and_ends(heard: bool, tmp_path: Path) -> None:
    limits = (
        "signals.LATE_S, signals.UNHEARD_S = 1.0, 100.0" if heard else "signals.LATE_S, signals.UNHEARD_S = 100.0, 1.0"
    )
    wait = "try: ready(); time.sleep(100)\n finally: hang()" if heard else "with signals.deferred(): ready(); hang()"
    program = Program(
        f"{HANG}\n{limits}\nwith signals.at_the_last(lambda: Path({str(tmp_path / 'step')!r}).touch()):\n {wait}"
    )
    program.process.send_signal(signal.SIGHUP)
    code, _, err = program.ends()
    assert (code, err) == (129, "interrupted by SIGHUP; again\n")
    assert (tmp_path / "step").exists()


def test_a_command_that_has_ended_keeps_its_exit_code() -> None:
    program = Program("import atexit; atexit.register(lambda: (ready(), time.sleep(1)))\nsignals.over()\nsys.exit(2)")
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == (2, "", "")


def test_signals_stop_the_first_process_of_a_container() -> None:
    """The kernel drops signals for process 1 that it has no handler for."""
    unshare = shutil.which("unshare")
    prefix = (unshare or "", "--pid", "--fork", *(() if os.getuid() == 0 else ("--user", "--map-root-user")))
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        skip_for_want_of("needs unshare(1) with the right to make a process namespace")
    program = Program(
        "assert os.getpid() == 1\ntry: ready(); time.sleep(100)\nexcept KeyboardInterrupt: stopped()", *prefix
    )
    pid = program.process.pid
    os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()), signal.SIGTERM)
    assert program.ends() == (143, "stopped by SIGTERM\n", "")


def _imports(name: str, action: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Runs `experiments.py list` in a process that does `action` when it imports `name`."""
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        f"    def find_spec(self, name, *_):\n        if name == {name!r}: {action}\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.argv[1:] = ['list']\nrunpy.run_path({str(ROOT / 'experiments.py')!r}, run_name='__main__')"
    )
    return lambda: subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "name"),
    [
        *((number, "tune.console.streams") for number in STOPPING),
        (signal.SIGTERM, "tune.common.signals"),
        (signal.SIGHUP, "tune.commands.listing"),
    ],
)
def test_a_signal_in_the_first_imports_is_one_line_with_its_exit_code(number: signal.Signals, name: str) -> None:
    done = _imports(name, f"os.kill(os.getpid(), {int(number)})")()
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"interrupted{by}\n")
