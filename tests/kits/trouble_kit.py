"""Trouble inside the processes of a real sweep: clocks that jump, arms that need too much, disks that are small.

`Trouble` writes a sitecustomize that Python imports in every process of a sweep. It reads what to do from files in
`Trouble`'s folder when that matters, so a test can begin and end a fault while the sweep runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sweep_kit import ROOT

from tune.commands.sweep import parser as sweep_parser
from tune.config.request import build_request
from tune.machine.device import available_cpus
from tune.plan.plan import make_plan
from tune.trial.job import TrialJob
from tune.trial.report import EpochReport, Report, Reporter
from tune.trial.run import run_trial

SMALL = (  # noqa: SIM905
    "--sweep custom --dataset demo --repeats 1 --set data.context_length=48 --set data.prediction_length=24 "
    "--set model.d_model=16 --set model.num_heads=4 --set model.ffn_dim=16 --set train.batch_size=512"
).split()
BASE = [*SMALL, "--gpus-per-trial", "0"]  # whose losses `undisturbed` computes
IN_EVERY_PROCESS = '''
import importlib.abc, importlib.machinery, os, sys, time

FOLDER = os.environ["TROUBLE_DIR"]
words = " ".join(sys.orig_argv)
ROLE = "trial" if "tune.worker." in words else "driver" if "experiments.py" in words else "other"


def read(name):
    try:
        with open(os.path.join(FOLDER, name)) as file:
            return file.read()
    except OSError:
        return ""


real_ns = time.time_ns
time.time_ns = lambda: real_ns() + int(float(read("clock-" + ROLE) or 0) * 1e9)
time.time = lambda: time.time_ns() / 1e9


class Finder(importlib.abc.MetaPathFinder):
    """Lets tests/kits/arm_trouble.py change the module that trains, once it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "tune.trial.session":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        real = spec.loader.exec_module

        def execute(module):
            real(module)
            import arm_trouble

            arm_trouble.install(module.Session, read)

        spec.loader.exec_module = execute
        return spec


if ROLE == "trial":
    sys.meta_path.insert(0, Finder())
'''


class Trouble:
    """Faults in the sweeps that this test starts from now on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "site").mkdir(parents=True)
        (folder / "site" / "sitecustomize.py").write_text(IN_EVERY_PROCESS)
        places = [str(folder / "site"), str(ROOT / "tests/kits"), os.environ.get("PYTHONPATH")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        monkeypatch.setenv("TROUBLE_DIR", str(folder))

    def shift_clock(self, role: str, seconds: float) -> None:
        """From now on the wall clock of the `driver`, or of every `trial`, is ahead by `seconds`."""
        self._write(f"clock-{role}", str(seconds))

    def in_arms(self, arms: Mapping[str, Mapping[str, Any]]) -> None:
        """Learning rate -> {"fault", "epoch"}: see tests/kits/arm_trouble.py. Epoch None: every epoch."""
        self._write("arms", json.dumps(arms))

    def go_on(self) -> None:
        """Let trials continue that met the fault `pause`, and end that fault."""
        self._write("go-on", "yes")

    def _write(self, name: str, text: str) -> None:
        draft = self.folder / f"{name}.new"
        draft.write_text(text)
        draft.replace(self.folder / name)


class SmallDisk:
    """A file system of its own that can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 9, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def make_room(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """Skips if this process may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def memory_group(limit_mib: int) -> Iterator[Path]:
    """A group in which the kernel kills what needs more memory. Skips if none can be made."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (old if old.is_dir() else new) / f"sweep-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if old.is_dir() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(limit_mib << 20))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory group can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


class Proxy:
    """benchmarks/troubled_proxy.py before `target`, a port of 127.0.0.1."""

    def __init__(self, folder: Path, port: int, target: int) -> None:
        self.uri, self._mode = f"http://127.0.0.1:{port}", folder / "proxy-mode"
        self.mode("healthy")
        program = [sys.executable, str(ROOT / "benchmarks" / "troubled_proxy.py"), str(port), str(target)]
        with (folder / "proxy.log").open("wb") as log:
            self.process = subprocess.Popen([*program, str(self._mode)], stdout=log, stderr=log)

    def mode(self, mode: str) -> None:
        draft = self._mode.with_suffix(".new")
        draft.write_text(mode)
        draft.replace(self._mode)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def undisturbed(arguments: list[str], folder: Path) -> dict[str, list[float]]:
    """Validation losses of each trial of a sweep, computed here without Ray and without trouble."""
    request = build_request(sweep_parser().parse_args(arguments))
    from tune.cluster.probe import assumed_facts

    plan = make_plan(
        request.sweep,
        overrides=request.overrides,
        repeats=request.repeats,
        seed=request.seed,
        device=assumed_facts(0.0),
    )
    losses: dict[str, list[float]] = {}
    for trial in plan.runnable:
        kept = losses.setdefault(trial.trial_id, [])
        job = TrialJob(
            trial_id=trial.trial_id, config=trial.config, device_type="cpu",
            data_dir=str(folder), cache_dir=str(folder / "arrow"), cpus=available_cpus(),
        )  # fmt: skip
        run_trial(job, _keep_losses(kept))
    return losses


def _keep_losses(kept: list[float]) -> Reporter:
    def report(content: Report, folder: Path | None) -> None:
        if isinstance(content, EpochReport):
            kept.append(content.metrics["loss/val_mse"])

    return report
