"""The full sweep as a person runs it: a search, probes, a polish and a final, and a driver killed on the way."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from full_kit import SMALL, few
from sweep_kit import ROOT, Driver, Ran, ended, epochs, read, run

from tune.tracking.reader import TrialRecord

EPOCHS, DRAWS = 2, 3


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
    program = few(folder)
    command = [*SMALL, "--trials", str(DRAWS), "--set", "train.learning_rate=0.001"]
    before, logs = [], []
    for number, stage in enumerate(("search", "final")):
        driver = Driver(folder, f"{number}.log", *command, program=program)
        driver.until(lambda stage=stage: _running(folder, stage))
        before.append(ended(folder))
        driver.process.send_signal(signal.SIGKILL)
        driver.process.wait()
        logs.append(driver.log.read_text())
    return Killed(logs, before, run(folder, *command, program=program))


def _running(folder: Path, stage: str) -> set[str]:
    """Trials of a stage that have reported an epoch and have not ended."""
    between = {trial_id for trial_id, _ in epochs(folder)} - ended(folder)
    return {trial_id for trial_id in between if ("-search-" in trial_id) == (stage == "search")}


def test_the_same_command_finishes_the_same_sweep_after_a_kill_in_either_stage(killed: Killed) -> None:
    assert killed.last.code == 0, killed.last.err
    assert len(killed.last.sweep_ids) == 1
    assert "resuming full-" in killed.logs[1] and "resuming full-" in killed.last.err
    assert killed.last.record().status == "done"


def test_the_search_trains_as_many_shapes_as_asked_and_the_polish_those_beside_the_fastest(killed: Killed) -> None:
    trials = killed.trials("search")
    assert [trial.trial_id for trial in trials] == [f"full-search-00{at}-s1" for at in range(1, len(trials) + 1)]
    assert [trial.trial_id for trial in trials if "polish" not in trial.tags] == [
        f"full-search-00{at}-s1" for at in range(1, DRAWS + 1)
    ]
    assert {trial.status for trial in trials} <= {"done", "stopped"}
    assert len({trial.tags["shape"] for trial in trials}) == len(trials)
    assert trials[0].tags["shape"] == "patch-12-batch-128-none"  # the baseline's


def test_every_probe_is_of_a_trained_shape_and_has_a_time_and_no_error(killed: Killed) -> None:
    probes, shapes = killed.trials("probe"), {trial.tags["shape"] for trial in killed.trials("search")}
    assert {trial.tags["shape"] for trial in probes} <= shapes
    assert len({(trial.tags["work"], trial.tags["way"]) for trial in probes}) == len(probes) >= 3
    for trial in probes:
        assert trial.status == "done" and trial.metrics["final/epoch_all_windows_s"] > 0
        assert "final/val_mse" not in trial.metrics and "final/test_mse" not in trial.metrics


def test_the_final_is_the_baseline_and_cells_of_trained_shapes(killed: Killed) -> None:
    trials, shapes = killed.trials("final"), {trial.tags["shape"] for trial in killed.trials("search")}
    assert [trial.trial_id for trial in trials if trial.tags["arm"] == "baseline"] == ["full-baseline-s2"]
    assert 2 <= len(trials) <= 4 and {trial.status for trial in trials} == {"done"}
    for trial in trials[1:]:
        patch, pruning = trial.params["model.patch_length"], trial.params["pruning.score"]
        assert any(f"patch-{patch}-" in shape and pruning in shape for shape in shapes)


def test_the_result_says_what_the_search_did_and_what_it_found(killed: Killed) -> None:
    content = json.loads((killed.last.folder / "out.json").read_text())["search"]
    assert content["complete"] and content["trained"] == len(killed.trials("search"))
    assert content["probed"] == len(killed.trials("probe"))
    assert "fastest" in " ".join(each["remark"] for each in content["found"])
    assert f"Search: {content['trained']} shapes trained" in killed.last.out


def test_what_had_ended_before_a_kill_is_not_run_again_and_every_epoch_is_there_once(killed: Killed) -> None:
    assert len(killed.ended_before[1] - killed.ended_before[0]) >= DRAWS
    for log, before in zip([killed.logs[1], killed.last.err], killed.ended_before, strict=True):
        assert not [trial_id for trial_id in before if f"{trial_id} started" in log]
    seen = epochs(killed.last.folder)
    assert len(seen) == len(set(seen))
    for trial in killed.last.record().trials:
        if trial.status == "done" and trial.tags["stage"] != "probe":
            assert [step for step, _ in trial.history["loss/val_mse"]] == list(range(1, EPOCHS + 1))


def test_the_table_lists_search_and_final_and_ends_in_an_answer_from_the_final_only(killed: Killed) -> None:
    assert "no answer: too few pairs (1, 3 needed)" in killed.last.out
    assert not [line for line in killed.last.out.splitlines() if line.startswith("search-")]
    out = read(killed.last.folder, "report", "last", "--verbose").out
    for trial in killed.last.record().trials:
        assert (f" {trial.tags['arm']} " in out) == (trial.tags.get("stage") != "probe")
    assert "no answer: too few pairs (1, 3 needed)" in out
    assert "final: the baseline and " in killed.logs[1]
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
    arms = [trial.tags["arm"] for trial in two_cells.record().trials if trial.tags["stage"] != "probe"]
    assert sorted(arms) == ["baseline", "rate-0.001", "search-001-rate-0.001", "search-002-rate-1e-09"]
