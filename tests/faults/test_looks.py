"""SIGKILL of the driver at a look of `--repeats auto`: the same command makes the look again and goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pytest
from fault_kit import Faults
from kill_kit import SMALL, kill, orphans, private_tmp
from sweep_kit import Driver, Ran, ended, epochs, run

from tune.stats.looks import LOOKS

pytestmark = [pytest.mark.soak_only, pytest.mark.timeout(1200)]
EPOCHS, ARMS = 2, 3
SWEEP = f"--sweep custom --over train.learning_rate=0.001,0.002,0.003 --epochs {EPOCHS}".split() + SMALL


@dataclass
class Attacked:
    last: Ran
    before: list[set[str]]  # trials that had ended at each kill
    left: list[str]  # processes that outlived their driver
    logs: list[str]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """The driver is killed once the last trial before the first look has ended, and again a random moment later."""
    folder, faults = tmp_path_factory.mktemp("looks"), Faults("looks")
    before, left, logs = [], [], []
    with private_tmp() as tmp:
        for number in range(2):
            driver = Driver(folder, f"{number}.log", *SWEEP)
            if number == 0:
                driver.until(lambda: len(ended(folder)) >= ARMS * LOOKS[0].blocks)
            else:
                driver.until(lambda: "look after" in driver.log.read_text())  # noqa: B023
            before.append(ended(folder))
            kill(driver)
            left += orphans(tmp)
            logs.append(driver.log.read_text())
        last = run(folder, *SWEEP, "--json", "result.json")
    seen = epochs(folder)
    faults.injected("SIGKILL of the driver at a look", times=2, lost=len(seen) - len(set(seen)))
    return Attacked(last, before, left, logs)


def test_the_same_command_goes_on_with_the_same_sweep(attacked: Attacked) -> None:
    assert attacked.last.code == 0, attacked.last.err
    assert len(attacked.last.sweep_ids) == 1 and attacked.last.record().status == "done"
    assert attacked.left == []


def test_nothing_that_had_ended_runs_again_and_every_epoch_is_there_once(attacked: Attacked) -> None:
    for log, before in zip([attacked.logs[1], attacked.last.err], attacked.before, strict=True):
        assert not [trial_id for trial_id in before if f"{trial_id} started" in log]
    seen = epochs(attacked.last.folder)
    assert len(seen) == len(set(seen)) == EPOCHS * len(attacked.last.record().trials)


def test_each_arm_ran_until_the_look_that_ended_it_and_the_baseline_as_long_as_any(attacked: Attacked) -> None:
    result = json.loads((attacked.last.folder / "result.json").read_text())
    stops = {arm: each["looks"]["stopped_at"] for arm, each in result["comparisons"].items()}
    blocks = Counter(trial.tags["arm"] for trial in attacked.last.record().trials)
    assert {arm: blocks[arm] for arm in stops} == stops and len(stops) == ARMS - 1
    assert blocks[result["baseline"]] == max(stops.values())


def test_the_look_is_the_same_after_the_kill(attacked: Attacked) -> None:
    said = [[line for line in log.splitlines() if line.startswith("look after 3")] for log in attacked.logs]
    assert len(said[1]) == 1 and (not said[0] or said[0] == said[1])
