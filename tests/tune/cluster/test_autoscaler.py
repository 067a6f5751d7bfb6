"""Waiting for a cluster's workers: what is asked for, said, given up; against a Ray whose nodes join by a clock."""

from __future__ import annotations

import types
from typing import Any

import pytest

from tune.cluster import autoscaler
from tune.cluster.autoscaler import Wanted, wait_for
from tune.cluster.share import Share, choose_share
from tune.common.errors import WrongInput

HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}
H100 = {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}
L4 = {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 1.0}


class GrowingRay:
    """Each node joins at its second; sleeping moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *joins: tuple[float, dict[str, float]]) -> None:
        self.now_s, self.joins = 0.0, joins
        self.asked, self.held = list[dict[str, float]](), 0
        self.util = types.SimpleNamespace(placement_group=self._ask, remove_placement_group=self._drop)
        clock = types.SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep)
        monkeypatch.setattr(autoscaler, "time", clock)

    def nodes(self) -> list[dict[str, Any]]:
        listed = [HEAD, *(node for at_s, node in self.joins if at_s <= self.now_s)]
        return [{"Alive": True, "Resources": node} for node in listed]

    def _ask(self, bundles: list[dict[str, float]]) -> object:
        self.asked += bundles
        self.held += 1
        return object()

    def _drop(self, group: object) -> None:
        self.held -= 1

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_cluster_that_has_what_is_wanted_is_neither_asked_nor_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = GrowingRay(monkeypatch, (0, H100))
    assert wait_for(ray, Wanted(gpu=True), limit_s=600) == [HEAD, H100]
    assert ray.asked == [] and ray.now_s == 0 and capsys.readouterr().err == ""


def test_a_head_alone_asks_for_a_gpu_says_so_and_goes_on_once_one_has_joined(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = GrowingRay(monkeypatch, (70, H100))
    assert wait_for(ray, Wanted(gpu=True), limit_s=600) == [HEAD, H100]
    assert ray.asked == [{"GPU": 1, "CPU": 1}] and ray.held == 0
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first.startswith("waiting for 1 GPU to join the cluster: 0 of at most 600 s (--wait-for-gpus)")
    assert [line.split(":")[1].split()[0] for line in between] == ["30", "60"]
    assert last == "the cluster has 1 GPU, after 70 s"


def test_a_gpu_of_another_model_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = GrowingRay(monkeypatch, (0, L4), (10, H100))
    assert wait_for(ray, Wanted(gpu=True, model="H100"), limit_s=600) == [HEAD, L4, H100]
    assert ray.asked == [{"GPU": 1, "CPU": 1, "accelerator_type:H100": 0.001}] and ray.now_s == 10


def test_what_came_in_time_is_used_and_what_did_not_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = GrowingRay(monkeypatch, (5, H100), (1000, H100))
    assert wait_for(ray, Wanted(gpu=True, count=3), limit_s=45) == [HEAD, H100]
    assert len(ray.asked) == 3 and ray.held == 0 and ray.now_s == 45
    assert capsys.readouterr().err.splitlines()[-1] == "going on with 1 of 3 GPUs: no more within 45 s"


def test_nothing_stays_asked_for_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = GrowingRay(monkeypatch)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(autoscaler.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for(ray, Wanted(gpu=True, count=2), limit_s=600)
    assert len(ray.asked) == 2 and ray.held == 0


def share_of(ray: Any, **asked: Any) -> Share:
    request = {"gpus_per_trial": None, "max_concurrent": None, "joined": True, "wait_s": 60.0, **asked}
    return choose_share(ray, **request)


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ({}, 1),
        ({"max_concurrent": 2}, 2),
        ({"max_concurrent": 3, "gpus_per_trial": 0.5}, 2),
    ],
)
def test_as_many_gpus_are_asked_for_as_trials_are_to_run_at_a_time(
    asked: dict[str, Any], gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = GrowingRay(monkeypatch, (10, H100), (20, H100))
    share = share_of(ray, **asked)
    assert len(ray.asked) == gpus and share.at_a_time == asked.get("max_concurrent", 1)


def test_trials_on_the_cpu_wait_for_a_node_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = GrowingRay(monkeypatch, (10, {"CPU": 8.0}))
    assert share_of(ray, gpus_per_trial=0) == Share(cpus=8, gpus=0, at_a_time=1)
    assert ray.asked == [{"CPU": 1}]


@pytest.mark.parametrize(("asked", "said"), [({}, "the cluster has no GPU"), ({"gpus_per_trial": 0}, "no node has a")])
def test_a_wait_that_reaches_its_limit_ends_in_one_line_that_names_it(
    asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongInput, match=f"{said}.*after --wait-for-gpus 60 seconds") as refused:
        share_of(GrowingRay(monkeypatch), **asked)
    assert "\n" not in str(refused.value)


def test_wrong_input_is_refused_before_any_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = GrowingRay(monkeypatch)
    with pytest.raises(WrongInput, match="--max-concurrent 2: on a CPU"):
        share_of(ray, gpus_per_trial=0, max_concurrent=2)
    assert ray.now_s == 0


def test_ray_started_here_has_no_workers_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = GrowingRay(monkeypatch, (10, H100))
    with pytest.raises(WrongInput, match="Ray sees no GPU on this machine"):
        share_of(ray, joined=False, gpus_per_trial=1)
    assert ray.now_s == 0
