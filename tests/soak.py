"""Fault tests over and over, each run with another seed and so with other moments: python tests/soak.py --runs 20

Stops at the first failure and says how to repeat it. At the end, or later with --table, it adds up what was injected
and what was lost from the runs' own notes (tests/kits/fault_kit.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS / "kits"))

from fault_kit import LOG, SEED  # noqa: E402

ROOT = TESTS.parent
COLUMNS = ("fault", "runs", "injected", "lost")


def fault_tests() -> list[Path]:
    """The files of tests that belong to a soak: all of tests/faults/, and those that mark theirs with `soak`."""
    files = sorted(TESTS.rglob("test_*.py"))
    return [file for file in files if file.parent.name == "faults" or "pytest.mark.soak" in file.read_text()]


def run_once(seed: int, log: Path, files: Sequence[Path], processes: int) -> int:
    """One run with `seed`, its files shared out among `processes`. Returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-q", "-x", "-m", "soak", *map(str, files)]
    command += ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {SEED: str(seed), LOG: str(log)}).returncode


def soak(seeds: Sequence[int], log: Path, files: Sequence[Path], processes: int) -> int:
    """Run with one seed after another until one fails: 1; 0 where none did."""
    began_s = time.monotonic()
    for number, seed in enumerate(seeds, 1):
        say(f"run {number} of {len(seeds)}, seed {seed}")
        run_began_s = time.monotonic()
        code = run_once(seed, log, files, processes)
        took_s = time.monotonic() - run_began_s
        note(log, run=seed, passed=code == 0, took_s=round(took_s, 1), **machine())
        if code:
            say(f"run {number} of {len(seeds)} failed; exactly this run again: {again(seed, files)}")
            say(f"one test of it: {SEED}={seed} {sys.executable} -m pytest FILE::TEST")
            return 1
        left_s = (time.monotonic() - began_s) / number * (len(seeds) - number)
        say(f"run {number} of {len(seeds)} passed in {took_s:.0f} s; {number / len(seeds):.0%}, ETA {clock(left_s)}")
    return 0


def again(seed: int, files: Sequence[Path]) -> str:
    """The command that repeats a run."""
    given = [] if list(files) == fault_tests() else [str(file) for file in files]
    return " ".join(["python", "tests/soak.py", "--runs", "1", "--first-seed", str(seed), *given])


def note(log: Path, **what: Any) -> None:
    with log.open("a") as file:
        file.write(json.dumps(what) + "\n")


def machine() -> dict[str, Any]:
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": described.stdout.strip() or None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def table(lines: Iterable[str], *, markdown: bool) -> str:
    """Of each fault in the lines of a log: in how many runs and how often it was injected, and what was lost."""
    notes = [json.loads(line) for line in lines]
    faults: dict[str, list[dict[str, Any]]] = {}
    for entry in notes:
        if "fault" in entry:
            faults.setdefault(entry["fault"], []).append(entry)
    rows = [
        [
            fault,
            len({entry["seed"] for entry in entries}),
            *(sum(entry[key] for entry in entries) for key in ("times", "lost")),
        ]
        for fault, entries in sorted(faults.items())
    ]
    words = [[str(cell) for cell in row] for row in [list(COLUMNS), *rows]]
    head = _about([entry for entry in notes if "run" in entry])
    return f"{head}\n\n{_as_markdown(words) if markdown else _as_text(words)}"


def _about(runs: list[dict[str, Any]]) -> str:
    passed = sum(run["passed"] for run in runs)
    about = f"{passed} of {len(runs)} runs passed, {clock(sum(run['took_s'] for run in runs))} in all"
    if runs:
        first, last = runs[0], runs[-1]
        commits = ", ".join(sorted({str(run["commit"]) for run in runs}))
        where = f"{last['cores']} cores, Python {last['python']}, commit {commits}"
        about += f"; {first['date']} to {last['date']}, {where}"
    return about


def _as_markdown(words: list[list[str]]) -> str:
    head, *rows = [f"| {' | '.join(row)} |" for row in words]
    return "\n".join([head, "|---|---:|---:|---:|", *rows])


def _as_text(words: list[list[str]]) -> str:
    width = max(len(row[0]) for row in words)
    return "\n".join(" ".join([row[0].ljust(width), *(cell.rjust(8) for cell in row[1:])]) for row in words)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def say(line: str) -> None:
    print(f"soak: {line}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the fault tests over and over, each time with another seed.")
    parser.add_argument("files", nargs="*", type=Path, help="files of tests (default: all that are of a soak)")
    parser.add_argument("--runs", type=int, default=1, metavar="N")
    parser.add_argument("--first-seed", type=int, default=1, metavar="S", help="the seed of the first run (default 1)")
    parser.add_argument("--processes", type=int, default=2, metavar="P", help="at a time in a run (default 2)")
    text = "notes of the runs, appended to (default soak/DATE.jsonl)"
    parser.add_argument("--log", type=Path, metavar="FILE", help=text)
    parser.add_argument("--table", action="store_true", help="run nothing, print what --log adds up to")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    given = parser.parse_args()
    if given.processes < 1:
        parser.error(f"--processes {given.processes}: give 1 or more")
    if given.runs < 1:
        parser.error(f"--runs {given.runs}: give 1 or more")
    if given.table and (given.log is None or not given.log.exists()):
        parser.error(f"--table: give the log of earlier runs, --log {given.log}: no such file")
    return given


def main() -> int:
    given = arguments()
    log = (given.log or Path("soak") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl").absolute()
    code = 0
    if not given.table:
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"notes go to {log}")
        seeds = range(given.first_seed, given.first_seed + given.runs)
        code = soak(seeds, log, given.files or fault_tests(), given.processes)
    print(table(log.read_text().splitlines(), markdown=given.markdown))
    return code


if __name__ == "__main__":
    sys.exit(main())
