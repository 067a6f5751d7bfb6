"""Where an arm's warm-up goes: imports, data, gate, compiling, capturing. First with empty caches, then with full ones.

    python benchmarks/warmup.py --data-dir DIR --json warmup.json               # every arm of the attention sweep
    python benchmarks/warmup.py --dataset demo --arms eager --engine compile --set model.preset=tiny   # a CPU, dry run

Each arm runs twice, each time in a new Python: `fresh` with empty caches of compiled code and gate results, `known`
with those that the first run filled. A run does what a sweep's warm-up does: it opens the data, passes the gate, builds
the training engine, and prunes for the later shapes. The known run then proves the kernels too. Stages count
their own time only, without that of the stages inside. PyTorch's own clocks of its compiler stand beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Stages:
    """Seconds by stage. A stage inside another does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside for `name`."""
        began_s = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took_s = time.perf_counter() - began_s
            own_s = took_s - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own_s
            if self._inner:
                self._inner[-1] += took_s

    def wrap(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        """Count each call of `owner.name` for the stage that `label` names from the call's arguments."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            with self.stage(label(*given, **named)):
                return function(*given, **named)

        setattr(owner, name, timed)


def main() -> None:
    """Run each arm twice in processes of its own, print a table after each, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="attention")
    parser.add_argument("--arms", help="comma-separated (default: all arms of the sweep that run here)")
    parser.add_argument("--engine", help="default: graph on a GPU, else eager")
    parser.add_argument("--dataset", default="ETTh1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        return child(options)
    rows: list[dict[str, Any]] = []
    arms = options.arms.split(",") if options.arms else [trial.arm for trial in planned(options)]
    with tempfile.TemporaryDirectory() as folder:
        for arm in arms:
            for run in ("fresh", "known"):
                rows.append({"arm": arm, "run": run, **run_child(arm, Path(folder) / arm)})
                print_row(rows[-1])
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1))


def planned(options: argparse.Namespace) -> list[Any]:
    """The first trial of each arm that runs here."""
    from tune.config.sweeps import get_sweep
    from tune.config.values import parse_value
    from tune.machine.device import has_gpu, node_facts
    from tune.plan.planner import Planner

    fields: dict[str, Any] = {"data.dataset": options.dataset}
    if options.engine:
        fields["train.engine"] = options.engine
    for item in options.set:
        name, _, text = item.partition("=")
        fields[name] = parse_value(name, text)
    planner = Planner(get_sweep(options.sweep), overrides=fields, repeats=1, seed=1)
    facts = node_facts(use_gpu=has_gpu())
    planner.prepare(
        planner.plan(facts), data_dir=options.data_dir, storage_path=Path(tempfile.gettempdir()), quiet=True
    )
    return list(planner.plan(facts).runnable)


def run_child(arm: str, folder: Path) -> dict[str, Any]:
    """One run of one arm with its caches in `folder`; its stages, or how it failed."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--child", str(folder), "--arms", arm]
    began_s = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True)
    wall_s = time.perf_counter() - began_s
    if ended.returncode:
        return {"wall_s": wall_s, "failed": ended.stderr.strip().splitlines()[-3:]}
    return {"wall_s": wall_s, **json.loads((folder / "stages.json").read_text())}


def print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['arm']} {row['run']}: {row['wall_s']:.1f} s {row.get('failed', '')}", flush=True)
    for kind in ("stages", "gate_clocks", "training_clocks"):
        for name, seconds in sorted(row.get(kind, {}).items(), key=lambda item: -item[1])[:14]:
            if seconds >= 0.05:
                print(f"    {kind[:8]:<9}{name:<44}{seconds:8.2f}", flush=True)


def child(options: argparse.Namespace) -> None:
    """Warm one arm up, and write where the time went."""
    stages = Stages()
    with stages.stage("import torch"):
        import torch
    with stages.stage("import the rest"):
        import transformers  # noqa: F401

        import tune.trial.session  # noqa: F401
        from tune.machine.device import has_gpu
    device_type = "cuda" if has_gpu() else "cpu"
    if device_type == "cuda":
        with stages.stage("device context"):
            (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum().item()
    with stages.stage("plan (not part of a warm-up)"):
        (trial,) = [trial for trial in planned(options) if trial.arm == options.arms]
    if trial.config.train.engine != "eager":
        with stages.stage("import the compiler"):
            import torch._inductor.codecache
            import torch._inductor.compile_fx  # noqa: F401
    gate_clocks = _follow(stages)
    _warm_up(options, stages, trial, device_type, gate_clocks)


def _follow(stages: Stages) -> dict[str, float]:
    """Wrap what a warm-up consists of. Returns the gate's clocks, empty until it has been measured."""
    from tune.engine.graph import GraphStepper
    from tune.engine.step import Stepper
    from tune.gate import numerics
    from tune.trial.session import Session

    def running(arm: Any, *_: Any) -> str:
        who = "fp64 reference" if arm._precision == "fp64" else f"arm with engine {arm._engine}"
        return f"gate: run {who}"

    stages.wrap(numerics._RunningArm, "run", running)
    stages.wrap(numerics._RunningArm, "_warm_stepper", lambda arm, *_: f"gate: build stepper, engine {arm._engine}")
    gate_clocks: dict[str, float] = {}
    close = numerics._RunningArm.close

    def close_and_note(arm: Any) -> None:
        gate_clocks.update(clocks())  # closing resets them
        close(arm)

    numerics._RunningArm.close = close_and_note  # type: ignore[method-assign]
    stages.wrap(numerics, "measure_attention", lambda *_: "gate: attention alone")
    stages.wrap(numerics, "_build", lambda *_: "gate: build models")
    stages.wrap(GraphStepper, "_record", lambda *_: "capture")
    stages.wrap(Session, "_build_stepper", lambda *_: "training: build stepper")
    stages.wrap(Session, "pass_gate", lambda *_: "gate: rest")
    stages.wrap(Session, "prove_kernels", lambda *_: "kernel proof")
    for name in ("_work", "_forecast_work"):
        if hasattr(GraphStepper, name):
            stages.wrap(GraphStepper, name, lambda *_, name=name: f"engine: {name}")
    stages.wrap(Stepper, "preserved", lambda *_: "engine: save state")
    return gate_clocks


def _warm_up(
    options: argparse.Namespace, stages: Stages, trial: Any, device_type: str, gate_clocks: dict[str, float]
) -> None:
    import torch

    from tune.engine.kernel_threads import compiling_ahead
    from tune.trial import compile_cache
    from tune.trial.cache_warmup import must_hand_over
    from tune.trial.job import TrialJob
    from tune.trial.session import Session

    folder = options.child
    job = TrialJob(
        trial_id="warmup",
        config=trial.config,
        device_type=device_type,
        data_dir=str(options.data_dir.absolute()),
        cache_dir=str(folder / "series"),
        cpus=len(os.sched_getaffinity(0)),
        gate_dir=str(folder / "gate"),
        compile_dir=str(folder / "compile"),
    )
    began_s = time.perf_counter()
    with compile_cache.use(Path(job.compile_dir or ""), job.config, torch.device(device_type), isolated=False):
        with stages.stage("open data, build model"):
            session = Session(job, began_s)
        with session, compiling_ahead():  # as a sweep's common warm-up does
            session.pass_gate()
            session.prepare_epoch()
            afresh = must_hand_over(session)
            training_clocks = clocks()
            if not afresh:
                session.prove_kernels()
    content = {
        "device": torch.cuda.get_device_name() if device_type == "cuda" else "cpu",
        "torch": torch.__version__,
        "engine": trial.config.train.engine,
        "hands_over": afresh,
        "stages": stages.seconds,
        "gate_clocks": gate_clocks,
        "training_clocks": training_clocks,
    }
    (folder / "stages.json").write_text(json.dumps(content))


def clocks() -> dict[str, float]:
    """Seconds by phase of PyTorch's compiler so far in this process; phases contain each other."""
    if "torch._dynamo.utils" not in sys.modules:
        return {}
    return {name: sum(times) for name, times in sys.modules["torch._dynamo.utils"].compilation_time_metrics.items()}


if __name__ == "__main__":
    main()
