"""Do the parts of an epoch add up to it, with every engine and feed? Rule: within 2 % (CONTRIBUTING.md).

    python benchmarks/parts.py                                        # generated data; 12 rows on a GPU
    python benchmarks/parts.py --dataset ETTm1 --data-dir DIR --json parts.json
    python benchmarks/parts.py --engines eager --epochs 2 --set data.context_length=48    # a dry run, also on a CPU
    python benchmarks/parts.py --without-sampler                      # what sampling the GPU costs: compare s/epoch

Each row is one trial, run in this process, which has imported and compiled before: the parts are checked here, not
speed. A row shows the epoch that is furthest off. Exit code 1: the parts of an epoch are more than 2 % away from its
time, or a trial failed. What cannot run here is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.epoch import plan_job
from tune.common.errors import Unsupported
from tune.engine import ENGINES
from tune.measure.bottleneck import OFF_PCT, PARTS

FEEDS = {
    "device": ("device", 0), "pinned": ("pinned", 0), "mapped": ("mapped", 0),
    "arrow-0": ("arrow", 0), "arrow-2": ("arrow", 2), "tsfm-2": ("tsfm", 2),
}  # fmt: skip
MOST_OTHER_PCT = 5.0  # more of it needs an explanation: marked, no failure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine with one feed; the numbers are those of its epoch that is furthest off."""

    engine: str
    feed: str
    status: str
    reason: str | None
    train_s: float | None = None
    shares_pct: dict[str, float] | None = None  # of train_s, by part
    unexplained_pct: float | None = None
    diagnosis: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the parts add up; what cannot run here breaks no rule."""
        if self.status == "unsupported":
            return True
        return self.status == "done" and self.unexplained_pct is not None and self.unexplained_pct <= OFF_PCT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every row, print it as it comes, write the raw values; returns the exit code."""
    options = _options(arguments)
    from tune.machine.device import has_gpu, node_facts

    facts = node_facts(use_gpu=has_gpu())
    print(f"{facts.name}: {options.dataset}, batch {options.batch}, {options.epochs} epochs a row")
    print(f"{'engine':9}{'feed':9}{'s/epoch':>9}" + "".join(f"{part + ' %':>12}" for part in PARTS) + f"{'off %':>8}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        for engine in options.engines:
            for feed in options.feeds:
                rows.append(run_row(engine, feed, options, facts, Path(cache)))
                print_row(rows[-1])
                if options.json:  # after each row: a run cut short has those it measured
                    content = {"device": facts.as_dict(), "rows": [asdict(row) for row in rows]}
                    options.json.write_text(json.dumps(content, indent=1))
    if not any(row.status == "done" for row in rows):
        print("no row ran: nothing is shown", file=sys.stderr)
        return 1
    return 0 if all(row.holds for row in rows) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3, help="per row (default 3)")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--feeds", nargs="+", choices=list(FEEDS), default=list(FEEDS))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every row")
    parser.add_argument("--without-sampler", action="store_true", help="do not sample the GPU during the epochs")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def run_row(engine: str, feed: str, options: argparse.Namespace, facts: Any, cache: Path) -> Row:
    """One trial in this process, as a row."""
    from tune.trial.report import as_result
    from tune.trial.run import run_trial

    name, workers = FEEDS[feed]
    fields = {"data.dataset": options.dataset, "data.feed": name, "data.num_workers": workers, "train.engine": engine}
    fields |= {"train.batch_size": options.batch, "train.epochs": options.epochs}
    fields |= dict(item.split("=", 1) for item in options.set)
    try:
        job = plan_job(fields, 1, options.data_dir, facts, cache)
    except Unsupported as error:
        return Row(engine=engine, feed=feed, status="unsupported", reason=str(error))
    except ValueError as error:
        return Row(engine=engine, feed=feed, status="failed", reason=str(error))
    job = replace(job, gate_dir=str(cache / "gate"), sample_device=not options.without_sampler)
    reports: list[dict[str, Any]] = []
    run_trial(job, lambda report, folder: reports.append(as_result(report)))
    return as_row(engine, feed, reports)


def as_row(engine: str, feed: str, reports: Sequence[dict[str, Any]]) -> Row:
    """A trial's reports as a row."""
    *epochs, last = reports
    row = Row(engine=engine, feed=feed, status=last["status"], reason=last["reason"])
    if last["status"] != "done":
        return row
    metrics = max((epoch["metrics"] for epoch in epochs), key=lambda metrics: metrics["time/unexplained_pct"])
    train_s = metrics["time/train_s"]
    return replace(
        row,
        train_s=train_s,
        shares_pct={part: 100 * metrics[f"time/{part}_s"] / train_s for part in PARTS},
        unexplained_pct=metrics["time/unexplained_pct"],
        diagnosis=last["tags"].get("diagnosis"),
    )


def print_row(row: Row) -> None:
    """The row with what is wrong with it."""
    head = f"{row.engine:9}{row.feed:9}"
    if row.shares_pct is None:
        print(f"{head}  {row.status}: {row.reason}", flush=True)
        return
    shares = "".join(f"{row.shares_pct[part]:12.2f}" for part in PARTS)
    marks = [] if row.holds else ["THE PARTS DO NOT ADD UP"]
    marks += [f"other is over {MOST_OTHER_PCT:g} %"] if row.shares_pct["other"] > MOST_OTHER_PCT else []
    notes = "; ".join([*marks, row.diagnosis or "no diagnosis"])
    print(f"{head}{row.train_s:9.3f}{shares}{row.unexplained_pct:8.2f}  {notes}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
