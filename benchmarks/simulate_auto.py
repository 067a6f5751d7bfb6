"""What `--repeats auto` gets wrong, what it finds, and how many blocks it takes, beside five fixed repeats.

    python benchmarks/simulate_auto.py --json docs/results/DATE-simulated-auto.json     # 10,000 sweeps a row
    python benchmarks/simulate_auto.py --sweeps 200                                     # a look

A trial's time is its arm's true time times a lognormal factor of the block, which all arms of a seed share, and one of
the trial (`--scatter`, in percent). A trial's validation error is likewise. tune/stats/looks.py itself decides which
arms stop at which look, so an arm has no pair after it stopped. Rows:

equal    all arms alike: a sweep that calls any arm faster is wrong
mixed    a third of the arms 5 % faster, a third 0.5 % slower, the rest alike: only the first may be called faster
gain     one arm is 5 % faster and no worse, the others alike: it should be called faster
edge     every arm is 5 % faster and its true error exactly the margin above the baseline's: "not worse" is wrong
near     every arm's true time is exactly the speed margin from the baseline's: "within 1 %" is wrong
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tune.stats.looks import LOOKS, MOST_BLOCKS, SPEED_MARGIN, Standing, standings  # noqa: E402
from tune.stats.pairs import MARGIN, TrialResult, compare_arms  # noqa: E402
from tune.stats.verdicts import FASTER, NOT_WORSE, SLOWER, WITHIN_MARGIN  # noqa: E402

BLOCK_SD = 0.02  # of the logarithm of the factor that all arms of a seed share
GAIN = math.log(1.05)
FIXED = 5
CASES = ("equal", "mixed", "gain", "edge", "near")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Shares of the simulated sweeps; None: the case does not ask."""

    case: str
    arms: int  # the baseline included
    scatter_pct: float  # of a trial, time and error alike
    false_faster: float  # any arm that is not faster is called so
    false_faster_fixed: float
    false_slower: float  # any arm that is not slower is called so
    false_not_worse: float | None  # share of arms
    false_not_worse_fixed: float | None
    found: float | None  # the arm that is 5 % faster is called so
    found_fixed: float | None
    usable: float | None  # that arm is called faster and not worse
    usable_fixed: float | None
    within_margin: float  # share of the arms called so; in the case `near` each of them is wrong
    not_worse: float  # share of the arms called so
    trials: float  # mean trials of a sweep over those with FIXED repeats
    blocks: float  # mean blocks of a sweep, its last arm's


def main() -> None:
    """Simulate, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=10_000, metavar="N")
    parser.add_argument("--arms", type=int, nargs="+", default=[2, 6, 15], metavar="N", help="the baseline included")
    parser.add_argument("--scatter", type=float, nargs="+", default=[0.2, 1.0, 2.0], metavar="PCT")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{options.sweeps} sweeps a row, looks {[(look.blocks, look.alpha) for look in LOOKS]}; beside {FIXED} fixed")
    head = "case   arms scatter     false faster      false not worse        5 % found       and not worse   within"
    print(f"{head}  trials  blocks")
    rows = []
    for case in options.cases:
        for arms in options.arms:
            for scatter in options.scatter:
                rows.append(simulate(case, arms=arms, scatter_pct=scatter, sweeps=options.sweeps, seed=options.seed))
                print(_line(rows[-1]), flush=True)
                if options.json:
                    _write(options, rows)


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    about: dict[str, Any] = {"command": "python benchmarks/simulate_auto.py", "sweeps": options.sweeps}
    about |= {"seed": options.seed, "looks": [asdict(look) for look in LOOKS], "block_sd": BLOCK_SD}
    options.json.write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def _line(row: Row) -> str:
    def both(auto: float | None, fixed: float | None) -> str:
        return "         -         " if auto is None or fixed is None else f"{auto:8.2%} ({fixed:7.2%})"

    return (
        f"{row.case:6} {row.arms:4} {row.scatter_pct:6.1f}% {both(row.false_faster, row.false_faster_fixed)} "
        f"{both(row.false_not_worse, row.false_not_worse_fixed)} {both(row.found, row.found_fixed)} "
        f"{both(row.usable, row.usable_fixed)} "
        f"{row.within_margin:7.1%} {row.trials:6.2f}x {row.blocks:6.2f}"
    )


def simulate(case: str, *, arms: int, scatter_pct: float, sweeps: int, seed: int) -> Row:
    """One row of the table."""
    rng = np.random.default_rng(seed)
    gains, excess = truth(case, arms)
    outcomes = [_sweep(gains, excess, scatter_pct / 100, rng) for _ in range(sweeps)]
    slow = [arm for arm in range(1, arms) if gains[arm] <= 0]  # none of them is faster

    fast = [arm for arm in range(1, arms) if gains[arm] >= 0]  # none of them is slower

    def wrong(verdicts: list[str | None]) -> bool:
        return any(verdicts[arm - 1] == FASTER for arm in slow)

    auto = [[standing.speed.verdict for standing in outcome.standings] for outcome in outcomes]
    edge, gain = case == "edge", case in ("gain", "mixed")
    passed = [standing.accuracy.verdict == NOT_WORSE for outcome in outcomes for standing in outcome.standings]
    usable = [_is_usable(outcome.standings[0]) for outcome in outcomes]
    return Row(
        case=case,
        arms=arms,
        scatter_pct=scatter_pct,
        false_faster=statistics.fmean(map(wrong, auto)),
        false_faster_fixed=statistics.fmean(wrong(outcome.fixed_speed) for outcome in outcomes),
        false_slower=statistics.fmean(any(verdicts[arm - 1] == SLOWER for arm in fast) for verdicts in auto),
        false_not_worse=statistics.fmean(passed) if edge else None,
        false_not_worse_fixed=statistics.fmean(outcome.fixed_passed for outcome in outcomes) if edge else None,
        found=statistics.fmean(verdicts[0] == FASTER for verdicts in auto) if gain else None,
        found_fixed=statistics.fmean(outcome.fixed_speed[0] == FASTER for outcome in outcomes) if gain else None,
        usable=statistics.fmean(usable) if gain else None,
        usable_fixed=statistics.fmean(outcome.fixed_usable for outcome in outcomes) if gain else None,
        not_worse=statistics.fmean(passed),
        within_margin=statistics.fmean(verdict == WITHIN_MARGIN for verdicts in auto for verdict in verdicts),
        trials=statistics.fmean(outcome.trials for outcome in outcomes) / (FIXED * arms),
        blocks=statistics.fmean(outcome.blocks for outcome in outcomes),
    )


def _is_usable(standing: Standing) -> bool:
    return standing.speed.verdict == FASTER and standing.accuracy.verdict == NOT_WORSE


def truth(case: str, arms: int) -> tuple[list[float], list[float]]:
    """Each arm's true log(baseline's time / arm's) and true relative excess of its error; the baseline first."""
    gains, excess = [0.0] * arms, [0.0] * arms
    if case == "gain":
        gains[1] = GAIN
    elif case == "mixed":
        gains = [0.0] + [(GAIN, -0.005, 0.0)[at % 3] for at in range(arms - 1)]
    elif case == "edge":
        gains, excess = [0.0] + [GAIN] * (arms - 1), [0.0] + [MARGIN] * (arms - 1)
    elif case == "near":
        gains = [0.0] + [math.log1p(SPEED_MARGIN)] * (arms - 1)
    return gains, excess


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One simulated sweep."""

    standings: list[Standing]
    trials: int
    blocks: int
    fixed_speed: list[str | None]
    fixed_passed: float  # share of the arms called not worse
    fixed_usable: bool  # the first arm is called faster and not worse


def _sweep(gains: list[float], excess: list[float], sd: float, rng: np.random.Generator) -> Outcome:
    """All arms' trials of all blocks are drawn; those after an arm stopped are not looked at."""
    arms = len(gains)
    block = rng.normal(0, BLOCK_SD, MOST_BLOCKS)
    times = block - np.array(gains)[:, None] + rng.normal(0, sd, (arms, MOST_BLOCKS))
    errors = np.exp(block + rng.normal(0, sd, (arms, MOST_BLOCKS))) * (1 + np.array(excess)[:, None])
    names = [str(arm) for arm in range(1, arms)]
    logs = {name: dict(enumerate((times[0] - times[int(name)]).tolist())) for name in names}
    over = {name: dict(enumerate((errors[int(name)] / errors[0] - 1).tolist())) for name in names}
    every = range(MOST_BLOCKS)
    found = list(standings(logs, over, ended=dict.fromkeys(names, every), baseline=every, margin=MARGIN).values())
    stops = [standing.stopped_at or MOST_BLOCKS for standing in found]
    results = [
        [TrialResult(seed=str(at), time_s=math.exp(times[arm, at]), mse=float(errors[arm, at])) for at in range(FIXED)]
        for arm in range(arms)
    ]
    fixed = compare_arms(results[0], {name: results[int(name)] for name in names}, margin=MARGIN)
    passed = [arm.accuracy is not None and arm.accuracy.verdict == NOT_WORSE for arm in fixed.values()]
    return Outcome(
        standings=found,
        trials=sum(stops) + max(stops),
        blocks=max(stops),
        fixed_speed=[arm.verdict for arm in fixed.values()],
        fixed_passed=statistics.fmean(passed),
        fixed_usable=passed[0] and fixed["1"].verdict == FASTER,
    )


if __name__ == "__main__":
    main()
