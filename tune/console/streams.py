"""stdout and stderr that may go away while a command runs: a reader that quits, a full disk, a closed descriptor.

Lost progress stops nothing: what goes to a stderr that is gone is dropped. Lost results end the command: quietly where
the reader has quit (`... | head -1`), with one line where they cannot be stored.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO, cast

from tune.common.errors import WrongInput


class OutputClosed(Exception):
    """Nobody reads stdout any more."""


class _Guarded:
    """A text stream that calls `lost` once it cannot be written; what is written later goes nowhere."""

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
    """Python flushes its streams once more as it exits, which would fail again and change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def lasting_stderr() -> Iterator[None]:
    """Inside, what goes to a stderr that is closed or full is dropped."""
    with _or_nowhere(sys.stderr) as inner:
        guarded = _Guarded(inner, lambda error: None)
        with contextlib.redirect_stderr(cast(TextIO, guarded)):
            yield


@contextlib.contextmanager
def watched_stdout() -> Iterator[None]:
    """Inside, a stdout that is lost raises OutputClosed where its reader has quit, else WrongInput.

    All of it has been written at the end. A stdout that was closed from the start is what the user wants: it goes
    nowhere.
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
