"""`delete`: remove a sweep: its folder with checkpoints and models, its MLflow runs and their files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tune.commands.parser import SWEEP_HELP, Parser, given_tracking_uri
from tune.common.address import is_server, redacted, settled_uri, sqlite_file
from tune.common.errors import DONE, WrongInput
from tune.common.program import PROGRAM
from tune.common.words import counted
from tune.storage.deletion import MARK, begin, find_deletable, finish
from tune.storage.leftovers import remove, size_bytes
from tune.storage.moved import EARLIER_STORES, own_store
from tune.storage.sweep_dir import SweepDir
from tune.tracking.artifact_place import settle_artifacts
from tune.tracking.deletion import SweepRun, delete_runs, runs_of
from tune.tracking.store import PROJECT

MIB = 2**20


def parser() -> Parser:
    text = "Remove a sweep: its folder, its runs in MLflow and their files. Shows what goes and asks before."
    parser = Parser(prog=f"{PROGRAM} delete", description=text, allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID", help=SWEEP_HELP)
    text = "folder of the sweep's folder (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    text = "the sweep's MLflow store (default MLFLOW_TRACKING_URI, else the one it was started with)"
    parser.add_argument("--tracking-uri", metavar="URI", help=text)
    parser.add_argument("--yes", action="store_true", help="remove it without asking")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Show what goes, ask, remove it. The same command goes on where it was interrupted.

    WrongInput for a sweep that is not there or is running, and where nobody can be asked. TrackingError for a store
    that does not answer: nothing is removed then.
    """
    storage: Path = arguments.storage_path
    sweep = find_deletable(storage, arguments.sweep_id)
    content = _content(sweep)
    store = given_tracking_uri(arguments) or _recorded_store(sweep)
    runs = [] if store is None else _runs(sweep, store)
    for line in _shown(sweep, content, store, runs):
        print(line)
    if not arguments.yes and not _agreed():
        print("nothing is removed")
        return DONE
    outbox = begin(sweep)
    if store is not None and runs:
        delete_runs(store, runs)
        for each in runs:
            if each.files is not None:
                remove(each.files)
    finish(sweep, outbox)
    print(f"{sweep.sweep_id} is removed")
    return DONE


def _content(sweep: SweepDir) -> dict[str, Any]:
    """What sweep.json held; nothing where an earlier version or a person cut it."""
    file = sweep.path / MARK if (sweep.path / MARK).exists() else sweep.path / "sweep.json"
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recorded_store(sweep: SweepDir) -> str | None:
    """The sweep's own store; None if it recorded none, or a SQLite file that is no longer there."""
    content = _content(sweep)
    if "tracking_uri" not in content:
        return None
    uri = own_store(sweep, content)
    missing = not is_server(uri) and uri.startswith("sqlite") and not sqlite_file(settled_uri(uri)).exists()
    return None if missing else uri


def _runs(sweep: SweepDir, store: str) -> list[SweepRun]:
    storage = sweep.path.parent
    settle_artifacts(store, PROJECT, storage, lambda line: print(line, file=sys.stderr))
    return runs_of(store, PROJECT, sweep.sweep_id, storage)


def _shown(sweep: SweepDir, content: dict[str, Any], store: str | None, runs: list[SweepRun]) -> list[str]:
    """What is going to be removed, and what stays."""
    state = f", {content['state']}" if "state" in content else ""
    begun = "; its removal was interrupted" if (sweep.path / MARK).exists() else ""
    lines = [
        f"{sweep.sweep_id}{state}{begun}",
        f"  {sweep.path}: checkpoints, models, records, {size_bytes(sweep.path) / MIB:.1f} MiB",
    ]
    if store is None:
        lines.append("  no MLflow store of it is there")
    else:
        files = [run.files for run in runs if run.files is not None and run.files.exists()]
        size = f", and {sum(map(size_bytes, files)) / MIB:.1f} MiB of their files" if files else ""
        lines.append(f"  MLflow {redacted(store)}: {counted(sum(run.active for run in runs), 'run')}{size}")
        if any(run.files is None for run in runs):
            lines.append("  the files of its runs lie elsewhere and stay: `mlflow gc` at the store removes them")
    if earlier := content.get(EARLIER_STORES):
        lines.append(f"  its records in earlier stores stay: {earlier}")
    return lines


def _agreed() -> bool:
    """The answer of a person. WrongInput where there is none to ask."""
    if not sys.stdin.isatty():
        raise WrongInput("nobody can be asked here, as stdin is no terminal: give --yes to remove it")
    print("Remove all of this? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
