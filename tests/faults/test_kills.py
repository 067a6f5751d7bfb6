"""SIGKILL of the driver, of a trial's process and of the actor that holds it, with two users of one sweep: nothing is
lost, nothing is there twice, nothing is left behind, and the results are those of an undisturbed run, bit by bit."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
from fault_kit import Faults, soaking
from kill_kit import (
    EPOCHS,
    SWEEP,
    TRIALS,
    actors,
    before_the_end,
    finished,
    fork_servers,
    kill,
    lose,
    orphans,
    private_tmp,
    processes,
    trial_processes,
    undisturbed,
    what_is_wrong,
)
from sweep_kit import Driver, Ran, ended, epochs, run

from tune.common.errors import INTERRUPTED

pytestmark = pytest.mark.timeout(1200)  # on a machine that others load
LOSSES = 2 if soaking() else 1  # of a trial's process, and of an actor


@dataclass
class Attacked:
    """One sweep whose command was given again and again."""

    folder: Path
    moments: random.Random
    tmp: Path
    said: list[tuple[str, str]] = field(default_factory=list)  # each fault, and when it came
    left: list[str] = field(default_factory=list)  # processes that outlived their driver
    refused: str = ""  # what the second user was told
    last: Ran | None = None
    commands: int = 0

    def start(self) -> Driver:
        self.commands += 1
        return Driver(self.folder, f"{self.commands}.log", *SWEEP)

    def kill(self, driver: Driver, when: str) -> None:
        if driver.process.poll() is None:  # else it was through before
            kill(driver)
            self.said.append(("SIGKILL of the driver", when))
        self.left += orphans(self.tmp)

    def kill_within_its_first_second(self) -> None:
        driver, delay_s = self.start(), self.moments.uniform(0.0, 1.0)
        time.sleep(delay_s)
        self.kill(driver, f"{delay_s:.2f} s after its start")

    def two_users_at_once(self) -> Driver:
        """The one that runs it; the other has been refused."""
        users = [self.start(), self.start()]
        while True:
            while not (gone := [user for user in users if user.process.poll() is not None]):
                time.sleep(0.05)
            self.refused = gone[0].log.read_text()
            users.remove(gone[0])
            if "Ray did not start" not in self.refused:
                break
            users.append(self.start())  # the machine was too busy for two of them: that user tries again
        (runs,) = users
        self.said.append(("two users start the same sweep at once", f"{runs.log.name} has it"))
        return runs

    def lose(self, driver: Driver) -> None:
        """Trials' processes and actors, and what they are forked from, in random order."""
        faults = [
            ("SIGKILL of a trial's process", trial_processes),
            ("SIGKILL of the actor of a trial", actors),
        ] * LOSSES
        if soaking():
            faults.append(("SIGKILL of a node's fork server or its owner", fork_servers))
        self.moments.shuffle(faults)
        for fault, find in faults:
            if when := lose(driver, partial(find, self.tmp), self.moments):
                self.said.append((fault, when))

    def until_a_random_moment(self, driver: Driver) -> str:
        """While Ray starts, during the gate, in an epoch, or between two."""
        before, more = len(epochs(self.folder)), self.moments.randint(0, 3)
        before_the_end(driver, lambda: len(epochs(self.folder)) >= before + more)
        delay_s = self.moments.uniform(0.0, 1.0 if more else 20.0)
        time.sleep(delay_s)
        return f"{delay_s:.2f} s after {more} more epochs"

    def kill_in_the_middle(self, driver: Driver) -> None:
        self.kill(driver, self.until_a_random_moment(driver))

    def lose_ray(self, driver: Driver) -> None:
        """The raylet is killed while trials run, and the driver lives."""
        before = len(epochs(self.folder))
        if before_the_end(driver, lambda: len(epochs(self.folder)) > before):
            for process in processes(self.tmp):
                if process.name() == "raylet":
                    process.kill()
            self.said.append(("SIGKILL of Ray on the driver's machine", f"{before + 1} epochs into the sweep"))
        code = driver.process.wait(timeout=200)
        if code != INTERRUPTED and not finished(self.folder):
            self.left.append(f"the driver without Ray ended with {code}")
        self.left += orphans(self.tmp)

    def preempt_the_machine(self, driver: Driver) -> None:
        """SIGTERM to everything, and SIGKILL to what is still there after a while."""
        when, grace_s = self.until_a_random_moment(driver), self.moments.uniform(0.2, 2.0)
        if driver.process.poll() is None:  # else it was through before
            self.said.append(("spot preemption of the driver's machine", f"{when}, SIGKILL {grace_s:.1f} s after"))
        for send in ("terminate", "kill"):
            for process in processes(self.tmp):
                with contextlib.suppress(psutil.NoSuchProcess):
                    getattr(process, send)()
            time.sleep(grace_s)
        driver.process.wait()
        self.left += orphans(self.tmp)

    def kill_while_it_closes(self, driver: Driver) -> None:
        driver.until(lambda: len(ended(self.folder)) == TRIALS)
        delay_s = self.moments.uniform(0.0, 1.5)
        time.sleep(delay_s)
        self.kill(driver, f"{delay_s:.2f} s after the last trial's end")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    with private_tmp() as tmp:
        sweep = Attacked(folder, Faults("kills").moments, tmp)
        sweep.kill_within_its_first_second()
        driver = sweep.two_users_at_once()
        sweep.lose(driver)
        ends = [sweep.kill_in_the_middle]
        if soaking():  # each costs a start of the sweep
            ends.append(sweep.moments.choice([sweep.lose_ray, sweep.preempt_the_machine]))
        sweep.moments.shuffle(ends)
        for end in ends:
            end(driver)
            if finished(folder):
                break
            driver = sweep.start()
        if not finished(folder):
            sweep.kill_while_it_closes(driver)
        if not finished(folder):
            sweep.last = run(folder, *SWEEP)
        sweep.left += orphans(tmp)
        yield sweep


def test_nothing_is_lost_doubled_or_changed_by_kills(attacked: Attacked, faults: Faults) -> None:
    expected = undisturbed()
    wrong = what_is_wrong(attacked.folder, expected, attacked.tmp)
    for fault, when in attacked.said:
        faults.injected(fault, lost=len(wrong), detail=when)
    assert len(expected) == TRIALS
    assert wrong == [], attacked.said


def test_no_process_outlives_its_driver(attacked: Attacked) -> None:
    assert attacked.left == []


def test_the_second_user_of_a_sweep_is_refused_in_one_line(attacked: Attacked) -> None:
    assert "Traceback" not in attacked.refused
    line = attacked.refused.strip().splitlines()[-1]
    assert line.startswith("error: ") and (" is running as process " in line or " has been opening " in line)


def test_the_last_command_goes_on_and_says_so(attacked: Attacked) -> None:
    if attacked.last is not None:
        assert attacked.last.code == 0, attacked.last.err
        assert "resuming custom-" in attacked.last.err and "Traceback" not in attacked.last.err
    assert len(epochs(attacked.folder)) == TRIALS * EPOCHS
