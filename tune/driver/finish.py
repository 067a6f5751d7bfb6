"""The end of a sweep: MLflow gets the records that it lacks, and the summary; what it does not take waits on disk."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tune.common import signals
from tune.common.address import redacted, settled_uri
from tune.common.errors import WrongInput
from tune.common.statuses import NO_FAILURE
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.render.picture import check_can_draw
from tune.report.values import parent_metrics, parent_tags
from tune.storage import sweep_dir
from tune.storage.leftovers import clear_leftovers
from tune.storage.moved import EARLIER_STORES, own_store
from tune.storage.outbox import beside
from tune.storage.sweep_dir import SweepDir
from tune.storage.waiting import flush_command
from tune.tracking.artifact_probe import artifact_root
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT
from tune.tracking.tracker import Tracker

PAGE = "report.html"  # the report as one page
SHORT_WAIT_S = 2.0  # a wait for MLflow that is shorter than this gets no line
LONGEST_WAIT_S = 60.0  # for MLflow, at the end of a sweep
STOPPED_WAIT_S = 4.0  # for MLflow, after a signal: who sent it may soon send SIGKILL
Say = Callable[[str], None]


def open_tracker(folder: SweepDir, tracking_uri: str, *, retry_refused: bool = False) -> Tracker:
    """The tracker of a sweep's folder; SQLite's artifacts lie beside the sweeps. WrongInput if it is in use.

    retry_refused: whether records that MLflow refused are tried again. The address may be another than the sweep's
    own: then that store gets all records, and what is no longer on disk is copied from the sweep's own store.
    """
    try:
        return Tracker(
            outbox_path=folder.outbox,
            tracking_uri=tracking_uri,
            experiment=PROJECT,
            artifact_root=artifact_root(folder.path.parent, tracking_uri),
            earlier_stores=[own_store(folder), *folder.read().get(EARLIER_STORES, [])],
            retry_refused=retry_refused,
            make=functools.partial(_make, folder.sweep_id, tracking_uri),
        )
    except ValueError as error:
        raise WrongInput(f"{folder.sweep_id} cannot be opened, it may be running elsewhere: {error}") from None


def _make(sweep_id: str, tracking_uri: str, name: str) -> str:
    """The text of a file of the sweep's run, from the numbers in MLflow."""
    assert name == PAGE, name
    return html_page(read_sweep(tracking_uri, PROJECT, sweep_id))


def close_sweep(folder: SweepDir, tracker: Tracker, tracking_uri: str, *, interrupted: bool, say: Say) -> int:
    """End the sweep; waits for MLflow at most LONGEST_WAIT_S seconds, and once more for the summary.

    interrupted: whether trials are left. Returns how many records MLflow lacks; at 0 the sweep is finished. Where only
    files are lacking, the summary is made: all numbers are there.
    """
    limit_s = LONGEST_WAIT_S if signals.received() is None else STOPPED_WAIT_S
    flush_within(tracker, limit_s, say)
    if tracker.unsent:
        tracker.end_sweep(status="interrupted", metrics={}, files={})
        lacking = tracker.pending if signals.received() is None else flush_within(tracker, limit_s, say)
    elif interrupted:
        tracker.end_sweep(status="interrupted", metrics={}, files={})
        lacking = flush_within(tracker, limit_s, say)
    else:
        end_with_summary(folder, tracker, tracking_uri)
        lacking = flush_within(tracker, limit_s, say)
    if not interrupted:
        folder.update(state=sweep_dir.ENDED if lacking else sweep_dir.FINISHED)
        if not lacking:
            clear_leftovers(folder)
    return lacking


def flush_within(tracker: Tracker, limit_s: float, say: Say) -> int:
    """Wait for MLflow, with a line if that takes longer than a moment; returns how many records it lacks."""
    if not (lacking := tracker.flush(SHORT_WAIT_S)) or tracker.blocked:
        return lacking
    why = f" ({tracker.outage})" if tracker.outage else ""
    say(f"MLflow lacks {lacking} records{why}: waiting up to {limit_s:g} s for it to take them")
    return tracker.flush(limit_s - SHORT_WAIT_S)


def flush_while_moving(tracker: Tracker, limit_s: float, say: Say, *, say_every_s: float = 10.0) -> int:
    """Wait until MLflow has every record, or has taken none for `limit_s` seconds; returns how many it lacks.

    Ends too if only files are lacking that cannot be stored before somebody mends the cause.
    """
    least = tracker.pending
    until = time.monotonic() + limit_s
    while (lacking := tracker.flush(min(say_every_s, max(0.0, until - time.monotonic())))) > 0:
        if lacking < least:
            least, until = lacking, time.monotonic() + limit_s
        if tracker.blocked or time.monotonic() >= until:
            break
        say(f"MLflow lacks {lacking} records")
    return lacking


def end_with_summary(folder: SweepDir, tracker: Tracker, tracking_uri: str) -> None:
    """End the sweep with the arms' summary on the parent run, made from the numbers in MLflow."""
    record = read_sweep(tracking_uri, PROJECT, folder.sweep_id)
    files: dict[str, str | None] = {"report.md": markdown(record)}
    try:
        check_can_draw()
        files[PAGE] = None  # made where it is stored
    except WrongInput as error:  # the sweep ends without a page
        print(f"{folder.sweep_id} has no report.html: {error}", file=sys.stderr)
    status, metrics = "failed" if failures(tracker) else "done", parent_metrics(record)
    tracker.end_sweep(status=status, metrics=metrics, files=files, tags=parent_tags(record))


def failures(tracker: Tracker) -> tuple[str, ...]:
    """Trials that failed, without those whose failure is the result."""
    logs = tracker.trials
    bad = (trial_id for trial_id, status in tracker.ended.items() if status not in NO_FAILURE)
    return tuple(trial_id for trial_id in bad if logs[trial_id].tags.get("expected_failure") != "true")


def how_to_flush(
    sweep_id: str,
    storage_path: Path,
    tracking_uri: str,
    lacking: int,
    cause: str | None = None,
    options: Sequence[str] = (),
) -> str:
    """The place of the records that MLflow lacks, why it lacks them, and the command that sends them.

    cause: what somebody has to mend; None where the store has to answer again. options: of the command.
    """
    secret = redacted(tracking_uri) != tracking_uri
    same_store = f"; with --tracking-uri or MLFLOW_TRACKING_URI as now, {redacted(tracking_uri)} and its password"
    once = "Once it answers" if cause is None else f"Once this is mended ({cause})"
    return (
        f"MLflow lacks {lacking} records of {sweep_id}, which wait in {storage_path / sweep_id}; nothing is lost. "
        f"{once}, send them (as often as you like): {flush_command(sweep_id, storage_path, *options)}"
        f"{same_store if secret else ''}"
    )


def move_to(folder: SweepDir, tracking_uri: str) -> bool:
    """Make this the sweep's store, once it has every record or will get them; False if it is already."""
    content, new = folder.read(), redacted(settled_uri(tracking_uri))
    if (own := content["tracking_uri"]) == new:
        return False
    earlier = [uri for uri in (own, *content.get(EARLIER_STORES, [])) if uri != new]
    folder.update(**{"tracking_uri": new, EARLIER_STORES: earlier})
    return True


def what_was_refused(sweep_id: str, storage_path: Path, refused: int) -> str:
    """How many records MLflow refused for good, and where they are."""
    return (
        f"MLflow refused {refused} records of {sweep_id} for what is in them; it has all others. "
        f"{beside(storage_path / sweep_id / 'outbox.jsonl', 'rejected')} keeps them, with the reason of each; "
        f"another try: {flush_command(sweep_id, storage_path)}"
    )
