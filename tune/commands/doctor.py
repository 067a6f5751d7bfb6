"""`doctor`: what works on this machine, what does not, and how to mend it.

It imports torch and the packages of the attention backends, as only that shows whether they load.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_pipeline.datasets import DATASETS
from data_pipeline.errors import DataError
from tune.commands.parser import Parser, add_folders, add_shared, tracking_uri
from tune.common.address import redacted, settled_uri, sqlite_file
from tune.common.errors import DONE, WRONG_INPUT, WrongInput
from tune.config.sweeps import get_sweep
from tune.config.trial_config import DataConfig
from tune.console.output import check_json_target, write_json
from tune.console.text import table
from tune.machine.device import DeviceFacts, has_gpu, missing_packages, node_facts
from tune.machine.environment import versions
from tune.plan.plan import make_plan
from tune.storage.check_folder import check_storage
from tune.tracking.store import STORE_ANSWERS_WITHIN_S, TrackingError, check_store

DEFAULT_SWEEP = "pruning"
GIB = 2**30
LITTLE_DISK_GIB = 2.0  # a sweep's checkpoints and models are some MiB each, the converted traffic series 60 MiB
LITTLE_SHM_GIB = 1.0  # loader workers hand over slots of up to 256 MiB each (data_pipeline)


def parser() -> Parser:
    parser = Parser(prog="experiments.py doctor", description="Show what works on this machine.", allow_abbrev=False)
    add_folders(parser)
    add_shared(parser)
    return parser


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    kind: str
    name: str
    works: bool | None  # None: not known, or not needed
    found: str  # what it is; if it does not work, why and what to do
    needed: bool = False  # whether the default sweep needs it


def run(arguments: argparse.Namespace) -> int:
    """Print the table; DONE if the default sweep can run here, else WRONG_INPUT."""
    check_json_target(arguments.json)
    checks = list(_checks(arguments.data_dir, arguments.storage_path, tracking_uri(arguments)))
    ready = all(check.works for check in checks if check.needed)
    rows = [
        {"": {True: "ok", False: "NO", None: ""}[check.works], "what": check.kind, "name": check.name,
         "found": check.found}
        for check in checks
    ]  # fmt: skip
    text = sys.stderr if arguments.json == "-" else sys.stdout
    for line in table(["", "what", "name", "found"], rows):
        print(line, file=text)
    print(_conclusion(checks, ready, arguments.data_dir), file=text)
    write_json(arguments.json, {"ready": ready, "checks": [asdict(check) for check in checks]})
    return DONE if ready else WRONG_INPUT


def _conclusion(checks: Iterable[Check], ready: bool, data_dir: Path) -> str:
    if not ready:
        return f"the sweep {DEFAULT_SWEEP} CANNOT run here"
    name = DataConfig().dataset
    if any((check.kind, check.name, check.works) == ("data set", name, True) for check in checks):
        return f"the sweep {DEFAULT_SWEEP} can run here"
    where = f"{name} is downloaded at its first use, or put {name}.csv into {data_dir}"
    return f"the sweep {DEFAULT_SWEEP} can run here once it has its data: {where}; --dataset demo needs none"


def _checks(data_dir: Path, storage: Path, tracking_uri: str) -> Iterator[Check]:
    for package, version in versions().items():
        yield Check(kind="version", name=package, works=None, found=version or "not installed")
    facts = replace(node_facts(use_gpu=has_gpu()), missing=missing_packages(importing=True))
    yield _device(facts)
    for sweep in ("attention", "engine"):
        yield from _arms(sweep, facts)
    for name in DATASETS:
        yield _dataset(name, data_dir)
    yield _store(tracking_uri)
    yield _storage(storage)
    yield _space("disk", storage, LITTLE_DISK_GIB)
    yield _space("shared memory", Path("/dev/shm"), LITTLE_SHM_GIB)  # asked for its size  # nosec B108
    yield _bytecode()
    yield _default_sweep(facts)


def _device(facts: DeviceFacts) -> Check:
    import torch

    if facts.device_type == "cpu":
        found = f"NVML shows no GPU; trials run on the CPU, {facts.cpus} CPUs"
        return Check(kind="device", name=facts.name, works=None, found=found)
    known = f"{facts.gpus} of them, {facts.memory_gib} GiB, compute capability {facts.capability}"
    if torch.cuda.is_available():
        return Check(kind="device", name=facts.name, works=True, found=f"{known}, driver {facts.driver}", needed=True)
    found = f"torch {torch.__version__} cannot use it: install a CUDA build of torch, or give --gpus-per-trial 0"
    return Check(kind="device", name=facts.name, works=False, found=found, needed=True)


def _arms(sweep: str, facts: DeviceFacts) -> Iterator[Check]:
    """Whether each arm of a sweep can run on this device, at the default model."""
    plan = make_plan(get_sweep(sweep), overrides={"data.dataset": "demo"}, repeats=1, seed=1, device=facts)
    for trial in sorted(plan.trials, key=lambda trial: trial.arm):
        works = trial.unsupported is None
        yield Check(kind=sweep, name=trial.arm, works=works, found=trial.unsupported or "works at the default model")


def _dataset(name: str, data_dir: Path) -> Check:
    from data_pipeline.series.store import locate

    spec = DATASETS[name]
    try:
        path = locate(spec, data_dir)
    except DataError as error:
        later = f"not in {data_dir} yet; downloaded at its first use" if spec.urls else str(error)
        return Check(kind="data set", name=name, works=None if spec.urls else False, found=later)
    return Check(kind="data set", name=name, works=True, found="generated" if path is None else str(path))


def _store(tracking_uri: str) -> Check:
    shown = redacted(tracking_uri)
    try:
        check_store(tracking_uri, STORE_ANSWERS_WITHIN_S)
    except TrackingError as error:
        return Check(kind="MLflow store", name=shown, works=False, found=str(error), needed=True)
    settled = settled_uri(tracking_uri)
    there = not settled.startswith("sqlite") or sqlite_file(settled).exists()
    found = "answers" if there else "not there yet, made by the first sweep"
    return Check(kind="MLflow store", name=shown, works=True, found=found, needed=True)


def _storage(storage: Path) -> Check:
    try:
        check_storage(storage)
    except WrongInput as error:
        return Check(kind="storage", name=str(storage), works=False, found=str(error), needed=True)
    return Check(kind="storage", name=str(storage), works=True, found="can be written", needed=True)


def _bytecode() -> Check:
    """Whether Python has stored the bytecode of PyTorch, which stands for all packages."""
    import torch

    spec, name = torch.__spec__, "Python's bytecode"
    if spec is None or spec.cached is None:
        return Check(kind="start-up", name=name, works=None, found="torch does not say where it would be")
    if Path(spec.cached).exists():
        return Check(kind="start-up", name=name, works=True, found="torch is imported from it")
    found = "torch has none, so every process compiles its sources, seconds each time: unset PYTHONDONTWRITEBYTECODE, "
    found += f"or run: python -m compileall -q {shlex.quote(str(Path(torch.__file__).parents[1]))}"
    return Check(kind="start-up", name=name, works=False, found=found)


def _space(kind: str, path: Path, little_gib: float) -> Check:
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if os.path.exists(parent))
    free_gib = shutil.disk_usage(there).free / GIB
    works = free_gib >= little_gib
    more = "" if works else f"; under {little_gib:g} GiB is little: free some"
    return Check(kind=kind, name=str(there), works=works, found=f"{free_gib:.1f} GiB free{more}")


def _default_sweep(facts: DeviceFacts) -> Check:
    plan = make_plan(get_sweep(DEFAULT_SWEEP), overrides={}, repeats=1, seed=1, device=facts)
    found = f"{len(plan.runnable)} of {len(plan.trials)} trials can run"
    works = bool(plan.runnable)
    return Check(kind="sweep", name=DEFAULT_SWEEP, works=works, found=found, needed=True)
