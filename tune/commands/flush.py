"""`flush`: send the records of a sweep that MLflow lacks, or all of them to another store. It may be repeated."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tune.commands.parser import SWEEP_HELP, Parser, given_tracking_uri
from tune.common.address import has_password, redacted, settled_uri
from tune.common.errors import DONE, INTERRUPTED, TRIAL_FAILED, WrongInput
from tune.common.program import COMMAND, PROGRAM
from tune.driver.finish import (
    Say,
    end_with_summary,
    flush_while_moving,
    flush_within,
    how_to_flush,
    move_to,
    open_tracker,
    what_was_refused,
)
from tune.storage import sweep_dir
from tune.storage.leftovers import clear_leftovers
from tune.storage.moved import own_store
from tune.storage.open_sweep import find_known
from tune.storage.sweep_dir import SweepDir
from tune.tracking.access import check_access
from tune.tracking.artifact_place import settle_artifacts
from tune.tracking.store import PROJECT, STORE_ANSWERS_WITHIN_S, check_store
from tune.tracking.tracker import Tracker

STALLED_S = 60.0  # flush gives up when MLflow takes no record for this long


def parser() -> Parser:
    text = "Send the records of a sweep that MLflow lacks: it did not answer, was slow, or could not store files."
    parser = Parser(prog=f"{PROGRAM} flush", description=text, allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID", help=SWEEP_HELP)
    text = "folder of the sweep's folder (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    text = "the sweep's MLflow store (default MLFLOW_TRACKING_URI, else the one it was started with)"
    parser.add_argument("--tracking-uri", metavar="URI", help=text)
    text = "send all records of the sweep to this other MLflow store, which is the sweep's own from then on"
    parser.add_argument("--to", metavar="URI", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Send the records of one sweep that MLflow lacks; once all its trials have ended, its summary too.

    Records that MLflow refused are tried again. Without a store from the command line or the environment, the sweep's
    own is taken. WrongInput for another one without --to, for a sweep that is not there or is running. Exit code
    INTERRUPTED where MLflow has not taken everything, TRIAL_FAILED where it refuses a record for good.
    """
    storage = arguments.storage_path
    folder = SweepDir(storage / find_known(storage, arguments.sweep_id, given=f"flush {arguments.sweep_id}"))
    uri = _store(folder, given_tracking_uri(arguments)) if arguments.to is None else _other_store(arguments)
    check_store(uri, timeout_s=STORE_ANSWERS_WITHIN_S)

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    check_access(uri, PROJECT, STORE_ANSWERS_WITHIN_S, say)
    settle_artifacts(uri, PROJECT, storage, say)
    with open_tracker(folder, uri, retry_refused=True) as tracker:
        pending = tracker.pending
        lacking = _send(folder, tracker, uri, say)
        for problem in tracker.problems:
            print(f"tracking: {problem}", file=sys.stderr)
        refused, blocked = tracker.refused, tracker.blocked
    if lacking:
        options = () if arguments.to is None else ("--to", redacted(uri))
        print(how_to_flush(folder.sweep_id, storage, uri, lacking, blocked, options), file=sys.stderr)
        return INTERRUPTED
    moved = arguments.to is not None and move_to(folder, uri)
    if moved:
        print(f"{redacted(uri)} is the store of {folder.sweep_id} from now on")
    if refused:
        print(what_was_refused(folder.sweep_id, storage, refused), file=sys.stderr)
        return TRIAL_FAILED
    print(f"MLflow has every record of {folder.sweep_id} ({pending} were sent now); {_next(folder)}")
    return DONE


def _send(folder: SweepDir, tracker: Tracker, uri: str, say: Say) -> int:
    """Send what MLflow lacks; returns how many records it still lacks."""
    lacking = flush_while_moving(tracker, STALLED_S, say)
    if tracker.unsent or folder.read()["state"] != sweep_dir.ENDED:
        return lacking
    if tracker.sweep_status in (None, "interrupted"):
        end_with_summary(folder, tracker, uri)
        lacking = flush_within(tracker, STALLED_S, say)
    if not lacking:
        folder.update(state=sweep_dir.FINISHED)
        clear_leftovers(folder)
    return lacking


def _next(folder: SweepDir) -> str:
    if folder.read()["state"] == sweep_dir.FINISHED:
        return f"its table: {COMMAND} report {folder.sweep_id}"
    return "not all of its trials have ended: the command that started it runs the others"


def _store(folder: SweepDir, given: str | None) -> str:
    """The store's address. WrongInput for any store but the sweep's own: another would get a second copy of it."""
    own = own_store(folder)
    if given is None:
        return own
    if (other := redacted(settled_uri(given))) != own:
        raise WrongInput(
            f"{folder.sweep_id} is recorded in {own}, and flush was given {redacted(given)} (--tracking-uri or "
            f"MLFLOW_TRACKING_URI): give its own, or neither of them; to move the sweep there, give --to {other}, or "
            f"go on with it there with --resume {folder.sweep_id} --tracking-uri {other}"
        )
    return given


def _other_store(arguments: argparse.Namespace) -> str:
    """The address that --to names, with the password that MLFLOW_TRACKING_URI has for it."""
    if arguments.tracking_uri is not None:
        raise WrongInput(
            f"--to {redacted(arguments.to)} and --tracking-uri: one store gets the records; give --to alone"
        )
    if has_password(arguments.to):
        raise WrongInput(
            f"--to {redacted(arguments.to)}: what was left out here would show in the process list; put the whole "
            "address into MLFLOW_TRACKING_URI, and give --to as it is shown here"
        )
    environment = os.environ.get("MLFLOW_TRACKING_URI") or ""
    return environment if redacted(environment) == arguments.to else arguments.to
