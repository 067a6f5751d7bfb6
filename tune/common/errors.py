"""The error that a user can cause and its wording, the errors of trials, and the command line's exit codes."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Mapping

DONE, TRIAL_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
REGRESSED = 1  # of `compare`: an arm is slower or less accurate than before
OUTPUT_CLOSED = 141  # 128 + SIGPIPE: what a shell shows for a program whose reader has quit


class WrongInput(ValueError):
    """Input that cannot be run. One line says what was given, what is allowed and what to do. Exit code 2."""


class Unsupported(Exception):
    """A trial cannot run on the device that it got; the message is the reason."""


class GateFailed(Exception):
    """An arm does not compute the reference's function, or did not run its own kernels. One line says why."""

    def __init__(self, reason: str, *, metrics: Mapping[str, float | None] | None = None) -> None:
        super().__init__(reason)
        self.metrics = dict(metrics or {})


class DiskFull(Exception):
    """A sweep stopped because a disk is full. Nothing is lost: the same command continues. One line."""


_DISK_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


def disk_full(error: BaseException | None) -> str | None:
    """The line in which an error, or an error that it came from, says that a disk is full; None if none does.

    The words are searched: errors from other processes and from libraries not written in Python have no errno.
    """
    while error is not None:
        for line in str(error).splitlines():
            if any(words in line for words in _DISK_FULL):
                return line.strip()
        error = error.__cause__ or error.__context__
    return None


def printable(text: str) -> str:
    """A text without control characters, for one line of a terminal; texts from outside may hold some."""
    return "".join(letter for letter in text if letter.isprintable())


def unknown_name(kind: str, given: str, allowed: Iterable[str], *, meant: str | None = None) -> WrongInput:
    """The error for a name that is not in a registry. It suggests `meant`, or else the nearest name."""
    names, given = sorted(allowed), shortened(given)
    return WrongInput(f"unknown {kind} '{given}'; allowed: {', '.join(names)}.{did_you_mean(meant or given, names)}")


def did_you_mean(given: str, names: Iterable[str], prefix: str = "") -> str:
    """ " Did you mean 'NAME'?", or "" without a candidate. Case is ignored.

    Candidates, in this order: a name much like `given`, a name that is a word of it, the nearest name.
    `prefix` is written before the name and does not count for the likeness.
    """
    by_lower = {name.lower(): name for name in names}
    words = [name for name in by_lower if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", given.lower())]
    almost, some = (difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=alike) for alike in (0.8, 0.5))
    near = almost or sorted(words, key=len)[-1:] or some
    return f" Did you mean '{prefix}{by_lower[near[0]]}'?" if near else ""


def shortened(text: str, letters: int = 120) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= letters else f"{text[:letters]}... ({len(text):,} letters)"


def first_line(message: BaseException | str) -> str:
    """The first line that is not empty, at most 300 characters; without one, an error's class or ""."""
    default = type(message).__name__ if isinstance(message, BaseException) else ""
    return next((line.strip() for line in str(message).splitlines() if line.strip()), default)[:300]
