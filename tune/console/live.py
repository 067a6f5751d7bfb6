"""The live table of running trials on a terminal.

If stderr is no terminal, or one that cannot move its cursor (TERM=dumb), progress is plain lines.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.console.eta import duration
from tune.console.progress import Progress
from tune.storage.steps_file import Steps

REFRESHES_PER_S = 2.0
MOST_ROWS = 16  # for running trials; the others are counted below
COLUMNS = ("running", "seed", "epoch", "val MSE", "ms/step", "s/epoch", "ETA")


def make_progress(*, total: int, epochs: int, quiet: bool) -> Progress:
    """A live table if stderr is a terminal that can show it, else plain lines; nothing if `quiet`."""
    stream, console = sys.stderr, Console(file=sys.stderr, highlight=False)
    # isatty too: rich takes a stream for a terminal if FORCE_COLOR is set, as on build machines
    if quiet or not stream.isatty() or not console.is_terminal or console.is_dumb_terminal:
        return Progress(total=total, epochs=epochs, quiet=quiet, stream=stream)
    return LiveProgress(total=total, epochs=epochs, stream=stream, console=console)


@dataclass
class _Row:
    """A running trial."""

    label: str
    seed: int
    epochs: int
    epoch: int = 0  # done
    metrics: dict[str, Any] = field(default_factory=dict)  # of its last epoch
    within: Steps | None = None  # how far the next one is, if it takes long
    epochs_s: list[float] = field(default_factory=list)  # duration of each epoch, with validation

    def cells(self) -> list[str]:
        left_s = fmean(self.epochs_s) * (self.epochs - self.epoch) if self.epochs_s else None
        return [
            self.label,
            str(self.seed),
            f"{self.epoch}/{self.epochs}{self._within()}",
            self._number("loss/val_mse", ".4f"),
            self._number("speed/step_ms", ".2f"),
            self._number("time/train_s", ".2f"),
            "-" if left_s is None else duration(left_s),
        ]

    def _within(self) -> str:
        return "" if self.within is None else f" +{100 * self.within.done // self.within.steps} %"

    def _number(self, name: str, form: str) -> str:
        value = self.metrics.get(name)
        return "-" if value is None else format(value, form)


@dataclass
class LiveProgress(Progress):
    """Use as a context manager: inside, the table is shown, and writes to sys.stderr scroll by above it."""

    console: Console = field(kw_only=True)
    _rows: dict[str, _Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._live = Live(
            console=self.console,
            get_renderable=self.table,
            refresh_per_second=REFRESHES_PER_S,
            redirect_stdout=False,  # which belongs to the results
            transient=True,
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self.total:  # else nothing was going to run
            self.say(self.counts())

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def started(self, trial_id: str, *, seed: int, epochs: int) -> None:
        self._began(trial_id)
        label = trial_id.removesuffix(f"-s{seed}")
        self._rows.setdefault(trial_id, _Row(label=label, seed=seed, epochs=epochs))

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        self._count_epoch(trial_id, epoch, metrics)
        if row := self._rows.get(trial_id):
            row.epoch, row.metrics, row.within = epoch, metrics, None
            row.epochs_s.append(metrics["time/epoch_s"])

    def within_epoch(self, trial_id: str, steps: Steps) -> None:
        if row := self._rows.get(trial_id):
            row.within = steps

    def ended(self, trial_id: str, status: str, reason: str | None, *, compiled_s: float = 0.0) -> None:
        self._rows.pop(trial_id, None)
        super().ended(trial_id, status, reason, compiled_s=compiled_s)

    def table(self) -> Group:
        """The running trials, counts, and a bar with the time left. A thread of rich calls this."""
        rows = list(self._rows.values())
        table = Table(box=None, pad_edge=False)
        for index, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if index else "left", no_wrap=True, overflow="ellipsis")
        for row in rows[:MOST_ROWS]:
            table.add_row(*map(Text, row.cells()))
        more = [Text(f"and {len(rows) - MOST_ROWS} more")] if len(rows) > MOST_ROWS else []
        bar = ProgressBar(total=max(1, self.total), completed=self._share() * self.total)
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_row(bar, Text(f"{100 * self._share():.0f} %  ETA {self.eta()}"))
        return Group(*([table] if rows else []), *more, Text(self.counts()), line)

    def _share(self) -> float:
        """How much of the trials is done, by their epochs: 0 to 1."""
        begun = sum(row.epoch / row.epochs for row in list(self._rows.values()) if row.epochs)
        return min(1.0, (len(self._ended) + begun) / self.total) if self.total else 0.0
