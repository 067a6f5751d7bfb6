"""`gc`: what earlier sweeps have left on this machine and nobody needs any more; shown first, removed with --yes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tune.cluster.old_sessions import dead_sessions
from tune.commands.parser import Parser
from tune.common.errors import DONE, WrongInput
from tune.common.program import PROGRAM
from tune.common.temporary import own_folder
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.storage import open_sweep
from tune.storage.check_folder import cache_place
from tune.storage.leftovers import leftovers, remove, size_bytes, stale_drafts
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import FINISHED, SweepDir

MIB = 2**20
COMPILERS = ("torch", "triton")  # whose versions decide whether compiled code can be used again


def parser() -> Parser:
    text = "Show what earlier sweeps have left and nobody needs any more, and how large it is: checkpoints of finished "
    text += "sweeps, Ray sessions of ended processes, code compiled by other versions, unfinished files. Results and "
    text += "models stay, and so does what an unfinished or running sweep needs."
    parser = Parser(prog=f"{PROGRAM} gc", description=text, allow_abbrev=False)
    text = "folder of the sweeps (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only show it (the default)")
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument("--json", metavar="FILE", help="also write the list as JSON; - for stdout")
    return parser


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that can be removed."""

    what: str
    of: str  # the sweep or folder that it belongs to
    paths: list[Path]
    sweep: SweepDir | None = None  # whose lock is held while it is removed

    @property
    def size_bytes(self) -> int:
        return sum(map(size_bytes, self.paths))


def run(arguments: argparse.Namespace) -> int:
    """Print the list; with --yes remove what is on it. WrongInput if there is no such storage folder."""
    if arguments.yes and arguments.dry_run:
        raise WrongInput("--yes and --dry-run: one removes, the other only shows; give one")
    check_json_target(arguments.json)
    storage = arguments.storage_path
    if not storage.is_dir():
        raise WrongInput(f"--storage-path {storage}: there is no such folder; give the one of your sweeps")
    items = [(item, item.size_bytes) for item in _items(storage)]
    text = sys.stderr if arguments.json == "-" else sys.stdout
    rows = [{"MiB": f"{size / MIB:.1f}", "what": item.what, "of": item.of} for item, size in items]
    for line in table(["MiB", "what", "of"], rows) if rows else ():
        print(line, file=text)
    freed = sum(_clear(item, size) for item, size in items) if arguments.yes else 0
    print(_conclusion(sum(size for _, size in items), freed if arguments.yes else None), file=text)
    content = [
        {"what": item.what, "of": item.of, "bytes": size, "paths": list(map(str, item.paths))} for item, size in items
    ]
    write_json(arguments.json, {"removed": arguments.yes, "freed_bytes": freed, "items": content})
    return DONE


def _conclusion(total: int, freed: int | None) -> str:
    if total == 0:
        return "nothing to remove"
    if freed is None:
        return f"{total / MIB:.1f} MiB can be removed: the same command with --yes does it"
    left = f"; {(total - freed) / MIB:.1f} MiB could not be removed or are in use now" if freed < total else ""
    return f"{freed / MIB:.1f} MiB removed{left}"


def _clear(item: Item, size: int) -> int:
    """Remove an item; returns how many bytes that freed. Nothing of a sweep that runs by now."""
    if item.sweep is None:
        for path in item.paths:
            remove(path)
        return size - item.size_bytes
    try:
        outbox = Outbox(item.sweep.outbox)
    except ValueError:  # in use
        return 0
    try:
        for path in set(item.paths) & set(leftovers(item.sweep)):
            remove(path)
    finally:
        outbox.close()
    return size - item.size_bytes


def _items(storage: Path) -> Iterator[Item]:
    running = {sweep.path for sweep in open_sweep.running(storage)}
    for sweep in open_sweep.every(storage):
        if sweep.path not in running and (paths := leftovers(sweep)):
            finished = sweep.read()["state"] == FINISHED
            what = "checkpoints of a finished sweep" if finished else "older checkpoints of an unfinished sweep"
            yield Item(what=what, of=sweep.sweep_id, paths=paths, sweep=sweep)
    if not running:  # a running sweep may be one of another version
        for folder, why in _compiled(cache_place(storage) / "compile"):
            yield Item(what=f"compiled code of {why}", of=str(folder), paths=[folder])
        if drafts := list(stale_drafts(storage)):
            yield Item(what="unfinished files of killed processes", of=str(storage), paths=drafts)
    if (sessions := _sessions()) and (dead := dead_sessions(sessions, kept=True)):
        yield Item(what=f"{len(dead)} Ray sessions of ended processes", of=str(sessions), paths=dead)


def _sessions() -> Path | None:
    """The folder of our Ray sessions; None if it is not ours, as nothing in it is then."""
    with suppress(WrongInput):
        return own_folder() / "s"
    return None


def _compiled(folder: Path) -> Iterator[tuple[Path, str]]:
    """Folders of compiled code that the installed versions cannot use, and the version that can."""
    now = {package: _version(package) for package in COMPILERS}
    for about in sorted(folder.glob("*/about.json")):
        try:
            versions = json.loads(about.read_text())["versions"]
            theirs = {package: versions[package].split("+")[0] for package in COMPILERS if versions.get(package)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        others = [f"{package} {version}" for package, version in theirs.items() if version != now[package]]
        if others:
            yield about.parent, " and ".join(others)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return None
