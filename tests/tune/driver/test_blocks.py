"""Which trial a free GPU runs next: blocks stay together, no GPU waits in vain, a lost GPU loses no trial."""

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
from tune.driver.blocks import Blocks
from tune.driver.dispatcher import Dispatcher
from tune.driver.gpu_leases import GpuLeases, GpuLocation
from tune.plan.plan import PlannedTrial
from tune.storage.sweep_dir import SweepDir

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
    there = {f"gpu{number}" for number in range(gpus)}
    running: dict[str, PlannedTrial] = {}
    ran: dict[int, list[tuple[str, str]]] = defaultdict(list)
    while not blocks.done:
        for gpu in sorted(there - running.keys(), key=lambda _: chance.random()):
            if turn := blocks.take(gpu, there=there):
                assert turn.moved_because is None
                running[gpu] = turn.trial
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


def test_what_is_left_of_a_block_moves_to_one_gpu_when_its_own_is_gone_and_says_so() -> None:
    blocks, trials, recorded = _blocks(3, 2)
    first, other = blocks.take("a", there={"a", "b"}), blocks.take("b", there={"a", "b"})
    assert first is not None and other is not None
    blocks.put_back(first.trial)
    assert blocks.take("c", there=None) is None  # while it is not known whether `a` comes back, it stays
    moved = [blocks.take("c", there={"b", "c"})]
    assert moved[0] is not None and moved[0].trial == first.trial
    assert moved[0].moved_because == "a, on which its block began, is gone"
    assert recorded == {"1": "c", "2": "b"}
    blocks.ended(moved[0].trial)
    assert (following := blocks.take("c", there={"b", "c"})) is not None
    assert (following.trial, following.moved_because) == (trials[1], moved[0].moved_because)
    assert blocks.take("d", there={"b", "c", "d"}) is None


def test_a_block_that_has_begun_waits_for_its_gpu_and_others_do_not() -> None:
    blocks, trials, _ = _blocks(2, 3, begun={"1": "b", "3": "gone"})
    assert (turn := blocks.take("a", there={"a", "b"})) is not None and turn.trial.seed == 2
    assert (turn := blocks.take("b", there={"a", "b"})) is not None and turn.trial.seed == 1
    assert (turn := blocks.take("c", there={"a", "b", "c"})) is not None and turn.trial.seed == 3
    assert turn.moved_because is not None


def test_the_next_process_is_prepared_only_where_another_trial_may_follow() -> None:
    blocks, _, _ = _blocks(2, 2)
    followed = []
    for gpu in ("a", "b"):
        turn = blocks.take(gpu, there={"a", "b"})
        assert turn is not None
        blocks.ended(turn.trial)
        followed.append(turn.followed)
    for gpu in ("a", "b"):
        turn = blocks.take(gpu, there={"a", "b"})
        assert turn is not None
        followed.append(turn.followed)
    assert followed == [True, True, True, False]  # the third: the other block's last trial might have come to it


def test_the_gpu_of_a_block_is_on_disk(tmp_path: Path) -> None:
    folder = SweepDir(tmp_path)
    assert folder.blocks() == {}
    folder.save_blocks({"1": "GPU-a"})
    assert folder.blocks() == {"1": "GPU-a"} and [file.name for file in tmp_path.iterdir()] == ["blocks.json"]


class FakeLane:
    """A GPU that is there as soon as somebody looks, unless `late`."""

    made: list[FakeLane] = []
    late: set[int] = set()

    def __init__(self, ray: Any, index: int, share: Share) -> None:
        self.index, self.place, self.released = index, None, False
        FakeLane.made.append(self)

    place: GpuLocation | None

    def look(self, living: set[str]) -> None:
        self.place = None if self.index in FakeLane.late else _place(self.index)

    def resources(self) -> dict[str, float]:
        return {"node:address": 0.001}

    def release(self) -> None:
        self.released = True


def _place(number: int) -> GpuLocation:
    return GpuLocation(node_id=f"node{number}", address="address", visible=str(number), uuid=f"gpu{number}")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpu_leases, "Lane", FakeLane)
    monkeypatch.setattr(gpu_leases, "LOOK_S", 0.0)
    FakeLane.made, FakeLane.late = [], set()
    nodes = [{"Alive": True, "NodeID": "node", "Resources": {"GPU": 4.0}}, {"Alive": False, "Resources": {"GPU": 4.0}}]
    return SimpleNamespace(nodes=lambda: nodes)


def test_a_gpu_on_which_a_block_began_is_kept_and_others_are_given_back(ray: Any) -> None:
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as lanes:
        assert len(FakeLane.made) == 4 and lanes.open == []
        lanes.look()
        assert [lane.index for lane in lanes.open] == [3, 0]
        assert [lane.released for lane in FakeLane.made] == [False, True, True, False]
    assert all(lane.released for lane in FakeLane.made)


def test_a_gpu_that_does_not_come_is_not_waited_for_without_end(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLane.late = {3}
    monkeypatch.setattr(gpu_leases, "SETTLED_S", 1e6)
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as waiting:
        waiting.look()
        assert (waiting.open, waiting.there) == ([], None)
    monkeypatch.setattr(gpu_leases, "SETTLED_S", -1.0)
    with GpuLeases(ray, SHARE, most=2, wanted={"gpu3"}) as lanes:
        lanes.look()
        assert lanes.there == {"gpu0", "gpu1"}


def test_without_a_block_that_has_begun_no_more_gpus_are_asked_for_than_are_used(ray: Any) -> None:
    FakeLane.late = {1}
    with GpuLeases(ray, SHARE, most=2, wanted=()) as lanes:
        lanes.look()
        assert len(FakeLane.made) == len(lanes) == 2
        assert [lane.index for lane in lanes.open] == [0] and lanes.there is None  # the first begins at once


@pytest.mark.parametrize("gone", [False, True])
def test_on_the_only_gpu_a_block_goes_on_and_says_so_where_it_began_on_another(ray: Any, gone: bool) -> None:
    ray.nodes = lambda: [{"Alive": True, "NodeID": "node", "Resources": {"GPU": 1.0}}]
    began_on = "gpu9" if gone else "gpu0"
    blocks, trials, recorded = _blocks(2, 2, begun={"1": began_on, "2": "gpu0"})
    with GpuLeases(ray, replace(SHARE, at_a_time=1), most=1, wanted={began_on, "gpu0"}) as lanes:
        dispatcher = Dispatcher(blocks, lanes, lambda turn: {"seed": turn.trial.seed, "why": turn.moved_because})
        handed = []
        for number in range(len(trials)):
            handed.append(dispatcher.suggest(f"t{number}")["job"])
            dispatcher.on_trial_complete(f"t{number}", {"status": "done"})
    why = "gpu9, on which its block began, is gone" if gone else None
    assert [job["seed"] for job in handed] == ([2, 2, 1, 1] if gone else [1, 1, 2, 2])  # its own first
    assert [job["why"] for job in handed if job["seed"] == 1] == [why] * 2
    assert recorded == {"1": "gpu0", "2": "gpu0"}


def test_a_trial_whose_gpu_is_gone_is_handed_out_again_in_a_folder_of_its_own(ray: Any) -> None:
    blocks, trials, _ = _blocks(2, 1)
    with GpuLeases(ray, SHARE, most=2, wanted=()) as lanes:
        dispatcher = Dispatcher(blocks, lanes, lambda turn: {"trial_id": turn.trial.trial_id})
        found = dispatcher.suggest("t1")
        assert (found["job"], found["attempt"]) == ({"trial_id": trials[0].trial_id}, 1)
        assert dispatcher.stranded() == [] and dispatcher.suggest("t2") is None
        FakeLane.late = {int(found["place"]["visible"])}
        assert dispatcher.stranded() == ["t1"]
        dispatcher.on_trial_complete("t1")
        again = dispatcher.suggest("t3")
        assert (again["job"], again["attempt"]) == (found["job"], 2) and again["place"] != found["place"]
        dispatcher.on_trial_complete("t3", {"status": "done"})
        assert dispatcher.suggest("t4")["job"] == {"trial_id": trials[1].trial_id}
        dispatcher.on_trial_complete("t4", error=True)
        assert dispatcher.suggest("t5") == Searcher.FINISHED


@pytest.mark.parametrize(("arms", "repeats", "blocks"), [(2, 2, True), (2, 1, False), (1, 5, False)])
def test_trials_are_spread_over_all_gpus_where_there_is_nothing_to_pair(arms: int, repeats: int, blocks: bool) -> None:
    assert plan_of(arms, repeats).in_blocks is blocks
