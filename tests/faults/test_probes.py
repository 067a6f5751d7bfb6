"""SIGKILL of the driver during a probe: the same command goes on, and no probe that has ended runs again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_kit import Faults
from full_kit import SMALL, few
from kill_kit import kill, orphans, private_tmp
from sweep_kit import Driver, Ran, ended, epochs, outbox, run

pytestmark = [pytest.mark.soak_only, pytest.mark.timeout(1800)]


@dataclass
class Attacked:
    last: Ran
    before: set[str]  # trials and probes that had ended at the kill
    running: set[str]  # probes that had not
    left: list[str]  # processes that outlived their driver


def _probes(folder: Path) -> set[str]:
    plans = [record for record in outbox(folder) if record["kind"] == "plan"]
    return {record["trial_id"] for record in plans if record["tags"].get("stage") == "probe"}


def _between_two_probes(folder: Path) -> set[str]:
    """Probes that have not ended, once another one has."""
    probes = _probes(folder)
    return probes - ended(folder) if probes & ended(folder) else set()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    folder, faults = tmp_path_factory.mktemp("probes"), Faults("probes")
    program, command = few(folder), [*SMALL, "--trials", "3"]
    with private_tmp() as tmp:
        driver = Driver(folder, "first.log", *command, program=program)
        running = driver.until(lambda: _between_two_probes(folder))
        kill(driver)
        before, left = ended(folder), orphans(tmp)
        last = run(folder, *command, program=program)
    seen = epochs(folder)
    faults.injected("SIGKILL of the driver during a probe", lost=len(seen) - len(set(seen)))
    return Attacked(last, before, running - before, left)


def test_the_same_command_ends_the_same_sweep(attacked: Attacked) -> None:
    assert attacked.last.code == 0, attacked.last.err
    assert len(attacked.last.sweep_ids) == 1 and attacked.last.record().status == "done"
    assert attacked.left == []


def test_a_probe_that_had_ended_is_not_run_again_and_the_others_are(attacked: Attacked) -> None:
    probed = [line.split("] ")[1].split(" ")[0] for line in attacked.last.err.splitlines() if " probed] " in line]
    assert not set(probed) & attacked.before
    assert attacked.running and attacked.running <= set(probed)


def test_every_epoch_and_every_end_is_there_once(attacked: Attacked) -> None:
    records = Counter(
        (record["kind"], record["trial_id"], record.get("epoch"))
        for record in outbox(attacked.last.folder)
        if record["kind"] in ("epoch", "end")
    )
    assert [what for what, count in records.items() if count > 1] == []
