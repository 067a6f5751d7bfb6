"""`flush`: send the records of a sweep that MLflow lacks. It runs no trial and may be repeated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tune.commands.parser import Parser, given_tracking_uri
from tune.common.address import redacted, settled_uri
from tune.common.errors import DONE, INTERRUPTED, WrongInput
from tune.driver.finish import end_with_summary, flush_while_moving, flush_within, how_to_flush, open_tracker
from tune.storage import sweep_dir
from tune.storage.open_sweep import check_known
from tune.storage.sweep_dir import SweepDir
from tune.tracking.access import check_access
from tune.tracking.store import PROJECT, STORE_ANSWERS_WITHIN_S, check_store

STALLED_S = 60.0  # flush gives up when MLflow takes no record for this long


def parser() -> Parser:
    text = "Send the records of a sweep that MLflow lacks, because it did not answer or was slow. May be repeated."
    parser = Parser(prog="experiments.py flush", description=text, allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID")
    text = "folder of the sweep's folder (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    text = "the sweep's MLflow store (default MLFLOW_TRACKING_URI, else the one it was started with)"
    parser.add_argument("--tracking-uri", metavar="URI", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Send the records of one sweep that MLflow lacks; once all its trials have ended, its summary too.

    Without a store from the command line or the environment, the sweep's own is taken. WrongInput for another one, for
    a sweep that is not there or is running. Exit code INTERRUPTED where MLflow has not taken everything.
    """
    storage = arguments.storage_path
    check_known(storage, arguments.sweep_id, given=f"flush {arguments.sweep_id}")
    folder = SweepDir(storage / arguments.sweep_id)
    uri = _store(folder, given_tracking_uri(arguments))
    check_store(uri, timeout_s=STORE_ANSWERS_WITHIN_S)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    check_access(uri, PROJECT, STORE_ANSWERS_WITHIN_S, say)
    with open_tracker(folder, uri) as tracker:
        pending = tracker.pending
        lacking = flush_while_moving(tracker, STALLED_S, say)
        if not lacking and folder.read()["state"] == sweep_dir.ENDED:
            if tracker.sweep_status in (None, "interrupted"):
                end_with_summary(folder, tracker, uri)
                lacking = flush_within(tracker, STALLED_S, say)
            if not lacking:
                folder.update(state=sweep_dir.FINISHED)
        for problem in tracker.problems:
            print(f"tracking: {problem}", file=sys.stderr)
    if lacking:
        print(how_to_flush(folder.sweep_id, storage, uri, lacking), file=sys.stderr)
        return INTERRUPTED
    print(f"MLflow has every record of {folder.sweep_id} ({pending} were sent now); {_next(folder)}")
    return DONE


def _next(folder: SweepDir) -> str:
    if folder.read()["state"] == sweep_dir.FINISHED:
        return f"its table: python experiments.py report {folder.sweep_id}"
    return "not all of its trials have ended: the command that started it runs the others"


def _store(folder: SweepDir, given: str | None) -> str:
    """The store's address. WrongInput for any store but the sweep's own: another would get a second copy of it."""
    own = str(folder.read()["tracking_uri"])
    if given is None:
        return own
    if redacted(settled_uri(given)) != own:
        raise WrongInput(
            f"{folder.sweep_id} is recorded in {own}, and flush was given {redacted(given)} (--tracking-uri or "
            f"MLFLOW_TRACKING_URI): give its own, or neither of them"
        )
    return given
