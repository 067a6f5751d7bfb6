"""Blocks on two GPUs of one node: real Ray and Tune, GPUs that Ray only counts, trials that only sleep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from blocks_kit import EPOCHS, Sweep, fake_gpus, plan_of

from tune.pairs import compare_arms
from tune.report_pairs import run_of

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
    return Sweep(tmp_path_factory.mktemp("ran"), plan_of(2, 4)).run(epoch_s=0.1)


def test_every_pair_is_on_one_gpu_and_all_of_them_count(ran: Sweep) -> None:
    arms: dict[str, list] = {"a0": [], "a1": []}
    for trial in ran.plan.trials:
        end = ran.ends.ends[trial.trial_id]
        arms[trial.arm].append(run_of(end["status"], end["tags"] | {"seed": str(trial.seed)}, end["metrics"]))
    found = compare_arms(arms["a0"], {"a1": arms["a1"]}, margin=0.01)["a1"]
    assert (found.count, found.left_out) == (4, {})
    assert ran.gpus().keys() == SEEDS and all(len(gpus) == 1 for gpus in ran.gpus().values())


def test_both_gpus_are_used_and_none_has_two_trials_at_a_time(ran: Sweep) -> None:
    ends = [line for line in ran.log if line["kind"] == "end"]
    by_gpu = {gpu: sorted((line["began_s"], line["at_s"]) for line in ends if line["gpu"] == gpu)
              for gpu in {line["gpu"] for line in ends}}  # fmt: skip
    assert [len(spans) for spans in by_gpu.values()] == [4, 4]
    for spans in by_gpu.values():
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))
    (first, *_), (second, *_) = by_gpu.values()
    assert first[0] < second[1] and second[0] < first[1]  # at the same time


def test_a_block_runs_in_its_random_order(ran: Sweep) -> None:
    ends = sorted((line for line in ran.log if line["kind"] == "end"), key=lambda line: line["at_s"])
    for seed in SEEDS:
        planned = [trial.trial_id for trial in ran.plan.trials if trial.seed == seed]
        assert [line["trial_id"] for line in ends if line["seed"] == seed] == planned


def test_the_actor_of_a_gpu_is_kept_with_what_it_has_prepared(ran: Sweep) -> None:
    pids = Counter((line["gpu"], line["pid"]) for line in ran.log)
    assert len(pids) == 2


def test_a_trial_that_dies_goes_on_from_its_checkpoint_on_the_same_gpu(tmp_path: Path) -> None:
    plan = plan_of(2, 2)
    victim = plan.trials[0].trial_id
    sweep = Sweep(tmp_path, plan).run(dies=victim)
    assert set(sweep.ends.ended.values()) == {"done"} and len(sweep.ends.ended) == 4
    assert all(len(gpus) == 1 for gpus in sweep.gpus().values())
    lines = [line for line in sweep.log if line["trial_id"] == victim]
    assert len({line["pid"] for line in lines}) == 2
    assert Counter(line["epoch"] for line in lines if line["kind"] == "epoch").most_common(1)[0][1] <= 2
    assert Counter(sweep.ends.epochs)[(victim, EPOCHS)] == 1
    assert "moved_because" not in sweep.ends.ends[victim]["tags"]


def test_a_resumed_sweep_goes_on_with_a_block_on_its_gpu_though_another_comes_first(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, plan_of(2, 2), at_a_time=1)
    sweep.folder.save_blocks({"1": _other_gpu(tmp_path)})
    sweep.run()
    assert sweep.gpus()[1] == {_other_gpu(tmp_path)}
    assert sweep.folder.blocks() == {str(seed): gpu for seed, (gpu,) in sweep.gpus().items()}


def _other_gpu(folder: Path) -> str:
    """The GPU that Ray does not give first."""
    import ray

    return f"GPU-{ray.util.get_node_ip_address()}-1"


def test_where_there_is_nothing_to_pair_all_gpus_are_used(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, plan_of(4, 1)).run(epoch_s=0.3)
    assert len(sweep.gpus()[1]) == 2
    assert sweep.folder.blocks() == {}
