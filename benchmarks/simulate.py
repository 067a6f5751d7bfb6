"""How often a sweep's verdicts are wrong, and how often they find a difference, in sweeps made of recorded H100 epochs.

    python benchmarks/simulate.py                      # 2,000 sweeps of 11 arms for each assumption
    python benchmarks/simulate.py --json docs/results/DATE-simulated-verdicts.json

The time of an epoch is a product of four factors. The first is the arm's true time. All arms of a seed share the
factor of their block (lognormal, 2 %). The factor of the trial is assumed (lognormal, see SCENARIOS): no arm has been
repeated on an H100 yet. The epoch's own factor is drawn from recorded epochs, over the median of their trial.
tune/stats/pairs.py itself gives the verdicts of each sweep.

Null: all arms are equal, so a sweep that calls any arm faster is wrong. Power: one arm is faster by DIFFERENCE_PCT.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tune.stats.pairs import MARGIN, Comparison, TrialResult, compare_arms  # noqa: E402
from tune.stats.verdicts import FASTER, SLOWER  # noqa: E402

GRAPH = "2026-11-22-attention-ETTm1-h100-graph.json"
COMPILE = ("2026-11-22-num_workers-ETTm1-h100.json", "2026-11-22-pruning-ETTm1-h100.json")
BLOCK_SD = 0.02
FIXED = 5
ARMS, EPOCHS, DIFFERENCE_PCT = 11, 10, 5.0  # arms of the pruning sweep, default epochs, true gain of one arm


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is assumed of a trial, apart from its recorded epochs."""

    engine: str  # whose recorded epochs
    trial_sd: float | None  # of the logarithm of a trial's factor; None: that of the recorded arms' medians
    disturbed: float = 0.0  # share of the trials that are slower by DISTURBANCE
    note: str = ""


DISTURBANCE = 0.10
SCENARIOS = (
    Scenario(engine="graph", trial_sd=0.0),
    Scenario(engine="graph", trial_sd=0.005),
    Scenario(engine="graph", trial_sd=0.01),
    Scenario(engine="graph", trial_sd=0.015),
    Scenario(engine="graph", trial_sd=0.02),
    Scenario(engine="graph", trial_sd=0.005, disturbed=0.05, note="5 % of trials 10 % slower"),
    Scenario(engine="compile", trial_sd=None, note="as far apart as the pruning sweep's arms"),
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Shares of the simulated sweeps."""

    scenario: Scenario
    trial_sd: float  # the one that was used
    epochs_recorded: int
    false_faster: float  # null: any arm called faster
    false_slower: float
    power: float  # the arm that is faster is called so
    half_width_pct: float  # median over the sweeps of its interval's half width


def main() -> None:
    """Simulate every scenario, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000, metavar="N")
    parser.add_argument("--repeats", type=int, default=FIXED, metavar="N", help=f"default {FIXED}")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{options.sweeps} sweeps of {ARMS} arms, {options.repeats} repeats, {EPOCHS} epochs; block {BLOCK_SD:.0%}")
    print("engine   trial sd  recorded  false faster  false slower  5 % found  half width")
    figures = []
    for scenario in SCENARIOS:
        shares = simulate(scenario, sweeps=options.sweeps, repeats=options.repeats, seed=options.seed)
        figures.append(shares)
        print(
            f"{scenario.engine:8} {shares.trial_sd:7.1%} {shares.epochs_recorded:9d} {shares.false_faster:12.1%} "
            f"{shares.false_slower:13.1%} {shares.power:11.1%} {shares.half_width_pct:9.1f} %  {scenario.note}"
        )
    if options.json:
        content = {**settings(options), "figures": [asdict(shares) for shares in figures]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, apart from the scenarios."""
    return {
        "command": "python benchmarks/simulate.py", "sweeps": options.sweeps, "repeats": options.repeats,
        "seed": options.seed, "arms": ARMS, "epochs": EPOCHS, "block_sd": BLOCK_SD, "difference_pct": DIFFERENCE_PCT,
        "disturbance": DISTURBANCE, "recorded": {"graph": [GRAPH], "compile": list(COMPILE)},
    }  # fmt: skip


def simulate(scenario: Scenario, *, sweeps: int, repeats: int, seed: int) -> Figures:
    """Simulate `sweeps` sweeps of equal arms, and as many in which the first arm after the baseline is faster."""
    trials = recorded(scenario.engine)
    scatter = np.array([epoch_s / statistics.median(trial) for trial in trials for epoch_s in trial])
    sd = between_arms() if scenario.trial_sd is None else scenario.trial_sd
    rng = np.random.default_rng(seed)
    equal, faster = np.ones(ARMS), np.ones(ARMS)
    faster[1] = 1 / (1 + DIFFERENCE_PCT / 100)
    nulls = [_compared(equal, scatter, sd, scenario.disturbed, repeats, rng) for _ in range(sweeps)]
    gains = [_compared(faster, scatter, sd, scenario.disturbed, repeats, rng)["1"] for _ in range(sweeps)]
    widths = [(gain.interval[1] / gain.interval[0]) ** 0.5 - 1 for gain in gains if gain.interval]

    def share(verdict: str) -> float:
        return statistics.fmean(any(arm.verdict == verdict for arm in arms.values()) for arms in nulls)

    return Figures(
        scenario=scenario,
        trial_sd=sd,
        epochs_recorded=len(scatter),
        false_faster=share(FASTER),
        false_slower=share(SLOWER),
        power=statistics.fmean(gain.verdict == FASTER for gain in gains),
        half_width_pct=100 * statistics.median(widths),
    )


def _compared(
    true_s: np.ndarray, scatter: np.ndarray, trial_sd: float, disturbed: float, repeats: int, rng: np.random.Generator
) -> dict[str, Comparison]:
    """Compare the arms of one sweep of arms x repeats x epochs, by the median of each trial's epochs."""
    shape = (len(true_s), repeats)
    block = np.exp(rng.normal(0, BLOCK_SD, size=(1, repeats)))
    trial = np.exp(rng.normal(0, trial_sd, size=shape)) * (1 + DISTURBANCE * (rng.random(shape) < disturbed))
    epochs = rng.choice(scatter, size=(*shape, EPOCHS))
    medians = true_s[:, None] * block * trial * np.median(epochs, axis=2)
    arms = {
        str(arm): [TrialResult(seed=str(seed), time_s=float(time_s)) for seed, time_s in enumerate(times)]
        for arm, times in enumerate(medians)
    }
    return compare_arms(arms.pop("0"), arms, margin=MARGIN)


def recorded(engine: str) -> list[list[float]]:
    """Seconds of each recorded trial's counted epochs on that engine, where `epochs_of` finds more than one."""
    names = (GRAPH,) if engine == "graph" else COMPILE
    return [epochs for name in names for trial in _done(name) if len(epochs := epochs_of(trial)) > 1]


def epochs_of(trial: dict[str, Any]) -> list[float]:
    """The counted epochs of a trial of three, in s, from the median, the last epoch and the sum that --json holds.

    A pruned trial's median is the mean of its last two epochs. Empty where the last epoch is the median, since then
    only the sum of the other two is known, and where the epochs waited for loader workers.
    """
    metrics, pruning = trial["metrics"], trial["params"]["pruning.score"]
    median, last = metrics["final/median_epoch_s"], metrics["time/train_s"]
    if str(trial["params"]["train.epochs"]) != "3" or trial["params"]["data.feed"] == "tsfm":
        return []
    if pruning not in ("none", "static"):
        return [2 * median - last, last]
    return [] if median == last else [median, last, metrics["final/train_total_s"] - median - last]


def between_arms() -> float:
    """Deviation of the logarithms of the pruning sweep's median epochs. That of trials of one arm is smaller."""
    medians = [trial["metrics"]["final/median_epoch_s"] for trial in _done(COMPILE[1])]
    return float(np.std(np.log(medians), ddof=1))


def _done(name: str) -> list[dict[str, Any]]:
    trials = json.loads((ROOT / "docs" / "results" / name).read_text())["trials"]
    return [trial for trial in trials if trial["status"] == "done"]


if __name__ == "__main__":
    main()
