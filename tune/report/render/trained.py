"""What a training of one model ends with: its errors beside the naive forecasts', and which model is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from tune.common.words import counted
from tune.report.arms import tag_text, trained_by_arm
from tune.report.naive import NAIVE, TRY
from tune.report.render.terminal import PIPE
from tune.report.setting import untested_note
from tune.tracking.reader import SweepRecord, TrialRecord

if TYPE_CHECKING:
    from rich.table import Table

VAL, TEST, MAE, BEST = "final/val_mse", "final/test_mse", "final/test_mae", "final/best_epoch"


def kept_trial(record: SweepRecord) -> TrialRecord | None:
    """The done trial with the smallest validation error, whose model `predict` takes; None where none is done."""
    done = [trial for trial in record.trials if trial.status == "done" and VAL in trial.metrics]
    return min(done, key=lambda trial: trial.metrics[VAL]) if done else None


def print_trained(record: SweepRecord, stream: IO[str]) -> None:
    """Print it: a row for each seed and each naive forecast, then the model that is kept."""
    from rich.console import Console

    console = Console(file=stream, width=None if stream.isatty() else PIPE, highlight=False)
    trials = [trial for trials in trained_by_arm(record).values() for trial in trials]
    console.print(f"{record.sweep_id} on {tag_text(record, 'device')}", style="dim", markup=False)
    for trial in trials:
        if trial.status != "done":
            console.print(f"seed {trial.tags.get('seed')}: {trial.status}: {trial.reason}", style="red", markup=False)
    best = kept_trial(record)
    if best is None:
        console.print("No model: no training has ended well.", style="bold", markup=False)
        return
    beaten = [f"{name} ({best.metrics[key]:.4f})" for name, key in NAIVE.items() if _beats(best, key)]
    if beaten:
        text = f"The model does not beat {' or '.join(beaten)} in test MSE. {TRY.capitalize()}."
        console.print(text, style="red", markup=False)
    console.print(_kept(best, trials), style="bold", markup=False)
    console.print(_table(best, trials))
    for line in untested_note(record):
        console.print(line, markup=False)
    console.print("MSE and MAE of standardised values. The choice of epoch and seed went by validation MSE alone.")


def _beats(trial: TrialRecord, naive: str) -> bool:
    return trial.metrics.get(naive, float("inf")) <= trial.metrics.get(TEST, float("-inf"))


def _kept(best: TrialRecord, trials: Sequence[TrialRecord]) -> str:
    """Kept: the weights of epoch 14, the smallest validation MSE of 24 epochs; stopped early (patience 10)."""
    epochs, planned = len(best.history.get("loss/val_mse", [])), best.params.get("train.epochs", "")
    early = f" It stopped early, of {planned} epochs." if planned.isdecimal() and epochs < int(planned) else ""
    of = f"seed {best.tags.get('seed')}, of {counted(len(trials), 'seed')}" if len(trials) > 1 else "this training"
    return (
        f"Kept: the model of {of}, with the weights of epoch {best.metrics.get(BEST, 0):g}, the smallest validation "
        f"MSE of {counted(epochs, 'epoch')}.{early}"
    )


def _table(best: TrialRecord, trials: Sequence[TrialRecord]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("forecast", overflow="fold")
    for name in ("best epoch", "epochs", "val MSE", "test MSE", "test MAE"):
        table.add_column(name, justify="right", no_wrap=True)
    for trial in (trial for trial in trials if trial.status == "done"):
        name = f"model, seed {trial.tags.get('seed')}" + (
            " (kept)" if trial.trial_id == best.trial_id and len(trials) > 1 else ""
        )
        epochs = str(len(trial.history.get("loss/val_mse", [])))
        errors = [_error(trial, metric) for metric in (VAL, TEST, MAE)]
        table.add_row(name, f"{trial.metrics.get(BEST, 0):g}", epochs, *errors)
    for name, key in NAIVE.items():
        if key in best.metrics:
            table.add_row(name, "", "", "", _error(best, key), "")
    return table


def _error(trial: TrialRecord, metric: str) -> str:
    return "-" if metric not in trial.metrics else f"{trial.metrics[metric]:.4f}"
