"""SIGTERM, SIGHUP and SIGUSR1 stop a sweep as Ctrl-C does, at any moment: nothing is lost, doubled or left behind."""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fault_kit import Faults
from kill_kit import (
    EPOCHS,
    SWEEP,
    TRIALS,
    actors,
    before_the_end,
    finished,
    kill,
    orphans,
    private_tmp,
    undisturbed,
    what_is_wrong,
)
from signal_kit import SignalledSweep, ray_starts
from sweep_kit import Driver, Ran, ended, epochs, run

pytestmark = [pytest.mark.timeout(3600), pytest.mark.cluster]
MOMENTS = 20  # of a soak


@pytest.fixture(scope="module", autouse=True)
def cores() -> Iterator[None]:
    """As after `ulimit -c unlimited`, if that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def after_an_epoch(sweep: SignalledSweep, driver: Driver) -> None:
    before = len(epochs(sweep.folder))
    driver.until(lambda: len(epochs(sweep.folder)) > before)


def under_nohup(sweep: SignalledSweep) -> Driver:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    driver = sweep.start()
    signal.signal(signal.SIGHUP, before)
    return driver


def runs_in(driver: Driver, sweep: SignalledSweep) -> dict[str, Any] | None:
    """The sweep's row in `list runs` once that says that this driver runs it."""
    row = sweep.row()
    return row if row.get("status") == "running" and str(driver.process.pid) in row["process"] else None


@dataclass
class Signalled:
    """One sweep at fixed moments: stopped, under nohup, listed while it ran, killed, and run to its end."""

    sweep: SignalledSweep
    pid: int
    running: dict[str, Any]  # its row in `list runs` while it ran under this pid
    killed: dict[str, Any]  # after SIGKILL
    last: Ran


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signalled]:
    with private_tmp() as tmp:
        sweep = SignalledSweep(tmp_path_factory.mktemp("signalled"), tmp)
        driver = sweep.start()
        driver.until(ray_starts(tmp))
        sweep.stop(driver, signal.SIGUSR1, "while Ray starts")
        driver = sweep.start()
        driver.until(lambda: actors(tmp))
        sweep.stop(driver, signal.SIGHUP, "before the first epoch, twice", twice=True)
        driver = sweep.start()
        running = driver.until(lambda: runs_in(driver, sweep))
        pid = driver.process.pid
        kill(driver)
        orphans(tmp)
        killed = sweep.row()
        driver = under_nohup(sweep)
        after_an_epoch(sweep, driver)
        sweep.send(driver, signal.SIGHUP, to_all=True)
        after_an_epoch(sweep, driver)  # it goes on
        sweep.stop(driver, signal.SIGTERM, "in an epoch, to all its processes", to_all=True)
        yield Signalled(sweep, pid, running, killed, run(sweep.folder, *SWEEP))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_sweep_with_its_exit_code_and_one_line_and_leaves_nothing(
    signalled: Signalled, number: signal.Signals
) -> None:
    (stop,) = (stop for stop in signalled.sweep.stops if stop.number == number)
    assert stop.wrong() == []


def test_list_runs_tells_running_interrupted_and_killed_sweeps_apart(signalled: Signalled) -> None:
    interrupted = next(stop.row for stop in signalled.sweep.stops if stop.number == signal.SIGTERM)
    assert signalled.running["status"] == "running"
    assert signalled.running["process"] == f"{signalled.pid} on this machine"
    assert (interrupted["status"], interrupted["process"]) == ("interrupted", None)
    assert (signalled.killed["status"], signalled.killed["process"]) == ("dead", None)


def test_nothing_is_lost_doubled_or_changed_by_signals(signalled: Signalled) -> None:
    assert signalled.last.code == 0, signalled.last.err
    assert what_is_wrong(signalled.sweep.folder, undisturbed(), signalled.sweep.tmp) == []


@pytest.mark.soak_only
def test_sigterm_at_random_moments_loses_nothing(tmp_path_factory: pytest.TempPathFactory, faults: Faults) -> None:
    with private_tmp() as tmp:
        wrong: list[str] = []
        sweep = SignalledSweep(tmp_path_factory.mktemp("stopped"), tmp)
        for _ in range(MOMENTS):
            driver = sweep.start()
            when = a_random_moment(sweep, driver, faults.moments)
            to_all = faults.moments.random() < 0.5
            stop = sweep.stop(driver, signal.SIGTERM, f"{when}{', to all its processes' * to_all}", to_all=to_all)
            wrong += stop.wrong(may_be_done=finished(sweep.folder))
            if finished(sweep.folder):
                wrong += what_is_wrong(sweep.folder, undisturbed(), tmp)
                sweep = SignalledSweep(tmp_path_factory.mktemp("stopped"), tmp)
            faults.injected("SIGTERM of the driver", lost=len(wrong), detail=stop.when)
        if epochs(sweep.folder):
            wrong += [] if run(sweep.folder, *SWEEP).code == 0 else ["the last command failed"]
            wrong += what_is_wrong(sweep.folder, undisturbed(), tmp)
    assert wrong == []


def a_random_moment(sweep: SignalledSweep, driver: Driver, moments: random.Random) -> str:
    """In the first imports, while Ray starts, in the gate, in an epoch, between two, or while the sweep closes."""
    kind = moments.choice(["imports", "start", "start", "epoch", "epoch", "close"])
    if kind == "close" and len(epochs(sweep.folder)) < TRIALS * EPOCHS - 4:
        kind = "epoch"
    if kind == "epoch":
        before = len(epochs(sweep.folder))
        before_the_end(driver, lambda: len(epochs(sweep.folder)) > before)
    if kind == "close":
        driver.until(lambda: len(ended(sweep.folder)) == TRIALS)
    delay_s = moments.uniform(0.0, {"imports": 1.0, "start": 15.0, "epoch": 1.0, "close": 2.0}[kind])
    time.sleep(delay_s)
    return f"{kind}, {delay_s:.2f} s later"
