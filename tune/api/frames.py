"""A sweep's records as pandas frames. Names are those of the configuration's fields and of MLflow's metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from tune.config.trial_config import FIELDS, SEED_STUDY_ONLY, parse_params
from tune.report.arms import arm_of, arm_rows, trained_by_arm
from tune.report.comparisons import trial_results
from tune.report.work import with_work
from tune.stats.pairs import MARGIN, TrialResult, log_ratios

if TYPE_CHECKING:
    from tune.tracking.reader import SweepRecord, TrialRecord

TRIAL_COLUMNS = ("trial_id", "arm", "seed", "stage", "status", "reason", "run_id")
EPOCH_COLUMNS = ("trial_id", "arm", "seed", "epoch")
PAIR_COLUMNS = ("arm", "seed", "baseline_s", "arm_s", "ratio", "baseline_mse", "arm_mse", "error_difference", "unfit")
VERDICT_COLUMNS = (
    "arm", "is_baseline", "status", "reason", "trials", "pairs", "epoch_s", "ratio", "ratio_low", "ratio_high", "speed",
    "val_mse", "test_mse", "error_difference", "error_low", "error_high", "error",
)  # fmt: skip
NUMBERS = frozenset(
    name for name in (*PAIR_COLUMNS, *VERDICT_COLUMNS) if name.endswith(("_s", "_mse", "_difference", "_low", "_high"))
) | {"ratio", "pairs"}


def trials_frame(record: SweepRecord) -> pd.DataFrame:
    """One row a trial: TRIAL_COLUMNS, then the fields of its configuration, then its `final/` metrics.

    What MLflow does not hold is missing. A refused trial, whose work cannot be known, has no time.
    """
    trials = with_work(record.trials)
    fields = [name for name in FIELDS if name not in SEED_STUDY_ONLY]
    metrics = sorted({name for trial in trials for name in trial.metrics if name.startswith("final/")})
    rows = []
    for trial in trials:
        params = parse_params(trial.params, record.format)
        own = (*_who(trial), trial.tags.get("stage"), trial.status, trial.reason or None, trial.run_id)
        rows.append((*own, *(params.get(name) for name in fields), *(trial.metrics.get(name) for name in metrics)))
    return pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, *fields, *metrics])


def epochs_frame(record: SweepRecord) -> pd.DataFrame:
    """One row an epoch of a trial, from 1: EPOCH_COLUMNS, then every metric that has a value an epoch."""
    histories = [history for trial in record.trials for history in trial.history.items()]
    names = sorted({name for name, points in histories if any(step >= 1 for step, _ in points)})
    rows = []
    for trial in record.trials:
        by_epoch: dict[int, dict[str, float]] = {}
        for name in names:
            for step, value in trial.history.get(name, []):
                if step >= 1:
                    by_epoch.setdefault(step, {})[name] = value
        rows += [
            (*_who(trial), epoch, *(values.get(name) for name in names)) for epoch, values in sorted(by_epoch.items())
        ]
    return pd.DataFrame(rows, columns=[*EPOCH_COLUMNS, *names])


def pairs_frame(record: SweepRecord) -> pd.DataFrame:
    """One row for each seed of an arm that is compared with the baseline: PAIR_COLUMNS.

    `ratio` is the baseline's seconds an epoch over the arm's: above 1 the arm is faster. `error_difference` is the
    arm's validation MSE relative to the baseline's: 0.01 is 1 % more. `unfit` says why a pair has no ratio.
    """
    arms, baseline = trained_by_arm(record), record.tags.get("baseline")
    rows: list[tuple[Any, ...]] = []
    for row in arm_rows(record):
        if row.comparison is not None and baseline in arms:
            rows += _pairs(row.arm, trial_results(arms[baseline]), trial_results(arms[row.arm]))
    return _with_numbers(pd.DataFrame(rows, columns=list(PAIR_COLUMNS)))


def _pairs(arm: str, baseline: Sequence[TrialResult], results: Sequence[TrialResult]) -> Iterator[tuple[Any, ...]]:
    first, second = ({result.seed: result for result in side} for side in (baseline, results))
    for seed in sorted(first.keys() | second.keys(), key=lambda seed: (len(seed), seed)):
        sides = first.get(seed), second.get(seed)
        ratios, left_out = log_ratios(*([side] if side else [] for side in sides))
        times, errors = ([getattr(side, name, None) for side in sides] for name in ("time_s", "mse"))
        ratio = times[0] / times[1] if ratios and times[0] and times[1] else None
        difference = errors[1] / errors[0] - 1 if errors[0] and errors[1] else None
        yield arm, _seed(seed), *times, ratio, *errors, difference, next(iter(left_out), None)


def verdicts_frame(record: SweepRecord, *, margin: float = MARGIN) -> pd.DataFrame:
    """One row an arm, as in the report: VERDICT_COLUMNS. `speed` and `error` are the verdicts, missing where none is.

    `speed`: faster, slower, within_margin, undecided. `error`: not_worse, worse, undecided. Times and errors are means
    over the arm's trials; bounds are those of the report. `margin`: how much larger, relative to the baseline's, an
    error may be that counts as not worse.
    """
    rows = []
    for row in arm_rows(record, margin=margin):
        compared = row.comparison
        accuracy = compared.accuracy if compared else None
        rows.append(
            (
                row.arm,
                row.is_baseline,
                row.status,
                row.refused or row.reason or None,
                row.trials,
                compared.count if compared else None,
                row.epoch_s,
                compared.ratio if compared else None,
                *((compared and compared.interval) or (None, None)),
                compared.verdict if compared else None,
                row.val_mse,
                row.test_mse,
                accuracy.difference if accuracy else None,
                *((accuracy and accuracy.bounds) or (None, None)),
                accuracy.verdict if accuracy else None,
            )  # fmt: skip
        )
    return _with_numbers(pd.DataFrame(rows, columns=list(VERDICT_COLUMNS)))


def _with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers stay such where none is known."""
    return frame.astype({name: float for name in frame.columns if name in NUMBERS})


def _who(trial: TrialRecord) -> tuple[str, str, int | str | None]:
    return trial.trial_id, arm_of(trial), _seed(trial.tags.get("seed"))


def _seed(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text
