"""SIGKILL of `train` during two of its trainings: the same command goes on, and ends with the same model to the bit."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_kit import Faults
from kill_kit import SMALL, kill, orphans, private_tmp
from sweep_kit import Driver, Ran, epochs, outbox, run

pytestmark = [pytest.mark.soak_only, pytest.mark.timeout(1200)]
EPOCHS = 30  # at most: patience ends each training earlier
TRAIN = f"train --epochs {EPOCHS} --patience 2 --seeds 2 --set train.learning_rate=0.02".split() + SMALL
AFTER = {"train-model-s1": 3, "train-model-s2": 2}  # epochs of each training before its kill
OF_THIS_RUN = re.compile(r"train-\d{8}-\d{6}-\w{4}")


@dataclass
class Attacked:
    whole: Ran
    """The command without a kill."""
    last: Ran
    """The last command of the killed training."""
    left: list[str]  # processes that outlived their driver
    kills: int


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """The driver is killed in the first training and in the second, each a random moment after some epochs."""
    folder, faults = tmp_path_factory.mktemp("training"), Faults("training")
    left: list[str] = []
    kills = 0
    with private_tmp() as tmp:
        whole = run(tmp_path_factory.mktemp("whole"), *TRAIN)
        for trial_id, after in AFTER.items():
            driver = Driver(folder, f"{trial_id}.log", *TRAIN)
            driver.until(lambda: (trial_id, after) in epochs(folder))  # noqa: B023
            time.sleep(faults.moments.uniform(0.0, 0.5))
            kills += driver.process.poll() is None
            kill(driver)
            left += orphans(tmp)
        last = run(folder, *TRAIN)
    seen = epochs(folder)
    faults.injected("SIGKILL of train's driver", times=kills, lost=len(seen) - len(set(seen)))
    return Attacked(whole, last, left, kills)


def errors(ran: Ran) -> dict[tuple[str, int | None], tuple[float, ...]]:
    """Every error of every epoch and end; an outbox has each once."""
    found = {}
    for record in outbox(ran.folder):
        if record["kind"] in ("epoch", "end"):
            key = record["trial_id"], record.get("epoch")
            assert key not in found, f"{key} is there twice"
            names = sorted(name for name in record["metrics"] if name.endswith(("_mse", "_mae", "/best_epoch")))
            found[key] = tuple(record["metrics"][name] for name in names)
    return found


def weights(ran: Ran) -> list[bytes]:
    """Of each model that MLflow keeps."""
    return sorted(file.read_bytes() for file in Path(ran.folder, "runs", "mlartifacts").rglob("model.safetensors"))


def test_the_same_command_goes_on_with_the_same_training(attacked: Attacked) -> None:
    assert (attacked.whole.code, attacked.last.code) == (0, 0), attacked.last.err
    assert attacked.kills == len(AFTER) and attacked.left == []
    assert len(attacked.last.sweep_ids) == 1 and attacked.last.record().status == "done"


def test_each_training_stops_early_at_the_same_epoch_with_the_same_errors(attacked: Attacked) -> None:
    whole, last = errors(attacked.whole), errors(attacked.last)
    assert last == whole
    assert all(AFTER[trial_id] < epoch < EPOCHS for trial_id, epoch in _last_epochs(attacked.last).items())


def test_the_models_that_are_kept_have_the_same_weights_and_the_end_says_the_same(attacked: Attacked) -> None:
    assert weights(attacked.last) == weights(attacked.whole) != []
    said = [OF_THIS_RUN.sub("ID", ran.out).split("Forecast:")[0] for ran in (attacked.whole, attacked.last)]
    assert said[0] == said[1] and "It stopped" in said[0]


def _last_epochs(ran: Ran) -> dict[str, int]:
    found: dict[str, int] = {}
    for trial_id, epoch in epochs(ran.folder):
        found[trial_id] = max(epoch, found.get(trial_id, 0))
    return found
