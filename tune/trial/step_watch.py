"""Tells how far an epoch is, while it takes long: a thread looks now and then, and the training loop does nothing.

Nothing is synchronised: the thread asks the device which of the events that are recorded anyway it has passed. The
host's own number would not do: with a captured step it launches whole epochs ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tune.storage import steps_file
from tune.storage.steps_file import Steps

PERIOD_S = 5.0  # an epoch that takes no longer is not told of


class StepWatch:
    """One trial's thread. It starts with the first epoch and sleeps between its looks; `close` ends it.

    file: where it writes; None: nobody reads, and there is no thread.
    """

    def __init__(self, file: Path | None, period_s: float = PERIOD_S) -> None:
        self._file, self._period_s = file, period_s
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._running: tuple[int, int, Callable[[], int]] | None = None  # epoch, its steps, how many are finished

    @contextmanager
    def epoch(self, number: int, steps: int, finished: Callable[[], int]) -> Iterator[None]:
        """Around an epoch of so many steps. finished: how many the device has finished, from any thread."""
        if self._file is not None and self._thread is None:
            self._thread = threading.Thread(target=self._watch, args=(self._file,), daemon=True)
            self._thread.start()
        self._running = number, steps, finished
        try:
            yield
        finally:
            self._running = None

    def close(self) -> None:
        """End the thread and remove the file."""
        self._closing.set()
        if self._thread is not None and self._file is not None:
            self._thread.join()
            steps_file.remove(self._file)

    def _watch(self, file: Path) -> None:
        seen = None
        while not self._closing.wait(self._period_s):
            running = self._running
            if running is not None and running is seen:  # the same epoch as at the last look
                number, steps, finished = running
                steps_file.write(file, Steps(epoch=number, done=finished(), steps=steps))
            seen = running
