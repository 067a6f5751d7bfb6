"""Which trials wait after an epoch until the driver has it: those it may end, and those that share its cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blocks_kit import Sweep, plan_of
from blocks_kit import fake_entry as entry
from secret_kit import PLANTED

from tune.cluster.share import Share
from tune.driver.blocks import Assignment
from tune.driver.launcher import Launcher, _keep_secrets_from_actors


def _launcher(folder: Path, device_type: str) -> tuple[Launcher, Sweep]:
    sweep = Sweep(folder, plan_of(arms=2, repeats=1))
    launcher = Launcher(
        folder=sweep.folder, share=Share(cpus=1, gpus=0, at_a_time=1), device_type=device_type, gpu_name="some GPU",
        data_dir=folder, cache_dir=folder, data_sha256="d", entry=entry,
    )  # fmt: skip
    return launcher, sweep


@pytest.mark.parametrize(("device_type", "waits"), [("cuda", False), ("cpu", True)])
def test_a_trial_of_a_fixed_list_waits_on_a_cpu_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device_type: str, waits: bool
) -> None:
    searchers: list[Any] = []
    monkeypatch.setattr(Launcher, "_fit", lambda self, *args, search_alg, **how: searchers.append(search_alg))
    launcher, sweep = _launcher(tmp_path, device_type)
    launcher.run(sweep.plan.runnable, sweep.collector)
    jobs = [searchers[0].suggest(str(number))["job"] for number in range(2)]
    assert [job["awaits_answer"] for job in jobs] == [waits] * 2
    assert [job["prepare_next"] for job in jobs] == [True, False]
    assignment = Assignment(trial=sweep.plan.trials[0], followed=False, moved_because=None)
    assert launcher._job_of(assignment).awaits_answer is waits


def test_tune_copies_no_secret_of_the_driver_into_its_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution import class_cache

    for name in (*PLANTED, "RAY_CHDIR_TO_TRIAL_DIR"):
        monkeypatch.setenv(name, PLANTED.get(name, "1"))
    fresh = ModuleType("fresh")  # an earlier sweep in this process may have changed Ray's own
    exec(Path(class_cache.__file__).read_text(), fresh.__dict__)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", fresh.ENV_VARS_TO_PROPAGATE | {"AWS_PROFILE"})

    def copied() -> set[str]:
        actor = class_cache._ActorClassCache().get(type("Trainable", (), {}))
        return set(actor._default_options["runtime_env"]["env_vars"])

    assert {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} <= copied()  # by itself
    _keep_secrets_from_actors()
    assert not copied() & PLANTED.keys() and "RAY_CHDIR_TO_TRIAL_DIR" in copied()


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_a_trial_of_a_search_waits_everywhere(tmp_path: Path, device_type: str) -> None:
    launcher, sweep = _launcher(tmp_path, device_type)
    job = launcher.job(sweep.plan.trials[0], prepare_next=True)
    assert (job.awaits_answer, job.gpu_name) == (True, "some GPU")


@pytest.mark.parametrize(("gpus", "in_blocks", "kept"), [(1, True, True), (1, False, False), (0.5, True, False)])
def test_blocks_keep_to_their_gpu_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float, in_blocks: bool, kept: bool
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(Launcher, "_fit", lambda self, *args, **how: ran.append("list"))
    monkeypatch.setattr(Launcher, "_run_blocks", lambda self, *args: ran.append("blocks"))
    launcher, sweep = _launcher(tmp_path, "cuda")
    launcher = replace(launcher, share=replace(launcher.share, gpus=gpus))
    launcher.run(sweep.plan.runnable, sweep.collector, in_blocks=in_blocks)
    assert ran == ["blocks" if kept else "list"]
