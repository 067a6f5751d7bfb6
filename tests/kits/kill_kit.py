"""A small real sweep that is attacked from outside, its expected results, and what is wrong with the actual ones."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_kit import soaking
from sweep_kit import Driver, Ran, ended, epochs, outbox

from model.patchtst import load_model
from tune.commands.sweep import parser as sweep_parser
from tune.config.request import build_request
from tune.machine.device import DeviceFacts, available_cpus
from tune.plan.plan import make_plan
from tune.tracking.store import SPANS
from tune.trial.job import TrialJob
from tune.trial.report import Report
from tune.trial.run import run_trial

TRIALS, EPOCHS = 3, 6 if soaking() else 4
SMALL = (  # noqa: SIM905 - of any sweep, so that a trial takes seconds
    "--dataset demo --set data.context_length=48 --set data.prediction_length=24 --set model.d_model=16 "
    "--set model.num_heads=4 --set model.ffn_dim=16 --set train.batch_size=256"
).split()
SWEEP = f"--sweep custom --epochs {EPOCHS} --over train.learning_rate=0.001,0.002,0.003 --repeats 1".split() + SMALL
GONE_WITHIN_S = 60.0
OF_A_CHECKPOINT = ("state.pt", "moments.safetensors", "best.safetensors", "steps.arrow")


@contextlib.contextmanager
def private_tmp() -> Iterator[Path]:
    """A temporary folder for all processes started inside, Ray's among them. It identifies them: what still runs at the
    end is killed, and the folder is removed."""
    folder = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))  # short: Ray's sockets lie in it, whose paths are limited
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder
    for process in processes(folder):
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def processes(tmp: Path) -> list[psutil.Process]:
    """All living processes that were started, directly or not, with this folder for temporary files."""
    living = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and _is_of(process, str(tmp)):
                living.append(process)
    return living


def _is_of(process: psutil.Process, tmp: str) -> bool:
    """Ray's workers write a title over their environment, but their output still goes to a file there."""
    if process.environ().get("TMPDIR") == tmp:
        return True
    return os.readlink(f"/proc/{process.pid}/fd/1").startswith(f"{tmp}/")


def orphans(tmp: Path) -> list[str]:
    """Command lines of what still runs of a sweep whose driver is gone, after it had time to notice."""
    until = time.monotonic() + GONE_WITHIN_S
    while (left := processes(tmp)) and time.monotonic() < until:
        time.sleep(0.1)
    return [" ".join(process.cmdline())[:200] for process in left if process.is_running()]


def kill(driver: Driver) -> None:
    """SIGKILL of the driver alone, not of what it has started."""
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()


def trial_processes(tmp: Path) -> list[psutil.Process]:
    """Those that compute a trial or are prepared to, and the fork servers, whose command line forks keep."""
    return _with_words(tmp, "tune.worker.")


def fork_servers(tmp: Path) -> list[psutil.Process]:
    """Fork servers, and the Ray actors that own one."""
    servers = _with_words(tmp, "NodeForkServer")
    for process in _with_words(tmp, "tune.worker.forkserver"):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if parent is None or "tune.worker.forkserver" not in " ".join(parent.cmdline()):  # else it is a fork
                servers.append(process)
    return servers


def actors(tmp: Path) -> list[psutil.Process]:
    """Ray's actors, each of which owns a trial's process."""
    return _with_words(tmp, "ImplicitFunc")


def _with_words(tmp: Path, words: str) -> list[psutil.Process]:
    matching = []
    for process in processes(tmp):
        with contextlib.suppress(psutil.Error):
            if words in " ".join(process.cmdline()):
                matching.append(process)
    return matching


def before_the_end(driver: Driver, condition: Callable[[], Any]) -> Any:
    """What `condition` returns, once that is true; None if the driver or the last trial ends before."""
    while driver.process.poll() is None and len(ended(driver.folder)) < TRIALS:
        if result := condition():
            return result
        time.sleep(0.02)
    return None


def lose(driver: Driver, find: Callable[[], list[psutil.Process]], moments: random.Random) -> str | None:
    """Kill one of the processes that `find` finds, at a random moment of a trial's life. Returns which and when; None
    if the sweep ended before."""
    before = len(epochs(driver.folder))
    phase = moments.choice(["as soon as it is there", "after an epoch"])
    if phase == "after an epoch":
        before_the_end(driver, lambda: len(epochs(driver.folder)) > before)
    time.sleep(moments.uniform(0.0, 0.5))
    if not (candidates := before_the_end(driver, find)):
        return None
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
        moments.choice(candidates).kill()
    at = len(epochs(driver.folder))
    before_the_end(driver, lambda: len(epochs(driver.folder)) > at)
    return f"{phase}, {at} epochs into the sweep"


def finished(folder: Path) -> bool:
    """Whether the sweep's record says that it is finished: its command would start a new one."""
    return [json.loads(file.read_text())["state"] for file in (folder / "runs").glob("*/sweep.json")] == ["finished"]


@functools.cache
def undisturbed() -> dict[str, float]:
    """The test error of each trial, computed here and now, one after another, without Ray."""
    with tempfile.TemporaryDirectory() as folder:
        return _test_errors(Path(folder))


def _test_errors(folder: Path) -> dict[str, float]:
    request = build_request(sweep_parser().parse_args(SWEEP))
    device = DeviceFacts(device_type="cpu", name="some CPU")
    asked = {"overrides": request.overrides, "repeats": request.repeats, "seed": request.seed}
    errors = {}
    for trial in make_plan(request.sweep, device=device, **asked).trials:
        job = TrialJob(
            trial_id=trial.trial_id, config=trial.config, device_type="cpu",
            data_dir=str(folder), cache_dir=str(folder / "arrow"), cpus=available_cpus(), gate_dir=str(folder / "gate"),
        )  # fmt: skip
        reports: list[Report] = []
        run_trial(job, lambda report, _, reports=reports: reports.append(report))
        errors[trial.trial_id] = reports[-1].metrics["final/test_mse"]
    return errors


def what_is_wrong(folder: Path, expected: Mapping[str, float], tmp: Path) -> list[str]:
    """A line for each thing that a finished sweep lacks, has twice, has other than `expected`, or left behind."""
    ran = Ran(folder, 0, "", "")
    if len(ran.sweep_ids) != 1:
        return [f"the sweeps are {ran.sweep_ids}"]
    trials = {trial.trial_id: trial for trial in ran.record().trials}
    wrong = [f"{name} is not of the plan" for name in trials.keys() - expected.keys()]
    for name, error in expected.items():
        if name not in trials or trials[name].status != "done":
            wrong.append(f"{name} is {trials[name].status if name in trials else 'not there'}")
        elif trials[name].metrics["final/test_mse"] != error:
            wrong.append(f"{name} has test MSE {trials[name].metrics['final/test_mse']!r}, not {error!r}")
    return wrong + _in_the_store(ran) + _on_disk(folder, tmp)


def _in_the_store(ran: Ran) -> list[str]:
    """Runs, points of every metric, and models, as MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(ran.uri)
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    wrong = [] if len(runs) == 1 + TRIALS else [f"MLflow has {len(runs)} runs"]
    for run in runs:
        once = [0]
        allowed = (once, list(range(1, EPOCHS + 1))) if "trial_id" in run.data.tags else (once,)
        for key in run.data.metrics:
            steps = sorted(point.step for point in client.get_metric_history(run.info.run_id, key))
            # Counts from the epoch before in the same process: a process's first epoch has none. A span: one each time
            any_steps = key == "time/between_s" or key.startswith(SPANS)
            expected = len(steps) == len(set(steps)) if any_steps else steps in allowed
            if not expected:
                wrong.append(f"{run.info.run_name}: {key} has the steps {steps}")
    models = client.search_logged_models([experiment.experiment_id])
    if Counter(str(model.status) for model in models) != {"READY": TRIALS}:
        wrong.append(f"the models are {[(model.source_run_id, str(model.status)) for model in models]}")
    return wrong


def _on_disk(folder: Path, tmp: Path) -> list[str]:
    """The sweep's own record, and files that nobody would remove."""
    wrong = [] if finished(folder) else ["the sweep is not finished"]
    records = Counter(
        (record["kind"], record["trial_id"], record.get("epoch"))
        for record in outbox(folder)
        if record["kind"] in ("epoch", "end")
    )
    wrong += [f"{what} is {count} times in the outbox" for what, count in records.items() if count > 1]
    if records.total() != TRIALS * (EPOCHS + 1):
        wrong.append(f"the outbox has {records.total()} epochs and ends")
    for model in (folder / "runs" / "mlartifacts").glob("models/*/artifacts/model/config.json"):
        load_model(model.parent)
    unfinished = [path for path in (folder / "runs").rglob("*") if path.suffix in (".tmp", ".new", ".part")]
    unfinished += (folder / "runs").glob("arrow/.*-*")
    # MLflow's client writes texts there to send them, which a killed driver cannot remove
    unfinished += [path for name in OF_A_CHECKPOINT for path in tmp.glob(f"tmp*/**/{name}")]
    return wrong + [f"{path} was left" for path in unfinished]
