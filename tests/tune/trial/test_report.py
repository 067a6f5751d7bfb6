"""Jobs and reports survive the plain values in which Ray Tune takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trial_kit import small_job

from tune.trial.job import TrialJob
from tune.trial.report import EpochReport, Report, TrialEnd, as_result, from_result

BY_TUNE = {"training_iteration": 3, "done": False, "checkpoint_dir_name": "checkpoint_000002"}


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "report",
    [
        EpochReport(epoch=2, metrics={"loss/val_mse": 0.5, "gpu/energy_j": None}, tags={"device": "d"}),
        TrialEnd(status="done", metrics={"final/test_mse": 0.5}, tags={"device": "d"}),
        TrialEnd(status="failed", reason="boom"),
    ],
)
def test_a_report_is_read_from_tunes_result_as_it_was_sent(report: Report) -> None:
    assert from_result(_stored(as_result(report)) | BY_TUNE) == report


def test_a_result_of_tunes_own_holds_no_report() -> None:
    assert from_result(BY_TUNE) is None


def test_a_job_is_read_from_tunes_configuration_as_it_was_sent(tmp_path: Path) -> None:
    job = replace(small_job(tmp_path, train__epochs=2), resume_from=["/c/2"], fork_servers={"node": "/s"})
    assert TrialJob.from_dict(_stored(job.as_dict())) == job
