"""The one error a user can cause, how to word it, and the exit codes of the command line."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Mapping


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


DONE, TRIAL_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
REGRESSED = 1  # of `compare`: an arm is slower or less accurate than it was
OUTPUT_CLOSED = 141  # what a shell shows for a program whose reader has quit: 128 + SIGPIPE


class WrongInput(ValueError):
    """Input that cannot be run: one line saying what was given, what is allowed, what to do. Exit code 2."""


class Unsupported(Exception):
    """A trial found on its own device that it cannot run there; the message is the reason."""


class GateFailed(Exception):
    """An arm is not the function it should be, or did not run its own kernels; the message is the reason, one line."""

    def __init__(self, reason: str, *, metrics: Mapping[str, float | None] | None = None) -> None:
        super().__init__(reason)
        self.metrics = dict(metrics or {})


class DiskFull(Exception):
    """A sweep stopped for want of room on a disk; nothing is lost, and the same command goes on. One line."""


_DISK_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def disk_full(error: BaseException | None) -> str | None:
    """What an error, or one that it came from, says of a disk without room; None if it is none.

    By its words: errors of other processes, and of libraries that are not written in Python, have no number.
    """
    while error is not None:
        for line in str(error).splitlines():
            if any(words in line for words in _DISK_FULL):
                return line.strip()
        error = error.__cause__ or error.__context__
    return None


def printable(text: str) -> str:
    """A text fit for one line of a terminal: what others have written may hold control characters."""
    return "".join(letter for letter in text if letter.isprintable())


def unknown_name(kind: str, given: str, allowed: Iterable[str], *, meant: str | None = None) -> WrongInput:
    """The error for a name that is not in a registry, suggesting the nearest one, or the one that is surely meant."""
    names = sorted(allowed)
    return WrongInput(f"unknown {kind} '{given}'; allowed: {', '.join(names)}.{did_you_mean(meant or given, names)}")


def did_you_mean(given: str, names: Iterable[str], prefix: str = "") -> str:
    """ " Did you mean 'NAME'?" for a name much like what was given, one that is a word of it, or the nearest; or "".

    Case counts for nothing.

    `prefix`: what all names have in front when they are written, which does not make them alike.
    """
    by_lower = {name.lower(): name for name in names}
    words = [name for name in by_lower if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", given.lower())]
    almost, some = (difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=alike) for alike in (0.8, 0.5))
    near = almost or sorted(words, key=len)[-1:] or some
    return f" Did you mean '{prefix}{by_lower[near[0]]}'?" if near else ""


def first_line(text: str) -> str:
    """The first line that says something, shortened."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]
