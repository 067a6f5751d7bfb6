"""The comparison of two versions notices a changed digit, a moved epoch, another status and a missing trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.same_results import main

METRICS = {"loss/val_mse": 0.5, "final/test_mse": 0.4, "final/median_epoch_s": 2.0}


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, trials: tuple[str, ...] = ("a", "b"), status: str = "done", **metrics: float) -> str:
        changed = METRICS | {key.replace("__", "/"): value for key, value in metrics.items()}
        rows = [{"trial_id": trial, "status": status, "metrics": changed} for trial in trials]
        (tmp_path / name).write_text(json.dumps({"trials": rows}))
        return str(tmp_path / name)

    return write


def test_equal_errors_and_times_are_the_same(file: Callable[..., str], capsys: Any) -> None:
    assert main(["--before", file("x"), "--after", file("y", final__median_epoch_s=2.008)]) == 0
    assert "| a | done | the same (2 values) | 1.0040 | one run each |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"loss__val_mse": 0.5000001}, "loss/val_mse: 0.5, 0.5000001"),
        ({"final__median_epoch_s": 2.02}, "1.0100 (moved)"),
        ({"status": "nan"}, "done -> nan"),
        ({"trials": ("a",)}, "| b | not in every file |"),
    ],
    ids=str,
)
def test_what_differs_is_shown_and_ends_in_exit_code_1(
    file: Callable[..., str], capsys: Any, change: dict[str, Any], shown: str
) -> None:
    assert main(["--before", file("x"), "--after", file("y", **change)]) == 1
    assert shown in capsys.readouterr().out


def test_with_several_runs_a_version_the_spread_within_one_is_shown(file: Callable[..., str], capsys: Any) -> None:
    before = [file("x"), file("y", final__median_epoch_s=2.02)]
    assert main(["--before", *before, "--after", file("z", final__median_epoch_s=2.01)]) == 0
    assert "| 1.0000 | 1.00% |" in capsys.readouterr().out
