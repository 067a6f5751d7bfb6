"""One arm diverges, one needs more memory than there is, one is killed by the kernel for it: the others go on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_kit import Faults
from sweep_kit import Ran, epochs, run
from trouble_kit import BASE, Trouble, memory_group, undisturbed

EPOCHS = 3
GOOD, NAN, HOST, KERNEL = "0.001", "10", "0.002", "0.003"
SWEEP = [*BASE, "--over", f"train.learning_rate={GOOD},{NAN},{HOST},{KERNEL}", "--epochs", str(EPOCHS)]
UNLUCKY = {NAN: "nan", HOST: "host", KERNEL: "kernel"}


@dataclass
class Troubled:
    ran: Ran
    at: dict[str, int]  # learning rate -> the epoch in which its arm meets its fault

    def trial(self, rate: str):
        (found,) = (trial for trial in self.ran.record().trials if trial.tags["arm"] == f"learning_rate={rate}")
        return found

    def lost(self, rate: str) -> int:
        """Epochs before the fault that MLflow lacks."""
        due = self.at.get(rate, EPOCHS + 1) - (0 if UNLUCKY.get(rate) == "nan" else 1)
        stored = [epoch for epoch, _ in self.trial(rate).history["loss/val_mse"]] if due else []
        return min(due, EPOCHS) - len(set(stored))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    folder, moments = tmp_path_factory.mktemp("troubled"), Faults("arms").moments
    with pytest.MonkeyPatch.context() as patch, memory_group(limit_mib=64) as group:
        trouble = Trouble(folder / "trouble", patch)
        patch.setenv("OMP_WAIT_POLICY", "passive")
        at = {rate: moments.randint(1, EPOCHS) for rate in UNLUCKY}
        trouble.in_arms(
            {rate: {"fault": fault, "epoch": at[rate], "group": str(group)} for rate, fault in UNLUCKY.items()}
        )
        yield Troubled(run(folder, *SWEEP), at)


def test_the_sweep_ends_with_its_table_and_the_arm_without_trouble_is_as_it_would_be_alone(
    troubled: Troubled, faults: Faults, tmp_path: Path
) -> None:
    assert troubled.ran.code == 1, troubled.ran.err
    assert "Traceback" not in troubled.ran.err + troubled.ran.out
    alone = undisturbed([*BASE, "--over", f"train.learning_rate={GOOD}", "--epochs", str(EPOCHS)], tmp_path)
    good = troubled.trial(GOOD)
    assert good.status == "done"
    assert [value for _, value in good.history["loss/val_mse"]] == alone[good.trial_id]
    assert len(set(epochs(troubled.ran.folder))) == len(epochs(troubled.ran.folder))
    for rate, status in {NAN: "nan", HOST: "oom", KERNEL: "oom"}.items():
        (row,) = (line for line in troubled.ran.out.splitlines() if line.startswith(f"learning_rate={rate} "))
        assert status in row and not re.search(r"\d x|\dx|%", row)  # in no ratio and in no verdict


def test_a_diverging_arm_is_nan_with_the_remedy(troubled: Troubled, faults: Faults) -> None:
    trial, lost = troubled.trial(NAN), troubled.lost(NAN)
    faults.injected("NaN loss in one arm", lost=lost, detail=f"from epoch {troubled.at[NAN]} on")
    assert lost == 0
    assert trial.status == "nan"
    assert trial.tags["reason"].endswith("; try a smaller train.learning_rate")


def test_an_arm_that_asks_for_too_much_is_oom_with_its_peak_and_the_remedy(troubled: Troubled, faults: Faults) -> None:
    trial, lost = troubled.trial(HOST), troubled.lost(HOST)
    faults.injected("out of memory, told by PyTorch", lost=lost, detail=f"in epoch {troubled.at[HOST]}")
    assert lost == 0
    assert trial.status == "oom"
    assert "can't allocate memory" in trial.tags["reason"]
    peak_gib = trial.metrics["final/host_peak_memory_gib"]
    assert f"process memory peak {peak_gib:.2f} GiB; try a smaller train.batch_size" in trial.tags["reason"]
    assert 0.05 < peak_gib < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def test_an_arm_that_the_kernel_kills_for_its_memory_is_oom_and_says_so(troubled: Troubled, faults: Faults) -> None:
    trial, lost = troubled.trial(KERNEL), troubled.lost(KERNEL)
    faults.injected(
        "killed by the kernel for want of memory", times=3, lost=lost, detail=f"epoch {troubled.at[KERNEL]}"
    )
    assert lost == 0
    assert trial.status == "oom"
    assert "for want of memory meanwhile, so that is the likely cause: try a smaller" in trial.tags["reason"]
