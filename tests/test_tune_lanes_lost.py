"""Blocks on two nodes with a GPU each, one of which goes away: what is left of its block moves, and says so."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from blocks_kit import Sweep, fake_gpus, log, plan_of

pytestmark = pytest.mark.soak
STAYS, GOES = "127.0.0.12", "127.0.0.13"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        fake_gpus(patch)
        head = {"num_cpus": 0, "num_gpus": 0, "node_ip_address": "127.0.0.11", "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=head)
        nodes = {address: found.add_node(num_cpus=2, num_gpus=1, node_ip_address=address) for address in (STAYS, GOES)}
        ray.init(address=found.address, log_to_driver=False, logging_level="CRITICAL")
        found.wait_for_nodes()
        yield lambda: found.remove_node(nodes[GOES], allow_graceful=False)
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def ran(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The node goes away while the second trial of a block runs there."""
    folder = tmp_path_factory.mktemp("lost")
    sweep = Sweep(folder, plan_of(3, 3))

    def remove() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            there = [line for line in log(folder) if GOES in line["gpu"]]
            begun = there and (there[-1]["kind"], there[-1]["epoch"]) == ("epoch", 1)
            if begun and any(line["kind"] == "end" for line in there):
                time.sleep(0.5)  # its checkpoint is stored by now; it takes Ray most of a second to kill a node
                return cluster()
            time.sleep(0.02)

    watcher = threading.Thread(target=remove)
    watcher.start()
    sweep.run(epoch_s=1.0)
    watcher.join()
    return sweep


def test_all_trials_end_though_a_node_was_lost(ran: Sweep) -> None:
    assert Counter(ran.ends.ended.values()) == {"done": 9}
    assert set(ran.ends.epochs) == {(trial.trial_id, epoch) for trial in ran.plan.trials for epoch in (1, 2, 3)}


def test_only_the_block_that_ran_there_is_on_two_gpus(ran: Sweep) -> None:
    split = {seed: gpus for seed, gpus in ran.gpus().items() if len(gpus) > 1}
    assert len(split) == 1
    ((seed, gpus),) = split.items()
    ends = {line["trial_id"]: line["gpu"] for line in ran.log if line["kind"] == "end" and line["seed"] == seed}
    assert Counter(STAYS in gpu for gpu in ends.values()) == {False: 1, True: 2}
    assert ran.folder.blocks()[str(seed)] == next(gpu for gpu in gpus if STAYS in gpu)


def test_the_trials_that_moved_say_why(ran: Sweep) -> None:
    said = [end["tags"].get("moved_because") for end in ran.ends.ends.values()]
    assert Counter(said) == {None: 7, f"GPU-{GOES}-0, on which its block began, is gone": 2}


def test_the_trial_that_ran_there_went_on_from_its_checkpoint_on_the_other_gpu(ran: Sweep) -> None:
    both = {line["trial_id"] for line in ran.log if GOES in line["gpu"]} & {
        line["trial_id"] for line in ran.log if STAYS in line["gpu"]
    }
    (trial,) = both
    epochs = [line for line in ran.log if line["trial_id"] == trial and line["kind"] == "epoch"]
    resumed = [line for line in epochs if STAYS in line["gpu"]]
    assert all(line["attempt_from"] for line in resumed) and resumed[0]["epoch"] > 1
