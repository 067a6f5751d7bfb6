"""Blocks on two nodes with a GPU each, one of which is lost: the rest of its block moves, and says so."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from blocks_kit import EPOCHS, Sweep, fake_gpus, log, plan_of
from fault_kit import Faults
from node_kit import HOW, LOST, PREEMPTED

pytestmark = [pytest.mark.soak, pytest.mark.cluster]
STAYS, GOES, ARMS = "127.0.0.12", "127.0.0.13", 3


@dataclass
class Lost:
    """A sweep in which a node was lost while a block ran there."""

    sweep: Sweep
    done: int  # trials of the block that had ended there by then
    how: str

    @property
    def moved(self) -> int:
        return ARMS - self.done


@pytest.fixture(scope="module", params=[LOST, pytest.param(PREEMPTED, marks=pytest.mark.soak_only)])
def fault(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lose(fault: str) -> Iterator[Callable[[random.Random], str]]:
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        fake_gpus(patch)
        head = {"num_cpus": 0, "num_gpus": 0, "node_ip_address": "127.0.0.11", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = {
            address: cluster.add_node(num_cpus=2, num_gpus=1, node_ip_address=address) for address in (STAYS, GOES)
        }
        ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
        cluster.wait_for_nodes()
        yield lambda moments: HOW[fault](cluster, nodes[GOES], moments)
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def ran(fault: str, lose: Callable[[random.Random], str], tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """The node is lost in a random trial of a block, after a random epoch."""
    folder, moments = tmp_path_factory.mktemp("lost"), Faults(f"GPU leases lost, {fault}").moments
    lost = Lost(Sweep(folder, plan_of(ARMS, 3)), moments.randint(0, ARMS - 1), "")
    epoch, delay_s = moments.randint(1, EPOCHS - 1), moments.uniform(0.4, 0.8)  # its checkpoint is stored by then

    def remove() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            there = [line for line in log(folder) if GOES in line["gpu"]]
            ends = sum(line["kind"] == "end" for line in there)
            if ends == lost.done and there and (there[-1]["kind"], there[-1]["epoch"]) == ("epoch", epoch):
                time.sleep(delay_s)
                lost.how = f"{lose(moments)}, {delay_s:.1f} s after epoch {epoch} of trial {1 + lost.done} of its block"
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=remove)
    watcher.start()
    lost.sweep.run(
        epoch_s=1.0 if fault == LOST else 4.0
    )  # a notice and the grace after it take longer than an epoch of 1 s
    watcher.join()
    return lost


def test_all_trials_end_though_a_node_was_lost(ran: Lost, fault: str, faults: Faults) -> None:
    planned = {(trial.trial_id, epoch) for trial in ran.sweep.plan.trials for epoch in range(1, EPOCHS + 1)}
    missing = planned - set(ran.sweep.ends.epochs)
    faults.injected(fault, lost=len(missing), detail=ran.how)
    assert missing == set() and ran.how
    assert Counter(ran.sweep.ends.ended.values()) == {"done": 9}


def test_only_the_block_that_ran_there_is_on_two_gpus(ran: Lost) -> None:
    sweep = ran.sweep
    split = {seed: gpus for seed, gpus in sweep.gpus().items() if len(gpus) > 1}
    assert len(split) == 1
    ((seed, gpus),) = split.items()
    ends = {line["trial_id"]: line["gpu"] for line in sweep.log if line["kind"] == "end" and line["seed"] == seed}
    assert sorted(STAYS in gpu for gpu in ends.values()) == [False] * ran.done + [True] * ran.moved
    assert sweep.folder.blocks()[str(seed)] == next(gpu for gpu in gpus if STAYS in gpu)


def test_the_trials_that_moved_say_why(ran: Lost) -> None:
    said = [end["tags"].get("moved_because") for end in ran.sweep.ends.ends.values()]
    why = f"GPU-{GOES}-0, on which its block began, is gone"
    assert Counter(said) == {None: 9 - ran.moved, why: ran.moved}


def test_the_trial_that_ran_there_continued_from_its_checkpoint_on_the_other_gpu(ran: Lost) -> None:
    lines = ran.sweep.log
    left, joined = ({line["trial_id"] for line in lines if node in line["gpu"]} for node in (GOES, STAYS))
    (trial,) = left & joined
    epochs = [line for line in lines if line["trial_id"] == trial and line["kind"] == "epoch"]
    resumed = [line for line in epochs if STAYS in line["gpu"]]
    assert all(line["attempt_from"] for line in resumed) and resumed[0]["epoch"] > 1
