"""Runs the parts of `doctor` at the same time, each in a forked process, and ends those that hang."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pkgutil import resolve_name
from typing import NoReturn

from tune.common.errors import first_line
from tune.doctor.finding import Check, Finding, Place

ENDS_WITHIN_S = 120.0  # a part that takes longer hangs; all together take 13 s of CPU
HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)


def run_parts(parts: Mapping[str, Sequence[Check]], place: Place, limit_s: float = ENDS_WITHIN_S) -> list[Finding]:
    """The findings of all parts, in their order. Parts that have not ended after `limit_s` seconds are killed.

    Call it before anything heavy is imported and before threads are started, as it forks.
    """
    leash = os.pipe()  # its end tells the parts that this process is gone
    running = [_Part(checks, place, leash) for checks in parts.values()]
    os.close(leash[0])
    try:
        _read(running, time.monotonic() + limit_s)
    finally:
        for each in running:
            each.end()
        os.close(leash[1])
    return [finding for each in running for finding in each.findings(limit_s)]


def _read(parts: Sequence[_Part], until_s: float) -> None:
    """Take what the parts write, up to their ends or `until_s`."""
    with selectors.DefaultSelector() as selector:
        for each in parts:
            selector.register(each.pipe, selectors.EVENT_READ, each)
        while selector.get_map() and (left_s := until_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                part: _Part = key.data
                if not part.take():
                    selector.unregister(part.pipe)


class _Part:
    """One part's process, and what it has said so far: a line of JSON for each check begun and each finding."""

    def __init__(self, checks: Sequence[Check], place: Place, leash: tuple[int, int]) -> None:
        self._checks = checks
        self._said = b""
        self._ended = False
        self._status: int | None = None
        self.pipe, ours = os.pipe()
        self._noise = os.memfd_create("doctor")  # its stdout and stderr; needs no folder that can be written
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(leash[1])
            _serve(checks, place, ours, self._noise, leash[0])
        os.close(ours)

    def take(self) -> bool:
        """Read what there is; False at its end."""
        piece = os.read(self.pipe, 1 << 16)
        self._said += piece
        self._ended = not piece
        return bool(piece)

    def end(self) -> None:
        """Kill it, with all that it has started, unless it has ended; and wait for it."""
        if self._status is None:
            if not self._ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
                    os.kill(self._pid, signal.SIGKILL)
            self._status = os.waitpid(self._pid, 0)[1]

    def findings(self, limit_s: float) -> list[Finding]:
        """What it found, with a line for the check in which it hung or died, and for those after it."""
        begun, found = -1, []
        for line in self._said.splitlines():
            with contextlib.suppress(ValueError):  # cut by its end
                said = json.loads(line)
                if isinstance(said, int):
                    begun = said
                else:
                    found.append(Finding(**said))
        os.close(self.pipe)
        if begun == len(self._checks):
            os.close(self._noise)
            return found
        return found + self._lost(max(begun, 0), limit_s)

    def _lost(self, begun: int, limit_s: float) -> list[Finding]:
        check, *rest = self._checks[begun:]
        happened = f"it did not end within {limit_s:g} s and was ended: see whether a disk or a network hangs"
        if self._ended:
            last = os.pread(self._noise, 1 << 16, max(0, os.fstat(self._noise).st_size - (1 << 16)))
            lines = last.decode(errors="replace").strip().splitlines()
            words = f": {first_line(lines[-1])}" if lines else ""
            happened = f"its process ended by {_cause(self._status or 0)}{words}"
        os.close(self._noise)
        after = f"not tried, as the check before it ({check.kind}) did not end"
        return [_failed(check, happened), *(_failed(each, after, works=None) for each in rest)]


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _failed(check: Check, happened: str, *, works: bool | None = False) -> Finding:
    return Finding(kind=check.kind, name="", works=works, found=happened, needed=check.needed, tried=check.tried)


def _serve(checks: Sequence[Check], place: Place, pipe: int, noise: int, leash: int) -> NoReturn:
    """In a part's process: run its checks. Never returns, as the caller's stack belongs to the parent."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)  # the parent's: what this process is sent is not for it
        for handled in HANDLED:
            signal.signal(handled, signal.SIG_DFL)
        for stream in (1, 2):
            os.dup2(noise, stream)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
        for number, check in enumerate(checks):
            _say(pipe, number)
            for finding in _findings(check, place):
                _say(pipe, asdict(finding))
        _say(pipe, len(checks))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _end_with_parent(leash: int) -> None:
    os.read(leash, 1)
    os.killpg(0, signal.SIGKILL)


def _findings(check: Check, place: Place) -> Iterator[Finding]:
    try:
        for finding in resolve_name(check.function)(place):
            yield finding if finding.tried else replace(finding, tried=check.tried)
    except Exception as error:
        yield _failed(check, f"{type(error).__name__}: {first_line(error)}")


def _say(pipe: int, content: object) -> None:
    os.write(pipe, json.dumps(content).encode() + b"\n")
