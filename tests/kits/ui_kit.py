"""For tests of the MLflow UI: a recorded sweep in its own store, and `make ui` over that store.

Nothing is trained. The driver's own code records made-up numbers, so the runs look like those of a real sweep.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from port_kit import free_port
from report_kit import timed
from system_kit import system_program

from tune.cluster.share import Share
from tune.config.sweeps import get_sweep
from tune.driver import options as runner_options
from tune.driver import run as runner
from tune.driver.budget import Budget
from tune.driver.collector import Collector
from tune.driver.finish import open_tracker
from tune.machine.device import DeviceFacts
from tune.measure.bottleneck import PARTS
from tune.plan.plan import PlannedTrial, make_plan
from tune.storage import open_sweep
from tune.tracking.store import TrackingError, check_store

ROOT = Path(__file__).resolve().parents[2]
STARTED_WITHIN_S = 120
EPOCHS, SEEDS = 6, 3
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
# A person's earlier clicks: the side bar shows training, and the assistant, which opens by itself, is closed.
CHOSEN = """localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");"""
CHARTS = "[data-testid='experiment-view-compare-runs-card']"
EXPANDER = "button[data-component-id*='runnamecellrenderer']"
DEVICE = DeviceFacts(device_type="cpu", name="no device: made-up numbers")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright, with an empty profile. Skips the test where it is not installed."""
    program = system_program("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield browser
        browser.close()


class Recorded:
    """Replaces the launcher: reports each trial's epochs and end to the collector, as Tune would."""

    share = Share(cpus=1, gpus=1, at_a_time=1)
    budget = Budget()
    isolate = True  # so nothing is warmed up

    def run(self, trials: Sequence[PlannedTrial], collector: Collector, **_: Any) -> None:
        for trial in trials:
            ray_trial = SimpleNamespace(config={"job": {"trial_id": trial.trial_id}})
            for epoch in range(1, EPOCHS + 1):
                collector.on_trial_result(epoch, [], ray_trial, _epoch(trial, epoch))
            collector.on_trial_result(EPOCHS, [], ray_trial, _end(trial))


def _epoch(trial: PlannedTrial, epoch: int) -> dict[str, Any]:
    time_s = _time_s(trial)
    metrics = {
        f"time/{part}_s": share * time_s for part, share in zip(PARTS, (0.8, 0.02, 0.1, 0.06, 0.02), strict=True)
    }
    metrics |= {"loss/val_mse": _mse(trial) + 0.2 * math.exp(-epoch / 2), "loss/train_mse": 0.5 * math.exp(-epoch / 3)}
    metrics |= {"time/train_s": time_s, "time/epoch_s": 1.2 * time_s, "speed/windows_per_s": 8000 / time_s}
    return {"epoch": epoch, "metrics": metrics, "timestamp_ms": 1_700_000_000_000 + 1000 * epoch}


def _end(trial: PlannedTrial) -> dict[str, Any]:
    metrics = {
        **timed(_time_s(trial)),
        "final/val_mse": _mse(trial),
        "final/test_mse": _mse(trial) + 0.1,
    }
    metrics |= {"final/train_total_s": EPOCHS * _time_s(trial), "final/heads": 16, "final/parameters": 21_000}
    tags = {"timing_valid": "true", "device": DEVICE.name}
    return {"status": "done", "reason": "", "metrics": metrics, "tags": tags}


def _time_s(trial: PlannedTrial) -> float:
    noise = random.Random(trial.trial_id).gauss(1, 0.01)
    return 12 / trial.config.model.patch_length**0.5 * noise


def _mse(trial: PlannedTrial) -> float:
    noise = random.Random(trial.trial_id).gauss(0, 0.002)
    return 0.3 + trial.config.model.patch_length / 2000 + noise


def lines(chart: Any) -> Any:
    """The curves of a chart, without the faint second curve that the UI draws of the values before smoothing."""
    return chart.locator(".js-line[style*='stroke-opacity: 1;']")


def store(folder: Path) -> str:
    """The tracking URI of the folder's store."""
    return f"sqlite:///{folder}/mlflow.db"


def record_sweep(folder: Path) -> str:
    """Record the sweep `patch_size` in the folder's store. Returns its id."""
    overrides = {"data.dataset": "demo", "train.epochs": EPOCHS}
    plan = make_plan(get_sweep("patch_size"), overrides=overrides, repeats=SEEDS, seed=1, device=DEVICE)
    content = {
        "sweep": "patch_size",
        "key": "k",
        "created_s": 1.0,
        "tracking_uri": store(folder),
        "trials": [],
        "environment": {"device": DEVICE.name},
    }
    options = runner_options.Options(storage_path=folder, tracking_uri=store(folder), data_dir=folder, quiet=True)
    sweep = open_sweep.create(folder, "patch_size", content)
    while True:  # as a person repeats the command where MLflow was too slow for the driver
        with open_tracker(sweep, options.tracking_uri) as tracker:
            outcome = runner._Run(plan, sweep, Recorded(), options).run(tracker)  # type: ignore[arg-type]
        if not outcome.pending:
            return outcome.sweep_id


class Ui:
    """`make ui` over a folder's store on a free port of 127.0.0.1; a context manager."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url, self._log = f"http://127.0.0.1:{port}", folder / "ui.log"
        self._command = ["make", "--no-print-directory", "-C", str(ROOT), "-o", "setup", "ui"]
        self._command += [f"BIN={Path(sys.executable).parent}", f"STORE={store(folder)}", f"PORT={port}"]

    def __enter__(self) -> Ui:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < deadline:
            try:
                check_store(self.url, timeout_s=1)
                return self
            except TrackingError:
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.2)
        self.__exit__()
        raise TimeoutError(self._log.read_text())

    def said(self) -> list[str]:
        """The lines that the command printed."""
        return self._log.read_text().splitlines()

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)
