"""Which trial a free GPU runs next: blocks stay together, no GPU idles needlessly, a lost GPU loses no trial."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blocks_kit import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from tune.cluster.share import Share
from tune.driver import gpu_leases
from tune.driver.blocks import Assignment, Blocks
from tune.driver.dispatcher import Dispatcher
from tune.driver.gpu_leases import GpuLeases, GpuLocation
from tune.plan.plan import PlannedTrial
from tune.storage.sweep_dir import SweepDir
from tune.trial.job import TrialJob

SHARE = Share(cpus=1, gpus=1, at_a_time=2)


def _blocks(arms: int, repeats: int, begun: dict[str, str] | None = None) -> tuple[Blocks, list[PlannedTrial], dict]:
    trials, recorded = list(plan_of(arms, repeats).trials), dict(begun or {})
    return Blocks(trials, begun=dict(recorded), record=recorded.update), trials, recorded


@settings(max_examples=60, deadline=None)
@given(arms=st.integers(2, 4), repeats=st.integers(1, 7), gpus=st.integers(1, 4), seed=st.integers(0, 2**16))
def test_every_trial_runs_once_in_order_and_on_the_gpu_of_its_block(
    arms: int, repeats: int, gpus: int, seed: int
) -> None:
    chance = random.Random(seed)
    blocks, trials, recorded = _blocks(arms, repeats)
    gpu_names = {f"gpu{number}" for number in range(gpus)}
    running: dict[str, PlannedTrial] = {}
    ran: dict[int, list[tuple[str, str]]] = defaultdict(list)
    while not blocks.done:
        for gpu in sorted(gpu_names - running.keys(), key=lambda _: chance.random()):
            if assignment := blocks.take(gpu, gpus=gpu_names):
                assert assignment.moved_because is None
                running[gpu] = assignment.trial
        begun = {trial.seed for trial in running.values()} | ran.keys()
        assert len(running) == gpus or len(begun) == repeats  # an idle GPU means that no block is left to begin
        gpu = chance.choice(sorted(running))
        trial = running.pop(gpu)
        ran[trial.seed].append((trial.trial_id, gpu))
        blocks.ended(trial)
    assert {trial_id for block in ran.values() for trial_id, _ in block} == {trial.trial_id for trial in trials}
    for number, block in ran.items():
        assert [trial_id for trial_id, _ in block] == [trial.trial_id for trial in trials if trial.seed == number]
        assert {gpu for _, gpu in block} == {recorded[str(number)]}


def test_the_rest_of_a_block_moves_to_one_gpu_if_its_own_is_gone_and_says_so() -> None:
    blocks, trials, recorded = _blocks(3, 2)
    first, other = blocks.take("a", gpus={"a", "b"}), blocks.take("b", gpus={"a", "b"})
    assert first is not None and other is not None
    blocks.put_back(first.trial)
    assert blocks.take("c", gpus=None) is None  # it stays until it is known whether `a` comes back
    moved = [blocks.take("c", gpus={"b", "c"})]
    assert moved[0] is not None and moved[0].trial == first.trial
    assert moved[0].moved_because == "a, on which its block began, is gone"
    assert recorded == {"1": "c", "2": "b"}
    blocks.ended(moved[0].trial)
    assert (following := blocks.take("c", gpus={"b", "c"})) is not None
    assert (following.trial, following.moved_because) == (trials[1], moved[0].moved_because)
    assert blocks.take("d", gpus={"b", "c", "d"}) is None


def test_a_block_that_has_begun_waits_for_its_gpu_and_others_do_not() -> None:
    blocks, trials, _ = _blocks(2, 3, begun={"1": "b", "3": "gone"})
    assert (taken := blocks.take("a", gpus={"a", "b"})) is not None and taken.trial.seed == 2
    assert (taken := blocks.take("b", gpus={"a", "b"})) is not None and taken.trial.seed == 1
    assert (taken := blocks.take("c", gpus={"a", "b", "c"})) is not None and taken.trial.seed == 3
    assert taken.moved_because is not None


def test_the_next_process_is_prepared_only_where_another_trial_may_follow() -> None:
    blocks, _, _ = _blocks(2, 2)
    followed = []
    for gpu in ("a", "b"):
        taken = blocks.take(gpu, gpus={"a", "b"})
        assert taken is not None
        blocks.ended(taken.trial)
        followed.append(taken.followed)
    for gpu in ("a", "b"):
        taken = blocks.take(gpu, gpus={"a", "b"})
        assert taken is not None
        followed.append(taken.followed)
    assert followed == [True, True, True, False]  # the third: the other block's last trial could have followed it


def test_the_gpu_of_a_block_is_on_disk(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path)
    assert folder.blocks() == {}
    folder.save_blocks({"1": "GPU-a"})
    assert folder.blocks() == {"1": "GPU-a"} and [file.name for file in tmp_path.iterdir()] == ["blocks.json"]


class FakeLease:
    """A GPU that is there from the first update on, unless `late`."""

    made: list[FakeLease] = []
    late: set[int] = set()

    def __init__(self, ray: Any, index: int, share: Share) -> None:
        self.index, self.location, self.released = index, None, False
        FakeLease.made.append(self)

    location: GpuLocation | None

    def update(self, living: set[str]) -> None:
        self.location = None if self.index in FakeLease.late else _location(self.index)

    def resources(self) -> dict[str, float]:
        return {"node:address": 0.001}

    def release(self) -> None:
        self.released = True


def _location(number: int) -> GpuLocation:
    return GpuLocation(node_id=f"node{number}", address="address", visible=str(number), uuid=f"gpu{number}")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpu_leases, "GpuLease", FakeLease)
    monkeypatch.setattr(gpu_leases, "POLL_S", 0.0)
    FakeLease.made, FakeLease.late = [], set()
    nodes = [{"Alive": True, "NodeID": "node", "Resources": {"GPU": 4.0}}, {"Alive": False, "Resources": {"GPU": 4.0}}]
    return SimpleNamespace(nodes=lambda: nodes)


def _job(assignment: Assignment) -> TrialJob:
    trial = assignment.trial
    return TrialJob(
        trial_id=trial.trial_id, config=trial.config, device_type="cuda", data_dir="", cache_dir="", cpus=1,
        moved_because=assignment.moved_because,
    )  # fmt: skip


def test_a_gpu_on_which_a_block_began_is_kept_and_others_are_given_back(ray: Any) -> None:
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as leases:
        assert len(FakeLease.made) == 4 and leases.usable == []
        leases.update()
        assert [lease.index for lease in leases.usable] == [3, 0]
        assert [lease.released for lease in FakeLease.made] == [False, True, True, False]
    assert all(lease.released for lease in FakeLease.made)


def test_a_gpu_that_does_not_come_is_not_waited_for_for_ever(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLease.late = {3}
    monkeypatch.setattr(gpu_leases, "SETTLED_S", 1e6)
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as waiting:
        waiting.update()
        assert (waiting.usable, waiting.gpus) == ([], None)
    monkeypatch.setattr(gpu_leases, "SETTLED_S", -1.0)
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as leases:
        leases.update()
        assert leases.gpus == {"gpu0", "gpu1"}


def test_if_no_block_has_begun_no_more_gpus_are_asked_for_than_are_used(ray: Any) -> None:
    FakeLease.late = {1}
    with GpuLeases(ray, SHARE, most=2, wanted=()) as leases:
        leases.update()
        assert len(FakeLease.made) == len(leases) == 2
        assert [lease.index for lease in leases.usable] == [0] and leases.gpus is None  # the first begins at once


@pytest.mark.parametrize("gone", [False, True])
def test_on_the_only_gpu_a_block_continues_and_says_so_if_it_began_on_another(ray: Any, gone: bool) -> None:
    ray.nodes = lambda: [{"Alive": True, "NodeID": "node", "Resources": {"GPU": 1.0}}]
    began_on = "gpu9" if gone else "gpu0"
    blocks, trials, recorded = _blocks(2, 2, begun={"1": began_on, "2": "gpu0"})
    with GpuLeases(ray, replace(SHARE, at_a_time=1), most=1, wanted={began_on, "gpu0"}) as leases:
        dispatcher = Dispatcher(blocks, leases, _job)
        jobs = []
        for number in range(len(trials)):
            jobs.append(dispatcher.suggest(f"t{number}")["job"])
            dispatcher.on_trial_complete(f"t{number}", {"status": "done"})
    why = "gpu9, on which its block began, is gone" if gone else None
    assert [job["config"]["train"]["seed"] for job in jobs] == ([2, 2, 1, 1] if gone else [1, 1, 2, 2])  # its own first
    assert [job["moved_because"] for job in jobs if job["config"]["train"]["seed"] == 1] == [why] * 2
    assert recorded == {"1": "gpu0", "2": "gpu0"}


def test_a_trial_whose_gpu_is_gone_is_handed_out_again_in_a_folder_of_its_own(ray: Any) -> None:
    blocks, trials, _ = _blocks(2, 1)
    with GpuLeases(ray, SHARE, most=2, wanted=()) as leases:
        dispatcher = Dispatcher(blocks, leases, _job)
        first = dispatcher.suggest("t1")
        assert (first["job"]["trial_id"], first["attempt"]) == (trials[0].trial_id, 1)
        assert dispatcher.stranded() == [] and dispatcher.suggest("t2") is None
        FakeLease.late = {int(first["location"]["visible"])}
        assert dispatcher.stranded() == ["t1"]
        dispatcher.on_trial_complete("t1")
        again = dispatcher.suggest("t3")
        assert (again["job"]["trial_id"], again["attempt"]) == (trials[0].trial_id, 2) and again["location"] != first[
            "location"
        ]
        dispatcher.on_trial_complete("t3", {"status": "done"})
        assert dispatcher.suggest("t4")["job"]["trial_id"] == trials[1].trial_id
        dispatcher.on_trial_complete("t4", error=True)
        assert dispatcher.suggest("t5") == Searcher.FINISHED


@pytest.mark.parametrize(("arms", "repeats", "blocks"), [(2, 2, True), (2, 1, False), (1, 5, False)])
def test_trials_are_spread_over_all_gpus_if_there_is_nothing_to_pair(arms: int, repeats: int, blocks: bool) -> None:
    assert plan_of(arms, repeats).in_blocks is blocks


def _refusing(*, at: int) -> tuple[list[tuple[int, bool]], Any]:
    """What a Blocks asks, as (trials left of the block, whether it has begun); the answer is no from `at` on."""
    asked: list[tuple[int, bool]] = []

    def may_begin(block: Any, begun: bool) -> bool:
        asked.append((len(block), begun))
        return len(asked) < at

    return asked, may_begin


def test_a_block_without_time_does_not_begin_and_those_that_run_go_on_to_their_end() -> None:
    trials, refused = list(plan_of(2, 3).trials), [False]
    blocks = Blocks(trials, begun={}, record=lambda _: None, may_begin=lambda block, begun: begun or not refused[0])
    gpus = {"a", "b"}
    first = blocks.take("a", gpus=gpus)
    assert first is not None and first.followed
    refused[0] = True
    assert blocks.take("b", gpus=gpus) is None and not blocks.done
    blocks.ended(first.trial)
    second = blocks.take("a", gpus=gpus)
    assert second is not None and second.trial.seed == first.trial.seed and not second.followed
    refused[0] = False  # as it was refused once, it does not begin later, even if it would fit
    assert blocks.take("b", gpus=gpus) is None and not blocks.done
    blocks.ended(second.trial)
    assert blocks.take("a", gpus=gpus) is None and blocks.done


def test_the_rest_of_a_block_is_asked_for_and_a_refusal_ends_the_run() -> None:
    asked, may_begin = _refusing(at=2)
    blocks = Blocks(list(plan_of(3, 2).trials), begun={}, record=lambda _: None, may_begin=may_begin)
    first = blocks.take("a", gpus={"a"})
    assert first is not None
    blocks.ended(first.trial)
    assert blocks.take("a", gpus={"a"}) is None and blocks.done
    assert asked == [(3, False), (2, True)]
