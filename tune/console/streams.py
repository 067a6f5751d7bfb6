"""stdout and stderr that break while a command runs: the reader quits, the disk is full, the descriptor is closed.

A broken stderr stops nothing: progress is dropped. A broken stdout ends the command: silently if the reader has quit
(`... | head -1`), with one line if results cannot be stored.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO, cast

from tune.common.errors import WrongInput


class OutputClosed(Exception):
    """The reader of stdout has quit."""


class _Guarded:
    """A text stream that calls `lost` when a write fails. Later writes are dropped."""

    def __init__(self, inner: TextIO, lost: Callable[[OSError], None]) -> None:
        self._inner, self._lost = inner, lost

    def write(self, text: str) -> int:
        with self._watched():
            self._inner.write(text)
        return len(text)

    def flush(self) -> None:
        with self._watched():
            self._inner.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _send_nowhere(self._inner)
            self._lost(error)


def _send_nowhere(stream: TextIO) -> None:
    """Python flushes its streams at exit, which would fail again and change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def lasting_stderr() -> Iterator[None]:
    """Inside, writes to a stderr that is closed or full are dropped."""
    with _or_nowhere(sys.stderr) as inner:
        guarded = _Guarded(inner, lambda error: None)
        with contextlib.redirect_stderr(cast(TextIO, guarded)):
            yield


@contextlib.contextmanager
def watched_stdout() -> Iterator[None]:
    """Inside, a failing write to stdout raises OutputClosed if its reader has quit, else WrongInput.

    stdout is flushed at the end. A stdout that was closed from the start is the user's wish: writes are dropped.
    """
    with _or_nowhere(sys.stdout) as inner:
        guarded = _Guarded(inner, _refuse)
        with contextlib.redirect_stdout(cast(TextIO, guarded)):
            try:
                yield
            except SystemExit:  # --help
                guarded.flush()
                raise
            guarded.flush()


def _refuse(error: OSError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        raise OutputClosed
    raise WrongInput(f"stdout cannot be written: {error.strerror}; make room, or send it elsewhere") from None


@contextlib.contextmanager
def _or_nowhere(stream: TextIO | None) -> Iterator[TextIO]:
    if stream is not None:
        yield stream
        return
    with open(os.devnull, "w") as nowhere:
        yield nowhere
