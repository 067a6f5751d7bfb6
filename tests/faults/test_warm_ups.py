"""SIGKILL of the driver while all arms warm up together: the same command warms up what is left, and runs all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fault_kit import Faults
from kill_kit import SMALL, kill, orphans, private_tmp
from sweep_kit import Driver, Ran, ended, epochs, run

pytestmark = [pytest.mark.soak_only, pytest.mark.timeout(1200)]
EPOCHS, ARMS = 2, 3
SWEEP = (
    f"--sweep custom --over model.patch_length=4,8,12 --epochs {EPOCHS} --repeats 1 --gpus-per-trial 0".split() + SMALL
)
CORES = 4  # as many as a common warm-up needs to run several processes at a time
BEGUN, ONE_WARM = "processes at a time", f"/{ARMS} warm]"


@dataclass
class Attacked:
    last: Ran
    logs: list[str]  # of the commands that were killed
    before: list[set[str]]  # trials that had ended at each kill
    left: list[str]  # processes that outlived everything


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """The driver is killed once the warm-up has begun, then once a first arm is warm."""
    from ray.cluster_utils import Cluster

    folder, faults = tmp_path_factory.mktemp("warm-ups"), Faults("warm-ups")
    logs, before = [], []
    with private_tmp() as tmp:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CORES, "include_dashboard": False})
        command = [*SWEEP, "--address", cluster.address]
        try:
            for number, word in enumerate((BEGUN, ONE_WARM)):
                driver = Driver(folder, f"{number}.log", *command)
                driver.until(lambda: word in driver.log.read_text())  # noqa: B023
                kill(driver)
                logs.append(driver.log.read_text())
                before.append(ended(folder))
            last = run(folder, *command)
        finally:
            cluster.shutdown()
        left = orphans(tmp)
    seen = epochs(folder)
    faults.injected("SIGKILL of the driver in the common warm-up", times=2, lost=ARMS * EPOCHS - len(set(seen)))
    return Attacked(last, logs, before, left)


def test_the_same_command_goes_on_and_every_epoch_is_there_once(attacked: Attacked) -> None:
    assert attacked.last.code == 0, attacked.last.err
    assert len(attacked.last.sweep_ids) == 1 and attacked.last.record().status == "done"
    assert attacked.before == [set(), set()] and attacked.left == []
    seen = epochs(attacked.last.folder)
    assert len(seen) == len(set(seen)) == ARMS * EPOCHS


def test_an_arm_that_was_warm_is_not_warmed_up_again(attacked: Attacked) -> None:
    warm = {line.split("] ")[1].split()[0] for line in attacked.logs[1].splitlines() if ONE_WARM in line}
    again = {line.split("] ")[1].split()[0] for line in attacked.last.err.splitlines() if " warm] " in line}
    assert warm and not warm & again
