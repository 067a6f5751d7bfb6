"""Do two versions of this project compute the same, and as fast? Compares sweeps that were run by the same command.

    (cd BEFORE && python experiments.py --sweep attention --dataset ETTm1 --repeats 1 --json before.json ...)
    python experiments.py --sweep attention --dataset ETTm1 --repeats 1 --json after.json ...
    python benchmarks/same_results.py --before before.json --after after.json

Run them on one GPU, in turns: before, after, before, after. Two files a version also show how far two runs of one
version lie apart, which is what a ratio has to exceed to mean anything. Trials are matched by their id. Printed for
each: whether every error has the same digits in all files, the median epoch of the version after over the one before
(geometric means over the files), and the largest spread within a version. Exit code 1 if an error or a status
differs, or if a ratio lies outside --within-pct.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

ERRORS = ("loss/val_mse", "loss/val_mae", "loss/train_mse", "final/test_mse", "final/test_mae")
EPOCH = "final/median_epoch_s"
Trials = dict[str, dict[str, Any]]  # trial id -> the trial as --json writes it


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for version in ("before", "after"):
        parser.add_argument(f"--{version}", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--within-pct", type=float, default=0.5, help="how far a median epoch may move (default 0.5)")
    arguments = parser.parse_args(argv)
    before, after = ([_trials(file) for file in files] for files in (arguments.before, arguments.after))
    every = sorted({trial_id for trials in [*before, *after] for trial_id in trials})
    print("| trial | status | errors | median epoch, after / before | spread within a version |\n|---|---|---|---|---|")
    differs = False
    for trial_id in every:
        if all(trial_id in trials for trials in [*before, *after]):
            *cells, row_differs = _compare(
                [trials[trial_id] for trials in before], [trials[trial_id] for trials in after], arguments.within_pct
            )
        else:
            cells, row_differs = ["not in every file", "", "", ""], True
        differs |= row_differs
        print(f"| {trial_id} | {' | '.join(cells)} |")
    return int(differs)


def _trials(file: Path) -> Trials:
    return {trial["trial_id"]: trial for trial in json.loads(file.read_text())["trials"]}


def _compare(
    before: list[dict[str, Any]], after: list[dict[str, Any]], within_pct: float
) -> tuple[str, str, str, str, bool]:
    """Status, errors, ratio and spread of one trial, and whether the versions differ."""
    both = [*before, *after]
    statuses = list(dict.fromkeys(trial["status"] for trial in both))
    values = {name: [trial["metrics"].get(name) for trial in both] for name in ERRORS}
    changed = [f"{name}: {', '.join(map(str, row))}" for name, row in values.items() if len(set(row)) > 1]
    known = sum(row[0] is not None for row in values.values())
    times = [[trial["metrics"].get(EPOCH) for trial in trials] for trials in (before, after)]
    errors = "; ".join(changed) or (f"the same ({known} values)" if known else "none")
    if any(not time_s for row in times for time_s in row):
        return " -> ".join(statuses), errors, "none", "none", bool(changed) or len(statuses) > 1
    ratio = geometric_mean(times[1]) / geometric_mean(times[0])
    moved = abs(ratio - 1) > within_pct / 100
    spread = "one run each" if len(both) == 2 else f"{max(max(row) / min(row) - 1 for row in times):.2%}"
    text = f"{ratio:.4f}{' (moved)' if moved else ''}"
    return " -> ".join(statuses), errors, text, spread, bool(changed) or moved or len(statuses) > 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
