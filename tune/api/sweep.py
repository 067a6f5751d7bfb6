"""`load`: a sweep that ran, as pandas frames."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from tune.api.errors import wrong_input
from tune.api.frames import epochs_frame, pairs_frame, trials_frame, verdicts_frame
from tune.commands.parser import store_address
from tune.common.process_setup import keep_libraries_quiet
from tune.stats.pairs import MARGIN, margin_of
from tune.tracking.store import PROJECT

if TYPE_CHECKING:
    from tune.tracking.reader import SweepRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """A sweep's results, as MLflow had them when it was loaded. `print(sweep)` shows the report."""

    sweep_id: str
    name: str
    """The sweep's name, such as `pruning`."""
    status: str
    """running, done, failed or interrupted."""
    question: str | None
    answer: str | None
    """The report's answer in a line; None where no arm was compared."""
    device: str | None
    test_set: str
    """`read`, or `not read` for a sweep with --no-test, whose trials have no test errors."""
    tracking_uri: str
    trials: pd.DataFrame
    """One row a trial: who it is, the fields of its configuration, its `final/` metrics."""
    epochs: pd.DataFrame
    """One row an epoch of a trial: errors, times in seconds, memory in GiB, by the names that MLflow shows."""
    pairs: pd.DataFrame
    """One row for each seed that an arm shares with the baseline: times, ratio, errors."""
    verdicts: pd.DataFrame
    """One row an arm: means, ratio and error with their bounds, the two verdicts."""
    margin: float
    """How much larger an error may be, relative to the baseline's, and count as not worse."""
    record: Any = field(repr=False)

    def report(self, *, verbose: bool = False) -> str:
        """The report as the command prints it, 120 columns wide. `verbose`: with all columns and notes."""
        from tune.report.render.terminal import print_report

        text = io.StringIO()
        print_report(self.record, text, margin=self.margin, verbose=verbose)
        return text.getvalue()

    def json(self) -> dict[str, Any]:
        """What `--json` writes."""
        from tune.report.values import as_json

        return as_json(self.record, margin=self.margin)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        return f"<Sweep {self.sweep_id}: {self.status}, {len(self.trials)} trials>"


def load(sweep: str, *, tracking_uri: str | None = None, margin_pct: float = 100 * MARGIN) -> Sweep:
    """Read a sweep's results from MLflow.

    Args:
        sweep: its id or the beginning of one, its name for the newest of that name, or `last`.
        tracking_uri: the MLflow store. None: MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.
        margin_pct: a validation error larger by at most this counts as not worse.

    Raises:
        WrongInput: there is no such sweep or store, the store does not answer, or the margin is not in 0 to 100.
    """
    keep_libraries_quiet()
    from tune.tracking.reader import read_sweep

    uri = store_address(tracking_uri)
    with wrong_input():
        margin = margin_of(margin_pct)
        record = read_sweep(uri, PROJECT, sweep)
    return as_sweep(record, uri, margin)


def as_sweep(record: SweepRecord, tracking_uri: str, margin: float = MARGIN) -> Sweep:
    """The frames of a record."""
    from tune.report.answer import answer_line
    from tune.report.arms import arm_rows
    from tune.report.setting import whether_tested

    return Sweep(
        sweep_id=record.sweep_id,
        name=record.tags.get("sweep", record.name),
        status=record.status,
        question=record.tags.get("question"),
        answer=answer_line(record, arm_rows(record, margin=margin)),
        device=record.tags.get("device"),
        test_set=whether_tested(record),
        tracking_uri=tracking_uri,
        trials=trials_frame(record),
        epochs=epochs_frame(record),
        pairs=pairs_frame(record),
        verdicts=verdicts_frame(record, margin=margin),
        margin=margin,
        record=record,
    )
