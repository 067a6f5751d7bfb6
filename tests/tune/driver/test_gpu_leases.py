"""Blocks on two GPUs of one node. Ray and Tune are real, Ray only counts the GPUs, and the trials only sleep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from blocks_kit import EPOCHS, Sweep, fake_gpus, plan_of

from tune.cluster.share import Share
from tune.config.repeats import AUTO
from tune.driver.launcher import MAX_RETRIES
from tune.report.comparisons import trial_result
from tune.stats.pairs import compare_arms

pytestmark = pytest.mark.cluster

SEEDS = {1, 2, 3, 4}


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:
        fake_gpus(patch)
        ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False,
                 logging_level="CRITICAL")  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two seeds had begun on the GPU that Ray gives last; a trial of another seed is killed."""
    sweep = Sweep(tmp_path_factory.mktemp("ran"), plan_of(2, 4))
    sweep.folder.save_blocks(dict.fromkeys("12", _gpu(1)))
    return sweep.run(epoch_s=0.1, dies=_victim(sweep))


def _gpu(number: int) -> str:
    import ray

    return f"GPU-{ray.util.get_node_ip_address()}-{number}"


def _victim(sweep: Sweep) -> str:
    return next(trial.trial_id for trial in sweep.plan.trials if trial.seed == 3)


def test_every_pair_is_on_one_gpu_and_all_of_them_count(ran: Sweep) -> None:
    arms: dict[str, list] = {"a0": [], "a1": []}
    for trial in ran.plan.trials:
        end = ran.ends.ends[trial.trial_id]
        arms[trial.arm].append(trial_result(end["status"], end["tags"] | {"seed": str(trial.seed)}, end["metrics"]))
    comparison = compare_arms(arms["a0"], {"a1": arms["a1"]}, margin=0.01)["a1"]
    assert (comparison.count, comparison.left_out) == (4, {})
    assert ran.gpus().keys() == SEEDS and all(len(gpus) == 1 for gpus in ran.gpus().values())


def test_both_gpus_are_used_and_none_has_two_trials_at_a_time(ran: Sweep) -> None:
    last = {line["began_s"]: line for line in ran.log}  # of every trial, one that was killed included
    by_gpu = {gpu: sorted((began_s, line["at_s"]) for began_s, line in last.items() if line["gpu"] == gpu)
              for gpu in (_gpu(0), _gpu(1))}  # fmt: skip
    assert sum(len(periods) for periods in by_gpu.values()) == 8 + 1
    for periods in by_gpu.values():
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(periods))
    (first, *_), (second, *_) = by_gpu.values()
    assert first[0] < second[1] and second[0] < first[1]  # at the same time


def test_a_block_runs_in_its_random_order(ran: Sweep) -> None:
    ends = sorted((line for line in ran.log if line["kind"] == "end"), key=lambda line: line["at_s"])
    for seed in SEEDS:
        planned = [trial.trial_id for trial in ran.plan.trials if trial.seed == seed]
        assert [line["trial_id"] for line in ends if line["seed"] == seed] == planned


def test_a_resumed_sweep_goes_on_with_its_blocks_on_their_gpus(ran: Sweep) -> None:
    assert [ran.gpus()[seed] for seed in (1, 2, 3)] == [{_gpu(1)}, {_gpu(1)}, {_gpu(0)}]
    assert ran.folder.blocks() == {str(seed): gpu for seed, (gpu,) in ran.gpus().items()}


def test_the_actor_of_a_gpu_is_kept_with_its_prepared_process_until_it_dies(ran: Sweep) -> None:
    pids = {(line["gpu"], line["pid"]) for line in ran.log}
    assert Counter(gpu for gpu, _ in pids) == {_gpu(1): 1, _gpu(0): 2}


def test_a_trial_that_dies_continues_from_its_checkpoint_on_the_same_gpu(ran: Sweep) -> None:
    victim = _victim(ran)
    lines = [line for line in ran.log if line["trial_id"] == victim]
    assert len({line["pid"] for line in lines}) == 2
    assert {line["gpu"] for line in lines} == {_gpu(0)}
    assert next(line["epoch"] for line in lines if line["kind"] == "epoch" and line["pid"] == lines[-1]["pid"]) > 1
    assert Counter(ran.ends.epochs)[(victim, EPOCHS)] == 1
    assert not [end for end in ran.ends.ends.values() if "moved_because" in end["tags"]]


def test_a_trial_that_makes_progress_each_time_may_be_lost_more_often_than_it_is_retried(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, plan_of(1, 2))
    victim = sweep.plan.trials[0].trial_id
    sweep.run(epoch_s=0.0, dies=victim, ever_again=True, meet=1)
    lost = sum(line["kind"] == "begin" for line in sweep.log if line["trial_id"] == victim) - 1
    assert lost == EPOCHS > MAX_RETRIES
    assert set(sweep.ends.ended.values()) == {"done"}


def test_one_gpu_at_a_time_is_recorded_with_its_blocks_and_keeps_its_actor(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, plan_of(2, 2))
    sweep.launcher = replace(sweep.launcher, share=Share(cpus=1, gpus=1, at_a_time=1))
    sweep.run(epoch_s=0.0, meet=1)
    (gpu,) = {line["gpu"] for line in sweep.log}
    assert sweep.folder.blocks() == dict.fromkeys("12", gpu)
    assert set(sweep.ends.ended.values()) == {"done"} and len({line["pid"] for line in sweep.log}) == 1


def test_looks_end_a_sweep_and_only_announced_trials_have_run(tmp_path: Path) -> None:
    """Both arms take the same time, so the first look decides; a free GPU may have begun one more block before it."""
    sweep = Sweep(tmp_path, plan_of(2, AUTO)).run(epoch_s=0.05)
    ran = {line["trial_id"] for line in sweep.log}
    assert ran == sweep.ends.ended.keys() == sweep.ends.trials.keys()
    first = {trial.trial_id for trial in sweep.plan.trials if trial.seed <= 3}
    assert first <= ran and len(ran - first) <= 4
    assert all(len(gpus) == 1 for gpus in sweep.gpus().values())
