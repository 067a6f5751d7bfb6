"""Signals that stop a command: SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1. One that is ignored at the start stays so.

The first one stops the command in order. `Stopped` is raised in the main thread: at once, or inside `deferred` at its
end or at the next `check`. A second one ends the process, and all that it has started, at once. So does the first if
the main thread does not hear it (a call into a library that hangs) or does not get to its end.

Python's handlers run only between two of its instructions in the main thread. A thread of our own therefore reads the
signals too, from the pipe that Python writes them to as they arrive.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SAME_S = 0.5  # `timeout`, a closing terminal and systemd send one stop as two signals, this close to each other
PATIENCE_S = 2.0  # how long a call that was deferred for may go on
UNHEARD_S = 5.0  # then the main thread cannot hear; `docker stop` kills 10 s after the signal
LATE_S = 30.0  # then the command does not get to its end
LAST_STEPS_S = 4.5  # for what still has to be written before the process ends
_AGAIN_S = 0.5  # how often the main thread is woken

Handler = Callable[[int, FrameType | None], Any]


class Stopped(KeyboardInterrupt):
    """A signal stops this command."""


class _Signals:
    """The signals of this process. Only the main thread raises; the watching thread only ends the process."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.heard = False  # whether `Stopped` was raised
        self.over = False  # whether the command has ended, and only the interpreter has to
        self.levels: list[bool] = []  # of `deferred`, the outermost first: whether it is patient without end
        self.hint = ""
        self.last_steps: list[Callable[[], None]] = []
        self.sweeping: list[Callable[[], None]] = []  # what removes files of killed processes
        self.installed = False
        self._overdue = False
        self._seen_s: float | None = None  # by the watching thread
        self._own = 0  # signals that it has sent itself

    def install(self, hint: str) -> None:
        self.hint = hint
        if self.installed:
            return
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True).start()
        self.installed = True
        self.take_over()

    def take_over(self) -> None:
        """Make the handlers ours, also where a library has set another one outside of Python."""
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        if self.heard or self.over or (self.levels and not (self._overdue and not any(self.levels))):
            return
        self.check()

    def check(self) -> None:
        if self.first is not None and not self.heard:
            self.heard = True
            sys.unraisablehook = lambda _: None  # objects of a library that meet a Ray that is gone say so at their end
            raise Stopped(self.first.name)

    def _watch(self, reading: int) -> None:
        while True:
            ready, _, _ = select.select([reading], [], [], None if self._seen_s is None else _AGAIN_S)
            for number in os.read(reading, 64) if ready else b"":
                if number in STOPPING:
                    self._arrived(signal.Signals(number))
            if self._seen_s is not None:
                self._look_at_the_clock(time.monotonic() - self._seen_s)

    def _arrived(self, number: signal.Signals) -> None:
        if self._own:
            self._own -= 1
        elif self._seen_s is None:
            self.first, self._seen_s = self.first or number, time.monotonic()
        elif time.monotonic() - self._seen_s > SAME_S:
            self._say_and_end()

    def _look_at_the_clock(self, passed_s: float) -> None:
        if passed_s > (LATE_S if self.heard or self.over else UNHEARD_S):
            self._end_after_last_steps()
        if passed_s > PATIENCE_S and not self.heard and not self.over:
            self._overdue = True
            self._own += 1
            signal.pthread_kill(threading.main_thread().ident or 0, self.first or signal.SIGTERM)

    def _end_after_last_steps(self) -> NoReturn:
        def work() -> None:
            for step in reversed(self.last_steps):
                with contextlib.suppress(Exception):
                    step()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(LAST_STEPS_S)
        self._say_and_end()

    def _say_and_end(self) -> NoReturn:
        if not self.over:  # else it was said
            _write(f"{line()}\n")
        self._end()

    def _end(self) -> NoReturn:
        """End this process and all that it has started, now."""
        try:
            if sys.stderr is not None and os.isatty(2):
                _write("\x1b[?25h\n")  # the live table hides the cursor
            kill_children()
            for step in self.sweeping:
                with contextlib.suppress(Exception):
                    step()
        finally:
            os._exit(128 + (self.first or signal.SIGTERM))


_SIGNALS = _Signals()


def install(hint: str = "") -> None:
    """Take the signals over; call it once, in the main thread. hint: what follows the line that a signal ends with."""
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"  # Ray's own prints a native stack and aborts at SIGTERM
    _SIGNALS.install(hint)


def received() -> signal.Signals | None:
    """The signal that stops this command; None if there was none."""
    return _SIGNALS.first


def because() -> str:
    """` by SIGTERM`, or nothing without a signal and for Ctrl-C, which needs no name."""
    return "" if received() in (None, signal.SIGINT) else f" by {_SIGNALS.first.name}"  # type: ignore[union-attr]


def line(hint: str = "") -> str:
    """The line that a command ends with if a signal stopped it. hint: what follows if no other is installed."""
    return f"interrupted{because()}{_SIGNALS.hint if _SIGNALS.installed else hint}"


def then(hint: str) -> None:
    """From now on another hint is true: the command has come further."""
    if _SIGNALS.installed:
        _SIGNALS.hint = hint


def exit_code(code: int) -> int:
    """The exit code of a command that was stopped: 128 + the signal, or `code` if there was no signal."""
    return code if _SIGNALS.first is None else 128 + _SIGNALS.first


def over() -> None:
    """The command has ended: a first signal from now on changes nothing any more."""
    _SIGNALS.over = True


def leave(code: int) -> NoReturn:
    """End the process after a signal, without what libraries do at the end: Ray would wait for what is gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def check() -> None:
    """Raises Stopped if a signal has arrived and nobody knows yet."""
    if threading.current_thread() is threading.main_thread():
        _SIGNALS.check()


@contextlib.contextmanager
def deferred(*, patient: bool = True) -> Iterator[None]:
    """Inside, a signal interrupts nothing; `Stopped` is raised at the end. In other threads it does nothing.

    patient: without end, for what must not be cut in half; else for PATIENCE_S seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _SIGNALS.levels.append(patient)
    try:
        yield
    finally:
        _SIGNALS.levels.pop()
    if not _SIGNALS.levels:
        _SIGNALS.check()


@contextlib.contextmanager
def calls_into_library() -> Iterator[None]:
    """Inside, a library cannot replace our handlers (Ray and Tune would), and is interrupted only if it takes long."""
    with deferred(patient=False), _kept_ours():
        yield


@contextlib.contextmanager
def _kept_ours() -> Iterator[None]:
    if not _SIGNALS.installed:
        yield
        return
    set_handler: Any = signal.signal

    def refuse(number: int, handler: Handler | int | None) -> Any:
        return signal.getsignal(number) if number in STOPPING else set_handler(number, handler)

    signal.signal = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler
        _SIGNALS.take_over()


@contextlib.contextmanager
def at_the_last(step: Callable[[], None]) -> Iterator[None]:
    """Inside, `step` is called on another thread before the process is ended because its main thread does not hear."""
    _SIGNALS.last_steps.append(step)
    try:
        yield
    finally:
        _SIGNALS.last_steps.remove(step)


@contextlib.contextmanager
def sweeping_up(step: Callable[[], None]) -> Iterator[None]:
    """Inside, `step` is called if the process is ended at once: it removes what the killed processes leave."""
    _SIGNALS.sweeping.append(step)
    try:
        yield
    finally:
        _SIGNALS.sweeping.remove(step)


def kill_children() -> None:
    """SIGKILL to every process that this one has started, directly or not."""
    import psutil

    parents = {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid"])}
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in ours - {os.getpid()}:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
