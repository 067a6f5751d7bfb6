"""`run`: a sweep from Python. The command runs it, in a process of its own, and its results come back as frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tune.api.errors import SweepError, Unfinished
from tune.api.sweep import Sweep, load
from tune.commands.parser import store_address
from tune.common.address import settled_uri
from tune.common.errors import DONE, INTERRUPTED, TRIAL_FAILED, WRONG_INPUT, WrongInput
from tune.machine.code_identity import REPO_ROOT

LAST_LINES = 30  # of stderr, which the message of a SweepError has
ERROR = "error: "  # begins the line that says what was wrong
NULLS = ("null", "Null", "NULL", "~")


class TrialsFailed(RuntimeError):
    """A sweep has ended, and a trial of it failed, had too little memory or a loss that was not finite.

    `sweep` holds all results. An arm that cannot run on this machine is no failure: its status is `unsupported`.
    """

    def __init__(self, message: str, sweep: Sweep) -> None:
        super().__init__(message)
        self.sweep = sweep


def run(
    sweep: str | None = None,
    *,
    dataset: str | Path | None = None,
    epochs: int | None = None,
    set: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    seed: int | None = None,
    repeats: int | Literal["auto"] | None = None,
    only: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    target_val_mse: float | None = None,
    no_test: bool = False,
    config: str | Path | None = None,
    data_dir: str | Path | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    gpu_model: str | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    wait_for_gpus: float | None = None,
    fresh: bool = False,
    resume: str | None = None,
    isolate: bool = False,
    save_forecasts: bool = False,
    quiet: bool = False,
) -> Sweep:
    """Run a sweep to its end, or go on with the unfinished one of the same call, and load its results.

    The arguments are the options of the command line. The sweep runs in a process of its own, with this one's
    environment, current folder and Python.

    Args:
        sweep: the sweep's name, such as "pruning". None: the one that `config` names.
        dataset: a name, or the path of a text or Parquet file. None: ETTh1.
        epochs: training epochs of each trial.
        set: field -> value, for every arm, such as {"model.d_model": 64}.
        over: field -> values: every arm runs at each of these, all combinations.
        seed: of the first repeat. None: 1, of benchmark 2021.
        repeats: runs of each arm, each with another seed; "auto": 3 to 10, until each arm's verdicts are reached.
        only: of a table, as benchmark has: only these data sets and cells, such as "ETTh1,ETTm1-96".
        trials: shapes that the full sweep's search trains.
        minutes: begin nothing after this time; the same call goes on later.
        target_val_mse: end the full sweep's search once a shape's validation MSE is at most this.
        no_test: do not read the test set; no trial has test errors.
        config: a YAML file with these; arguments win.
        data_dir: the folder with NAME.csv[.gz]. None: `data` in the current folder.
        storage_path: the folder for sweeps and converted data. None: `runs` in the current folder.
        tracking_uri: the MLflow store. None: MLFLOW_TRACKING_URI, else `mlflow.db` in the current folder.
        address: a running Ray cluster, or "auto". None: Ray is started on this machine.
        gpu_model: the GPU model to use if a cluster has several.
        gpus_per_trial: None: 1 if there is a GPU. 0 runs on the CPU.
        max_concurrent: trials at a time. None: one per GPU.
        wait_for_gpus: the longest wait for a cluster's workers, in seconds. None: 600.
        fresh: start a new sweep even if the same one is unfinished.
        resume: go on with this sweep, also after a change of code.
        isolate: give each trial a new process and empty caches.
        save_forecasts: keep each trial's forecasts of the test set.
        quiet: write no progress to stderr.

    Raises:
        WrongInput: something that cannot be run was asked for; one line says what, what is allowed and what to do.
        TrialsFailed: the sweep has ended and trials of it failed; its `sweep` holds the results.
        Unfinished: the sweep was interrupted, or MLflow lacks records of it; the same call goes on.
        SweepError: the program failed.
        KeyboardInterrupt: after the sweep has stopped; the same call goes on.
    """
    given = {name: value for name, value in locals().items() if name not in ("set", "over", "tracking_uri")}
    return _swept(as_words(given, set or {}, over or {}), store_address(tracking_uri), echo=not quiet)


def _swept(words: Sequence[str], tracking_uri: str, *, echo: bool) -> Sweep:
    """Run the command and load the results. Raises what `run` raises."""
    store = settled_uri(tracking_uri)
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        result = Path(folder) / "result.json"
        code, lines = _ran([*words, "--json", str(result)], store, echo=echo)
        found = json.loads(result.read_text())["sweep_id"] if result.exists() else None
    if code not in (DONE, TRIAL_FAILED) or found is None:
        raise _error(code, lines)
    loaded = load(found, tracking_uri=store)
    if code == TRIAL_FAILED:
        raise TrialsFailed(f"{found}: {_how_they_ended(loaded)}", loaded)
    return loaded


def as_words(given: Mapping[str, Any], fields: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> list[str]:
    """The words of a command line. `given`: option -> value; False and None are left out."""
    words = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    words += [f"--set={name}={_text(value)}" for name, value in fields.items()]
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise WrongInput(f"over {name}={values!r}: give a list of values, such as [64, 128]")
        words.append(f"--over={name}={','.join(_text(value) for value in values)}")
    return words


def _text(value: Any) -> str:
    """A value as the command line reads it. What would be read as another value stands in quotes."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return json.dumps(value) if "," in value or value in NULLS or value[:1] in "\"'[{" else value
    try:
        return json.dumps(value, separators=(",", ":"))
    except TypeError:
        raise WrongInput(f"{value!r} is no value of a field: give a number, a text, None or a list of these") from None


def _ran(words: Sequence[str], store: str, *, echo: bool) -> tuple[int, list[str]]:
    """Run the command; its exit code and the last lines of its stderr, which are written to this stderr as they come.

    A Ctrl-C stops the sweep first. The process has a session of its own, so that a terminal's Ctrl-C reaches it once.
    """
    command = [sys.executable, str(REPO_ROOT / "experiments.py"), *words]
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    lines: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="backslashreplace", start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            for line in process.stderr:
                lines.append(line.rstrip("\n"))
                if echo and not line.startswith(ERROR):
                    print(line, end="", file=sys.stderr, flush=True)
            return process.wait(), list(lines)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            for line in process.stderr:
                if echo:
                    print(line, end="", file=sys.stderr, flush=True)
            process.wait()
            raise


def _error(code: int, lines: Sequence[str]) -> Exception:
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    if code == WRONG_INPUT and said:
        return WrongInput("\n".join(said))
    last = [line for line in lines if line.strip()]
    if code == INTERRUPTED or code > 128:
        return Unfinished(last[-1] if last else "the sweep was interrupted; the same call goes on from here")
    return SweepError(f"the sweep's process ended with exit code {code}:\n" + "\n".join(last))


def _how_they_ended(sweep: Sweep) -> str:
    """2 of 9 trials failed, oom: an arm's reason"""
    bad = sweep.trials[sweep.trials["status"].isin(["failed", "oom", "nan", "failed_gate"])]
    reasons = "; ".join(dict.fromkeys(f"{row.arm}: {row.status}: {row.reason}" for row in bad.itertuples()))
    return f"{len(bad)} of {len(sweep.trials)} trials failed: {reasons}"
