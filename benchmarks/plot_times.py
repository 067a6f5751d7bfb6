"""Where a training epoch's time goes, arm by arm, from the JSON that a sweep writes with --json.

    python benchmarks/plot_times.py docs/results/2026-11-22-num_workers-ETTm1-h100.json docs/images/num_workers.png

The last epoch of each finished trial is shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PARTS = {
    "step": "#4477aa",
    "h2d": "#66ccee",
    "data_wait": "#ee6677",
    "launch": "#ccbb44",
    "other": "#bbbbbb",
}


def main() -> None:
    """Read the result, draw one bar per arm, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw(json.loads(options.result.read_text()), options.picture)


def draw(result: dict[str, Any], picture: Path) -> None:
    """One horizontal bar per finished trial, shortest epoch on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trials = [trial for trial in result["trials"] if trial["status"] == "done"]
    trials.sort(key=lambda trial: trial["metrics"]["time/train_s"], reverse=True)
    names = [trial["trial_id"].removeprefix(f"{result['sweep']}-") for trial in trials]
    figure, axes = pyplot.subplots(figsize=(7, 1.0 + 0.3 * len(trials)), layout="constrained")
    left = [0.0] * len(trials)
    for part, colour in PARTS.items():
        seconds = [trial["metrics"][f"time/{part}_s"] for trial in trials]
        axes.barh(names, seconds, left=left, color=colour, label=part.replace("_", " "))
        left = [start + length for start, length in zip(left, seconds, strict=True)]
    axes.set_xlabel(f"seconds of training in the last epoch, {result['environment']['device']['name']}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(PARTS))
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
