"""The cells of a table, from MLflow's records: test errors over seeds, beside those that others report.

No cell is compared with another, and none has a verdict: an interval says how far seeds scatter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tune.config.benchmarks import reported
from tune.config.trial_config import parse_params
from tune.report.arms import environment_of, json_or_text, trials_by_arm
from tune.stats.intervals import ALPHA, MIN_PAIRS, Bounds, Mean, mean_of
from tune.storage.params import format_of
from tune.tracking.reader import SweepRecord, TrialRecord

TAG = "table"  # of the sweep's run
MISSING = "missing"  # in the tag: data set whose file is not at hand -> where to put it
SET = "set"  # in the tag: fields that the user set for all cells, so that they are not the recipe's
NAIVE = ("final/naive_last_value_mse", "final/naive_last_day_mse")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell over its seeds. Errors are of standardised values; None: not known, or the test set was not read."""

    name: str  # the arm's label
    dataset: str
    horizon: int  # time steps
    preset: str
    seeds: int  # planned
    done: tuple[str, ...]  # the seeds that are done
    val_mse: float | None  # mean, of each training's best epoch
    test_mse: float | None  # mean
    test_sd: float | None  # over the seeds; None of a single one
    test_bounds: Bounds | None  # 95 % t interval of the mean over seeds; None with fewer than MIN_PAIRS
    test_mae: float | None  # mean
    naive_mse: float | None  # the smallest test MSE of a naive forecast
    published: float | None  # test MSE of PatchTST as published
    tfb: float | None  # and under TFB's protocol
    epochs: float | None  # trained until patience or the last, mean
    train_s: float | None  # of the training epochs, mean; trials share a GPU: no measure of speed
    commits: tuple[str, ...]  # of the code that trained it, with "+" where files were changed; several after --resume
    not_run: str | None  # why not, or not fully; None: every seed is done


def is_table(record: SweepRecord) -> bool:
    """Whether the sweep is a table."""
    return TAG in record.tags


def cells(record: SweepRecord) -> list[Cell]:
    """One for each cell, in the order of the sweep's definition."""
    missing = _of_tag(record, MISSING)
    return [_cell(name, trials, record, missing) for name, trials in trials_by_arm(record).items()]


def set_by_hand(record: SweepRecord) -> dict[str, Any]:
    """The fields that the user set for all cells."""
    return _of_tag(record, SET)


def _of_tag(record: SweepRecord, name: str) -> dict[str, Any]:
    content = json_or_text(record.tags.get(TAG))
    found = content.get(name) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _cell(name: str, trials: Sequence[TrialRecord], record: SweepRecord, missing: Mapping[str, str]) -> Cell:
    params = parse_params(trials[0].params, format_of(record.tags))
    dataset, horizon = str(params["data.dataset"]), int(params["data.prediction_length"] or 0)
    done = [trial for trial in trials if trial.status == "done"]
    test = _values(done, "final/test_mse")
    mean = mean_of(test)
    published, tfb = reported(dataset, horizon)
    return Cell(
        name=name,
        dataset=dataset,
        horizon=horizon,
        preset=str(params["model.preset"]),
        seeds=len(trials),
        done=tuple(trial.tags.get("seed", "?") for trial in done),
        val_mse=_mean(_values(done, "final/val_mse")),
        test_mse=mean.value if mean else None,
        test_sd=stdev(test) if len(test) > 1 else None,
        test_bounds=_interval(mean) if mean and mean.count >= MIN_PAIRS else None,
        test_mae=_mean(_values(done, "final/test_mae")),
        naive_mse=min((value for metric in NAIVE for value in _values(done, metric)), default=None),
        published=published,
        tfb=tfb,
        epochs=_mean([float(len(trial.history.get("loss/val_mse", ()))) for trial in done]),
        train_s=_mean(_values(done, "final/train_total_s")),
        commits=tuple(dict.fromkeys(commit for trial in done if (commit := _commit(trial, record)))),
        not_run=_not_run(trials, missing.get(dataset)),
    )


def _interval(mean: Mean) -> Bounds:
    return mean.value - mean.reach(ALPHA / 2), mean.value + mean.reach(ALPHA / 2)


def _values(trials: Iterable[TrialRecord], metric: str) -> list[float]:
    return [trial.metrics[metric] for trial in trials if metric in trial.metrics]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _commit(trial: TrialRecord, record: SweepRecord) -> str | None:
    """The git commit of the trial's code; the hash of its files where it was not in git; None: not known."""
    environment: Any = json_or_text(trial.tags.get("environment")) or environment_of(record)
    if not isinstance(environment, dict):
        return None
    commit, dirty = environment.get("git_commit"), environment.get("git_dirty")
    if commit:
        return f"{str(commit)[:10]}{'+' if dirty else ''}"
    code = environment.get("code_sha256")
    return f"code {str(code)[:10]}" if code else None


def _not_run(trials: Sequence[TrialRecord], missing: str | None) -> str | None:
    left = [trial for trial in trials if trial.status != "done"]
    if not left:
        return None
    if missing is not None and all(trial.status == "planned" for trial in trials):
        return f"not run: file not at hand: {missing}"
    reasons = dict.fromkeys(f"{trial.status}: {trial.reason}" if trial.reason else trial.status for trial in left)
    return f"{len(left)} of {len(trials)} seeds {'; '.join(reasons)}"


def as_json(cell: Cell) -> dict[str, Any]:
    """The cell by the names of its fields."""
    return json.loads(json.dumps(vars(cell)))
