"""A small sweep that really ran, and its store: what the tests of `experiments.py predict` forecast with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data_pipeline.feed import open_feed
from data_pipeline.series.store import Series, open_series
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import TrialConfig
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.tracking.store import PROJECT, open_client
from tune.tracking.tracker import Tracker
from tune.trial.job import TrialJob
from tune.trial.report import Report, TrialEnd, as_result
from tune.trial.run import run_trial

L, H = 48, 24
SMALL = {
    "data.dataset": "demo", "data.context_length": L, "data.prediction_length": H, "model.d_model": 16,
    "model.num_heads": 4, "model.ffn_dim": 16, "model.attention": "eager", "train.batch_size": 256, "train.epochs": 2,
}  # fmt: skip
PRUNED = {"pruning.score": "magnitude", "pruning.heads_per_layer": 2}
PRUNED_ID = "custom-score=magnitude-s1"


def config(**fields: Any) -> TrialConfig:
    sweep = SweepConfig(name="one", question="?", baseline="a", arms=(Arm(label="a", changes={}),))
    cpu = DeviceFacts(device_type="cpu", name="some CPU")
    return make_plan(sweep, overrides={**SMALL, **fields}, repeats=1, seed=1, device=cpu).trials[0].config


class Trained:
    """A sweep of an unpruned and a pruned trial that really ran, a failed one, and its MLflow store."""

    sweep_id = "pruning-20260101-000000-aaaa"

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        self.final: dict[str, dict[str, Any]] = {}
        self._train("unpruned", config())
        self._train(PRUNED_ID, config(**PRUNED))
        self._record()
        runs = open_client(self.uri).search_runs(["1"], "tags.trial_id LIKE '%'")
        self.run_ids = {run.data.tags["trial_id"]: run.info.run_id for run in runs}

    @property
    def series(self) -> Series:
        return open_series("demo", None, self.folder / "arrow")

    @property
    def winner(self) -> str:
        return min(self.final, key=lambda name: self.final[name]["metrics"]["final/val_mse"])

    def _train(self, trial_id: str, config: TrialConfig) -> None:
        job = TrialJob(
            trial_id=trial_id, config=config, device_type="cpu", data_dir=str(self.folder),
            cache_dir=str(self.folder / "arrow"), cpus=1, sweep_id=self.sweep_id,
        )  # fmt: skip

        def report(content: Report, folder: Path | None) -> None:
            if isinstance(content, TrialEnd):
                assert content.status == "done" and folder is not None, content
                (folder / "model").rename(self.folder / trial_id)
                self.final[trial_id] = as_result(content)

        run_trial(job, report)

    def _record(self) -> None:
        with Tracker(
            outbox_path=self.folder / "outbox.jsonl", tracking_uri=self.uri, experiment=PROJECT,
            artifact_root=str(self.folder / "artifacts"),
        ) as tracker:  # fmt: skip
            tracker.begin_sweep(sweep_id=self.sweep_id, name=self.sweep_id, tags={}, params={}, files={})
            for trial_id in ("unpruned", PRUNED_ID, "failed", "stopped"):
                tracker.plan_trial(trial_id=trial_id, run_name=trial_id, params={}, tags={})
            for trial_id, final in self.final.items():
                tracker.end_trial(
                    trial_id=trial_id, status="done", reason="", metrics=final["metrics"], tags={},
                    model_dir=self.folder / trial_id,
                )  # fmt: skip
            tracker.end_trial(trial_id="failed", status="failed", reason="no luck", metrics={}, tags={}, model_dir=None)
            better = {"final/val_mse": 1e-9}
            tracker.end_trial(
                trial_id="stopped", status="stopped", reason="too slow", metrics=better, tags={}, model_dir=None
            )
            assert tracker.flush(60) == 0 and tracker.problems == []

    def first_test_windows(self, rows: int) -> torch.Tensor:
        """Of the trial's own feed, standardised: past [rows, L, C]."""
        feed = open_feed(
            "device", self.series, context_length=L, prediction_length=H, batch_size=rows,
            device=torch.device("cpu"), seed=1, num_workers=0,
        )  # fmt: skip
        return next(iter(feed.eval_batches("test"))).arrived().past
