"""The end of a sweep: MLflow gets the records that it lacks, and the summary; what it does not take waits on disk."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tune.common.address import redacted
from tune.common.errors import WrongInput
from tune.common.statuses import NO_FAILURE
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.values import parent_metrics
from tune.storage import sweep_dir
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT
from tune.tracking.tracker import Tracker

SHORT_WAIT_S = 2.0  # a wait for MLflow that is shorter than this gets no line
LONGEST_WAIT_S = 60.0  # for MLflow, at the end of a sweep
Say = Callable[[str], None]


def open_tracker(folder: SweepDir, tracking_uri: str) -> Tracker:
    """The tracker of a sweep's folder; SQLite's artifacts lie beside the sweeps. WrongInput if it is in use."""
    local = tracking_uri.startswith("sqlite")
    root = (folder.path.parent.absolute() / "mlartifacts").as_uri() if local else None
    try:
        return Tracker(outbox_path=folder.outbox, tracking_uri=tracking_uri, experiment=PROJECT, artifact_root=root)
    except ValueError as error:
        raise WrongInput(f"{folder.sweep_id} cannot be opened, it may be running elsewhere: {error}") from None


def close_sweep(folder: SweepDir, tracker: Tracker, tracking_uri: str, *, interrupted: bool, say: Say) -> int:
    """End the sweep; waits for MLflow at most LONGEST_WAIT_S seconds, and once more for the summary.

    interrupted: whether trials are left. Returns how many records MLflow lacks; at 0 the sweep is finished.
    """
    if lacking := flush_within(tracker, LONGEST_WAIT_S, say):
        tracker.end_sweep(status="interrupted", metrics={}, files={})
        lacking += 1
    elif interrupted:
        tracker.end_sweep(status="interrupted", metrics={}, files={})
        lacking = flush_within(tracker, LONGEST_WAIT_S, say)
    else:
        end_with_summary(folder, tracker, tracking_uri)
        lacking = flush_within(tracker, LONGEST_WAIT_S, say)
    if not interrupted:
        folder.update(state=sweep_dir.ENDED if lacking else sweep_dir.FINISHED)
    return lacking


def flush_within(tracker: Tracker, limit_s: float, say: Say) -> int:
    """Wait for MLflow, with a line if that takes longer than a moment; returns how many records it lacks."""
    if not (lacking := tracker.flush(SHORT_WAIT_S)):
        return 0
    why = f" ({tracker.outage})" if tracker.outage else ""
    say(f"MLflow lacks {lacking} records{why}: waiting up to {limit_s:g} s for it to take them")
    return tracker.flush(limit_s - SHORT_WAIT_S)


def flush_while_moving(tracker: Tracker, limit_s: float, say: Say, *, say_every_s: float = 10.0) -> int:
    """Wait until MLflow has every record, or has taken none for `limit_s` seconds; returns how many it lacks."""
    least = tracker.pending
    until = time.monotonic() + limit_s
    while (lacking := tracker.flush(min(say_every_s, max(0.0, until - time.monotonic())))) > 0:
        if lacking < least:
            least, until = lacking, time.monotonic() + limit_s
        if time.monotonic() >= until:
            break
        say(f"MLflow lacks {lacking} records")
    return lacking


def end_with_summary(folder: SweepDir, tracker: Tracker, tracking_uri: str) -> None:
    """End the sweep with the arms' summary on the parent run, made from the numbers in MLflow."""
    record = read_sweep(tracking_uri, PROJECT, folder.sweep_id)
    files = {"report.md": markdown(record)}
    try:
        files["report.html"] = html_page(record)
    except WrongInput as error:  # the sweep ends without a page
        print(f"{folder.sweep_id} has no report.html: {error}", file=sys.stderr)
    tracker.end_sweep(status="failed" if failures(tracker) else "done", metrics=parent_metrics(record), files=files)


def failures(tracker: Tracker) -> tuple[str, ...]:
    """Trials that failed, without those whose failure is the result."""
    logs = tracker.trials
    bad = (trial_id for trial_id, status in tracker.ended.items() if status not in NO_FAILURE)
    return tuple(trial_id for trial_id in bad if logs[trial_id].tags.get("expected_failure") != "true")


def how_to_flush(sweep_id: str, storage_path: Path, tracking_uri: str, lacking: int) -> str:
    """The place of the records that MLflow lacks, and the command that sends them."""
    command = ["python", "experiments.py", "flush", sweep_id]
    if storage_path.absolute() != Path("runs").absolute():
        command += ["--storage-path", str(storage_path)]
    secret = redacted(tracking_uri) != tracking_uri
    same_store = f"; with --tracking-uri or MLFLOW_TRACKING_URI as now, {redacted(tracking_uri)} and its password"
    return (
        f"MLflow lacks {lacking} records of {sweep_id}, which wait in {storage_path / sweep_id}; nothing is lost. Once "
        f"it answers, send them (as often as you like): {shlex.join(command)}{same_store if secret else ''}"
    )
