"""The full sweep as a person runs it: a search, a final, and a driver killed in each of them."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweep_kit import ROOT, Driver, Ran, ended, epochs, run

from tune.tracking.reader import TrialRecord

EPOCHS, DRAWS = 3, 3
SMALL = (  # noqa: SIM905
    "--sweep full --dataset demo --epochs 3 --repeats 1 --set data.context_length=96 --set data.prediction_length=24 "
    "--set model.d_model=32 --set model.ffn_dim=32"
).split()


@dataclass
class Killed:
    """One full sweep whose driver was killed in the search and in the final, and then left to finish."""

    logs: list[str]
    ended_before: list[set[str]]  # before each kill
    last: Ran

    def trials(self, stage: str) -> list[TrialRecord]:
        return [trial for trial in self.last.record().trials if trial.tags.get("stage") == stage]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("full")
    command = [*SMALL, "--trials", str(DRAWS), "--set", "train.learning_rate=0.001"]
    before, logs = [], []
    for number, stage in enumerate(("search", "final")):
        driver = Driver(folder, f"{number}.log", *command)
        driver.until(lambda stage=stage: _running(folder, stage))
        before.append(ended(folder))
        driver.process.send_signal(signal.SIGKILL)
        driver.process.wait()
        logs.append(driver.log.read_text())
    return Killed(logs, before, run(folder, *command))


def _running(folder: Path, stage: str) -> set[str]:
    """Trials of a stage that have reported an epoch and have not ended."""
    between = {trial_id for trial_id, _ in epochs(folder)} - ended(folder)
    return {trial_id for trial_id in between if ("-search-" in trial_id) == (stage == "search")}


def test_the_same_command_finishes_the_same_sweep_after_a_kill_in_either_stage(killed: Killed) -> None:
    assert killed.last.code == 0, killed.last.err
    assert len(killed.last.sweep_ids) == 1
    assert "resuming full-" in killed.logs[1] and "resuming full-" in killed.last.err
    assert killed.last.record().status == "done"


def test_the_search_has_as_many_trials_as_asked_each_a_cell_of_its_own(killed: Killed) -> None:
    trials = killed.trials("search")
    assert [trial.trial_id for trial in trials] == [f"full-search-00{number}-s1" for number in range(1, DRAWS + 1)]
    assert {trial.status for trial in trials} <= {"done", "stopped"}
    assert len({trial.tags["cell"] for trial in trials}) == DRAWS
    (baseline,) = {trial.tags["settings"] for trial in killed.trials("final") if trial.tags["arm"] == "baseline"}
    assert trials[0].tags["settings"] == baseline


def test_the_final_is_the_baseline_and_finished_cells_of_the_search(killed: Killed) -> None:
    trials, cells = killed.trials("final"), {trial.tags["settings"] for trial in killed.trials("search")}
    assert [trial.trial_id for trial in trials if trial.tags["arm"] == "baseline"] == ["full-baseline-s2"]
    others = killed.trials("search")[1:]  # the first is the baseline
    finished = [trial for trial in others if trial.status == "done"] or others
    assert len(trials) == 1 + len(finished) and {trial.status for trial in trials} == {"done"}
    assert {trial.tags["settings"] for trial in trials if trial.tags["arm"] != "baseline"} <= cells


def test_what_had_ended_before_a_kill_is_not_run_again_and_every_epoch_is_there_once(killed: Killed) -> None:
    assert len(killed.ended_before[1] - killed.ended_before[0]) >= DRAWS
    for log, before in zip([killed.logs[1], killed.last.err], killed.ended_before, strict=True):
        assert not [trial_id for trial_id in before if f"{trial_id} started" in log]
    seen = epochs(killed.last.folder)
    assert len(seen) == len(set(seen))
    for trial in killed.last.record().trials:
        if trial.status == "done":
            assert [step for step, _ in trial.history["loss/val_mse"]] == list(range(1, EPOCHS + 1))


def test_the_table_lists_both_stages_and_ends_in_an_answer_from_the_final_only(killed: Killed) -> None:
    out = killed.last.out
    for trial in killed.last.record().trials:
        assert trial.tags["arm"] in out
    assert "no answer: too few pairs (1, 3 needed)" in out
    assert "final: the baseline and " in killed.last.err
    rows = {trial.tags["arm"]: next(line for line in out.splitlines() if f" {trial.tags['arm']} " in line)
            for trial in killed.trials("search")}  # fmt: skip
    for row in rows.values():  # no ratio to a baseline of another time, neither of epochs nor of all training
        cells = [cell.strip() for cell in row.split("│")]
        assert (cells[-4], cells[-2]) == ("-", "-")


def test_what_cannot_run_is_listed_once_for_its_reason(killed: Killed) -> None:
    refused = [trial for trial in killed.last.record().trials if trial.status == "unsupported"]
    assert len({trial.tags["arm"] for trial in refused}) == len(refused)
    assert all(trial.reason for trial in refused)


TWO_CELLS = """
import sys
from dataclasses import replace
sys.path.insert(0, {root!r})
from tune.commands.main import main
from tune.config import sweeps
full = sweeps.full()
rates = tuple(sweeps.Arm(label=f"rate-{{rate:g}}", changes={{"train.learning_rate": rate}}) for rate in (1e-3, 1e-9))
sweeps.SWEEPS["full"] = lambda: replace(full, space={{"rate": rates}})
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def two_cells(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A space of one cell that learns and one that does not; with this seed the first is proposed first."""
    folder = tmp_path_factory.mktemp("two_cells")
    (folder / "two_cells.py").write_text(TWO_CELLS.format(root=str(ROOT)))
    return run(folder, *SMALL, "--trials", "9", "--seed", "1", program=folder / "two_cells.py")


def test_asha_stops_a_trial_that_does_not_learn_and_its_run_says_why(two_cells: Ran) -> None:
    assert two_cells.code == 0, two_cells.err
    trials = {trial.tags["arm"]: trial for trial in two_cells.record().trials}
    stopped = trials["search-002-rate-1e-09"]
    assert stopped.status == "stopped"
    assert stopped.reason.startswith("stopped after epoch 1 by ASHA: validation MSE ")
    assert [step for step, _ in stopped.history["loss/val_mse"]] == [1]
    assert stopped.metrics["final/val_mse"] == stopped.history["loss/val_mse"][0][1]
    assert stopped.metrics["final/median_epoch_s"] > 0 and "final/test_mse" not in stopped.metrics
    assert stopped.tags["device"] == trials["baseline"].tags["device"]


def test_a_space_smaller_than_the_number_of_trials_is_searched_once(two_cells: Ran) -> None:
    arms = [trial.tags["arm"] for trial in two_cells.record().trials]
    assert sorted(arms) == ["baseline", "rate-0.001", "search-001-rate-0.001", "search-002-rate-1e-09"]
