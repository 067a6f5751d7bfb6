"""Worker nodes that are lost or preempted under trials that really train: the sweep goes on by itself, bit by bit."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_kit import Faults
from kill_kit import (
    EPOCHS,
    SWEEP,
    TRIALS,
    before_the_end,
    orphans,
    private_tmp,
    trial_processes,
    undisturbed,
    what_is_wrong,
)
from node_kit import HOW, LOST, PREEMPTED, node_processes
from sweep_kit import Driver, epochs

from tune.machine.device import available_cpus

HEAD, FIRST_WORKER = "127.0.0.20", 21  # of 127.0.0.x: a lost node's address is not used again
pytestmark = [pytest.mark.soak_only, pytest.mark.timeout(1200)]  # on a machine that others load


@dataclass
class Nodes:
    """A cluster with two workers, one of which runs a trial at a time, and a sweep on it."""

    cluster: Any
    tmp: Path
    moments: random.Random
    workers: list[Any] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    added: int = 0

    def add(self) -> None:
        address = f"127.0.0.{FIRST_WORKER + self.added}"
        self.added += 1
        self.workers.append(self.cluster.add_node(num_cpus=available_cpus(), num_gpus=0, node_ip_address=address))

    def lose_the_one_that_works(self, driver: Driver, fault: str) -> None:
        """At a random moment: before a trial's first epoch, in an epoch, or between two."""
        more = self.moments.randint(0, 2)
        before = len(epochs(driver.folder))
        before_the_end(driver, lambda: len(epochs(driver.folder)) >= before + more)
        if (node := before_the_end(driver, self._at_work)) is None:
            return
        time.sleep(self.moments.uniform(0.0, 1.0))
        at = len(epochs(driver.folder))
        self.workers.remove(node)
        self.said.append((fault, f"{HOW[fault](self.cluster, node, self.moments)}, {at} epochs into the sweep"))
        self.add()
        before_the_end(driver, lambda: len(epochs(driver.folder)) > at)

    def _at_work(self) -> Any:
        computing: set[psutil.Process] = set(trial_processes(self.tmp))
        return next((node for node in self.workers if computing & set(node_processes(node))), None)


@dataclass
class Ended:
    code: int
    log: str
    folder: Path
    nodes: Nodes
    left: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("nodes")
    faults = [LOST, PREEMPTED]
    with private_tmp() as tmp:
        head = {"num_cpus": 0, "num_gpus": 0, "node_ip_address": HEAD, "include_dashboard": False}
        nodes = Nodes(Cluster(initialize_head=True, head_node_args=head), tmp, Faults("nodes").moments)
        try:
            nodes.add()
            nodes.add()
            driver = Driver(folder, "log", *SWEEP, "--address", nodes.cluster.address, "--gpus-per-trial", "0")
            nodes.moments.shuffle(faults)
            for fault in faults:
                nodes.lose_the_one_that_works(driver, fault)
            code = driver.process.wait(timeout=300)
        finally:
            nodes.cluster.shutdown()
        yield Ended(code, driver.log.read_text(), folder, nodes, orphans(tmp))


def test_lost_and_preempted_nodes_lose_no_epoch_and_change_no_result(ran: Ended, faults: Faults) -> None:
    wrong = what_is_wrong(ran.folder, undisturbed(), ran.nodes.tmp)
    for fault, when in ran.nodes.said:
        faults.injected(fault, lost=len(wrong), detail=when)
    assert wrong == [], ran.nodes.said
    assert len(epochs(ran.folder)) == TRIALS * EPOCHS


def test_the_sweep_went_on_by_itself(ran: Ended) -> None:
    assert ran.code == 0 and ran.nodes.said, ran.log


def test_nothing_of_a_lost_node_runs_on(ran: Ended) -> None:
    assert ran.left == []
