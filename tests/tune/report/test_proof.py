"""The report's line on the gate and the kernels."""

from __future__ import annotations

import json
from typing import Any

from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.tables import closing_tables
from tune.report.values import as_json

FLASH = ["void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<32>>(params)"]


def _proven(arm: str, seed: int, error: float, kernels: Any = FLASH, gate: str = "passed") -> Any:
    metrics = {
        "gate/prediction_error": error,
        "gate/prediction_limit": 1e-2,
        "gate/gradient_error": 1e-4,
        "gate/gradient_limit": 1e-2,
    }
    tag = kernels if isinstance(kernels, str) else json.dumps(kernels)
    return _trial(arm, seed, metrics=metrics, tags={"gate": gate, "kernels": tag})


def _notes(record: Any) -> list[str]:
    return notes(record, arm_rows(record))


def _line(*trials: Any) -> str:
    lines = [line for line in _notes(_sweep(*trials)) if line.startswith("Gate")]
    assert len(lines) == 1
    return lines[0]


def test_one_line_names_each_arms_kernels_and_its_largest_error_over_its_limit() -> None:
    line = _line(
        _proven("none", 1, 2e-3, ["aten::_softmax", "aten::_softmax_backward_data"]),
        _proven("fast", 1, 2e-3),
        _proven("fast", 2, 5e-3),
    )
    assert "none 0.20, aten::_softmax and 1 more;" in line
    assert "fast 0.50, pytorch_flash::flash_fwd_kernel." in line


def test_a_long_name_is_cut_in_the_line_and_complete_in_the_table_before_the_environment() -> None:
    names = ["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "sdpa_bprop"]
    record = _sweep(_proven("none", 1, 2e-3, names), _proven("fast", 1, 5e-3, gate="passed, gated at batch 4 of 8"))
    line = _line(*record.trials)
    assert "none 0.20, cudnn_generated_fort_native_sdpa_sm90... and 1 more" in line and names[0] not in line
    *_, proof, environment = closing_tables(record, None)
    assert environment.title == "Environment"
    assert proof.rows == [
        ["none", "0.20", ", ".join(names)],
        ["fast", "0.50 (gated at batch 4 of 8)", "pytorch_flash::flash_fwd_kernel"],
    ]


def test_the_line_names_invisible_kernels_and_a_smaller_gated_batch() -> None:
    unseen, smaller = "not visible on CPU with engine compile", "gated at batch 4 of 8"
    line = _line(_proven("none", 1, 2e-3, unseen), _proven("fast", 1, 2e-3, gate=f"passed, {smaller}"))
    assert f"none 0.20, {unseen};" in line
    assert line.endswith(f"fast 0.20, pytorch_flash::flash_fwd_kernel ({smaller}).")


def test_a_sweep_from_before_the_gate_has_no_line_and_damaged_tags_break_nothing() -> None:
    assert not [line for line in _notes(_sweep(_trial("none"))) if line.startswith("Gate")]
    damaged = _trial("none", tags={"gate": "passed", "kernels": '["a", "b [shortened]'})
    assert "none (error not recorded)" in _line(damaged)


def test_an_arm_that_failed_the_gate_is_listed_with_its_reason() -> None:
    failed = _trial("fast", status="failed_gate", reason="predictions are not finite", tags={"gate": "failed"})
    lines = _notes(_sweep(_proven("none", 1, 2e-3), failed))
    assert "fast: failed_gate: predictions are not finite" in lines
    assert not [line for line in lines if line.startswith("Gate") and "fast" in line]


def test_the_json_has_the_gates_numbers_and_the_proven_kernels() -> None:
    first, second = as_json(_sweep(_proven("none", 1, 2e-3), _trial("fast")))["trials"]
    assert first["metrics"]["gate/prediction_error"] == 2e-3
    assert (first["kernels"], second["kernels"]) == (FLASH, None)
