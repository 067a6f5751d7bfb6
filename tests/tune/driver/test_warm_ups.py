"""The common warm-up through Ray: what it leaves, what it says, and in which groups its processes run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trial_kit import CPU, SMALL

from tune.cluster.share import Share
from tune.config.sweeps import Arm, SweepConfig
from tune.driver import warm_ups
from tune.driver.launcher import Launcher
from tune.driver.warm_ups import Part, warm_up_together
from tune.plan.plan import Plan, PlannedTrial, make_plan
from tune.storage import open_sweep
from tune.trial.job import GATE, TRAINING

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ARMS = (
    Arm(label="a", changes={}),
    Arm(label="b", changes={"model.patch_length": 24}),
    Arm(label="bad", changes={"model.attention": "sdpa_cudnn"}),  # no CPU kernel
)


def _plan(repeats: int = 2, **changes: Any) -> Plan:
    sweep = SweepConfig(name="s", question="?", baseline="a", arms=ARMS)
    overrides = {**SMALL, "train.epochs": 2, **{name.replace("__", "."): value for name, value in changes.items()}}
    return make_plan(sweep, overrides=overrides, repeats=repeats, seed=1, device=replace(CPU, host_free_gib=64.0))


def _launcher(folder: Path, cpus: int) -> Launcher:
    content = {"key": "k", "created_s": 1.0, "code": {}, "environment": {"device": {}, "versions": {}}}
    return Launcher(
        folder=open_sweep.create(folder / "runs", "s", content), share=Share(cpus=cpus, gpus=0, at_a_time=1),
        device_type="cpu", gpu_name=None, data_dir=folder, cache_dir=folder / "arrow",
        data_sha256=None,  # type: ignore[arg-type]
    )  # fmt: skip


@dataclass
class Warmed:
    launcher: Launcher
    said: list[str]
    said_again: list[str]
    said_with_a_new_arm: list[str]


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warmed]:
    """All arms are warmed up, then again, then one arm more than is known."""
    import ray

    folder, plan, said = tmp_path_factory.mktemp("warm"), _plan(), ([], [], [])
    launcher = _launcher(folder, cpus=4)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    try:
        good = [trial for trial in plan.trials if trial.arm != "bad"]
        warm_up_together(launcher, plan, plan.trials, said[0].append)
        warm_up_together(launcher, plan, good, said[1].append)
        other = _plan(train__learning_rate=0.5)
        warm_up_together(launcher, other, [*good, *other.trials[:1]], said[2].append)
    finally:
        ray.shutdown()
    yield Warmed(launcher, *said)


def test_every_arm_once_and_the_seeds_of_an_arm_share_its_warm_up(warmed: Warmed) -> None:
    assert warmed.said[0] == "3 arms pass the gate and compile, 3 processes at a time; the first trial follows"
    assert sorted(line.split("] ")[1].split()[0] for line in warmed.said[1:]) == ["a", "b", "bad"]
    assert [line.split()[0] for line in warmed.said[1:]] == ["[1/3", "[2/3", "[3/3"]
    assert len(list((warmed.launcher.caches / "gate").glob("*.json"))) == 2


def test_what_fails_beside_others_is_said_with_its_reason_and_left_to_its_first_trial(warmed: Warmed) -> None:
    (line,) = [line for line in warmed.said if " bad " in line]
    assert "no CPU kernel" in line and line.endswith("its first trial tries again, alone")
    assert not warmed.launcher.folder.outbox.exists()  # nothing is recorded


def test_what_is_warm_is_not_warmed_up_again(warmed: Warmed) -> None:
    assert warmed.said_again == []
    assert len(list((warmed.launcher.caches / warm_ups.FOLDER).glob("*.json"))) == 2


def test_one_gate_alone_is_left_to_the_trial(warmed: Warmed) -> None:
    assert warmed.said_with_a_new_arm == []


@pytest.mark.parametrize("change", [{"isolate": True}, {"share": Share(cpus=4, gpus=0, at_a_time=2)}])
def test_isolated_trials_and_shared_devices_have_no_common_warm_up(tmp_path: Path, change: dict[str, Any]) -> None:
    said: list[str] = []
    plan = _plan()
    warm_up_together(replace(_launcher(tmp_path, cpus=4), **change), plan, plan.trials, said.append)
    assert said == []


def _trials(count: int, **changes: Any) -> list[PlannedTrial]:
    plans = (_plan(model__dropout=number / 100, **changes) for number in range(count))
    return [replace(plan.trials[0], arm=f"arm-{number}") for number, plan in enumerate(plans)]


def _gates(trials: list[PlannedTrial]) -> list[Part]:
    return [Part(kind=GATE, trials=(trial,)) for trial in trials]


def test_an_arm_that_compiles_has_two_parts_and_all_trainings_come_first() -> None:
    parts = warm_ups._parts(_trials(2, train__engine="compile"))
    assert [(part.kind, [trial.arm for trial in part.trials]) for part in parts] == [
        (TRAINING, ["arm-0"]), (TRAINING, ["arm-1"]), (GATE, ["arm-0"]), (GATE, ["arm-1"]),
    ]  # fmt: skip
    assert [part.kind for part in warm_ups._parts(_trials(2, train__engine="eager"))] == [GATE, GATE]


def test_arms_that_differ_in_feed_share_a_gate_and_in_workers_what_they_compile_too() -> None:
    feeds = {
        "device": {},
        "arrow-0": {"data__feed": "arrow"},
        "arrow-4": {"data__feed": "arrow", "data__num_workers": 4},
    }
    arms = [replace(_plan(train__engine="compile", **change).trials[0], arm=name) for name, change in feeds.items()]
    assert [(part.kind, [trial.arm for trial in part.trials]) for part in warm_ups._parts(arms)] == [
        (TRAINING, ["device"]), (TRAINING, ["arrow-0", "arrow-4"]), (GATE, ["device", "arrow-0", "arrow-4"]),
    ]  # fmt: skip


class EndlessRay:
    """No task ever ends."""

    def __init__(self) -> None:
        self.cancelled: list[tuple[str, bool]] = []

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return [], references

    def cancel(self, reference: str, *, force: bool) -> None:
        self.cancelled.append((reference, force))


def test_what_does_not_end_is_given_up_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_ups, "LONGEST_S", 0.0)
    ray, (one, two) = EndlessRay(), _gates(_trials(2))
    assert list(warm_ups._results(ray, {"1": one, "2": two})) == [
        (one, 0.0, "it took longer than 0 s"), (two, 0.0, "it took longer than 0 s"),
    ]  # fmt: skip
    assert ray.cancelled == [("1", True), ("2", True)]


@pytest.mark.parametrize(
    ("cores", "device", "at_a_time"),
    [
        (16, {}, 12),  # all parts of six arms
        (4, {}, 6),
        (16, {"host_free_gib": 15.0}, 5),
        (16, {"host_free_gib": 60.0, "gpus": 4}, 5),
        (16, {"host_free_gib": None}, 1),
        (16, {"memory_gib": None}, 1),
        (16, {"memory_gib": 4.0}, 2),  # each needs 1.1 to 1.5 GiB
    ],
)
def test_as_many_processes_at_a_time_as_cores_and_both_memories_hold(
    monkeypatch: pytest.MonkeyPatch, cores: int, device: dict[str, Any], at_a_time: int
) -> None:
    monkeypatch.setattr(warm_ups, "count_gpus", lambda *_: 1)
    gpu = replace(CPU, device_type="cuda", memory_gib=140.0, host_free_gib=100.0, gpus=1)
    plan = replace(_plan(), device=replace(gpu, **device), data=replace(_plan().data, channels=7))
    launcher: Any = SimpleNamespace(share=Share(cpus=cores, gpus=1, at_a_time=1))
    parts = warm_ups._parts(_trials(6, train__engine="compile"))
    assert warm_ups._at_a_time(None, launcher, plan, parts) == at_a_time


def test_one_large_arm_does_not_bound_how_many_small_ones_warm_up_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = {"large": 50.0, "small": 5.0}
    monkeypatch.setattr(warm_ups, "memory_gib", lambda trial, *_: gib[trial.arm])  # of a gate
    gpu = replace(CPU, device_type="cuda", memory_gib=140.0)
    plan = replace(_plan(), device=gpu, data=replace(_plan().data, channels=7))
    one, *others = _trials(9, train__engine="eager")
    arms = [replace(one, arm="large"), *(replace(other, arm="small") for other in others)]
    gates = [(GATE, arm) for arm in arms]
    assert warm_ups.fit_in_memory(plan, gates) == 9  # 90 of 112 GiB
    assert warm_ups.fit_in_memory(plan, gates[:1] * 9) == 2
    assert warm_ups.fit_in_memory(plan, [(TRAINING, one)] * 9) == 9  # what trains needs far less


@pytest.mark.parametrize(
    ("parts", "at_a_time", "sizes"), [(12, 12, [12]), (13, 12, [7, 6]), (22, 12, [11, 11]), (25, 12, [9, 9, 7])]
)
def test_waves_are_few_and_about_equally_large(parts: int, at_a_time: int, sizes: list[int]) -> None:
    all_parts = _gates(_trials(1) * parts)
    waves = warm_ups._waves(all_parts, at_a_time)
    assert [len(wave) for wave in waves] == sizes
    assert [part for wave in waves for part in wave] == all_parts
