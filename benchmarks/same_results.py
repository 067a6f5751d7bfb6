"""Do two versions of this project compute the same, and as fast? Compares two sweeps that were run by the same command.

    (cd BEFORE && python experiments.py --sweep attention --dataset ETTm1 --repeats 1 --json before.json ...)
    python experiments.py --sweep attention --dataset ETTm1 --repeats 1 --json after.json ...
    python benchmarks/same_results.py before.json after.json

Run both on one GPU, one after the other. Trials are matched by their id. Printed for each: whether every error has the
same digits, and the median epoch of the second over that of the first. Exit code 1 if an error or a status differs, or
if a ratio lies outside --within-pct.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ERRORS = ("loss/val_mse", "loss/val_mae", "loss/train_mse", "final/test_mse", "final/test_mae")
EPOCH = "final/median_epoch_s"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--within-pct", type=float, default=0.5, help="how far a median epoch may move (default 0.5)")
    arguments = parser.parse_args(argv)
    before, after = (_trials(file) for file in (arguments.before, arguments.after))
    print("| trial | status | errors | median epoch, after / before |\n|---|---|---|---|")
    differ = before.keys() != after.keys()
    for trial_id in sorted(before.keys() & after.keys()):
        row = _compare(before[trial_id], after[trial_id], arguments.within_pct)
        differ |= row.pop("differs")
        print(f"| {trial_id} | " + " | ".join(row.values()) + " |")
    for trial_id in sorted(before.keys() ^ after.keys()):
        print(f"| {trial_id} | only in one of the two sweeps | | |")
    return int(differ)


def _trials(file: Path) -> dict[str, dict[str, Any]]:
    return {trial["trial_id"]: trial for trial in json.loads(file.read_text())["trials"]}


def _compare(before: dict[str, Any], after: dict[str, Any], within_pct: float) -> dict[str, Any]:
    """One row. A value that neither sweep has does not count; one that only one of them has differs."""
    old, new = before["metrics"], after["metrics"]
    changed = [name for name in ERRORS if old.get(name) != new.get(name)]
    known = [name for name in ERRORS if old.get(name) is not None]
    status = before["status"] if before["status"] == after["status"] else f"{before['status']} -> {after['status']}"
    ratio = new[EPOCH] / old[EPOCH] if old.get(EPOCH) and new.get(EPOCH) else None
    moved = ratio is not None and abs(ratio - 1) > within_pct / 100
    values = [f"{name} {old.get(name)} -> {new.get(name)}" for name in changed]
    return {
        "status": status,
        "errors": "; ".join(values) or (f"the same ({len(known)} values)" if known else "none"),
        "ratio": "none" if ratio is None else f"{ratio:.4f}{' (moved)' if moved else ''}",
        "differs": bool(changed) or moved or before["status"] != after["status"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
