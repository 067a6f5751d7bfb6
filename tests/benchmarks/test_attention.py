"""The attention benchmark without a GPU: what it refuses, what it counts, what it would try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.attention import CARD, NAIVE_MS, SHAPES, floor_ms, parse, print_table
from benchmarks.attention_inputs import Shape, exact, relative_error
from benchmarks.attention_passes import backends, one_pass
from model.attention import BACKENDS, eager

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_gpu_it_says_so_in_one_line_and_exits_2() -> None:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/attention.py", "--tune"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a CUDA GPU" in done.stderr and done.stderr.count("\n") == 1


def test_the_floor_is_the_time_to_move_the_tensors() -> None:
    assert floor_ms((896, 42, 16, 8), 15, "bf16", 3.0) == pytest.approx(0.04817, abs=1e-5)
    assert floor_ms((896, 42, 16, 8), 11, "fp32", 1.5) == pytest.approx(4 * floor_ms(SHAPES[0], 11, "bf16", 3.0))


@pytest.mark.parametrize(
    ("gpu", "options", "row"),
    [
        (CARD, [], "0.035 0.048 0.167"),
        (CARD, ["--precision", "fp32"], "0.071 0.096 -"),
        ("NVIDIA GeForce RTX 4090", [], "- - -"),
        ("NVIDIA GeForce RTX 4090", ["--bandwidth-tbs", "1.5"], "0.071 0.096 -"),
    ],
)
def test_what_one_card_was_found_to_do_is_shown_on_that_card_only(
    gpu: str, options: list[str], row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [{"shape": list(SHAPES[0]), "backend": "eager", "unsupported": "no GPU here"}]
    print_table(cells, SHAPES[:1], parse(options), gpu)
    shown = capsys.readouterr().out
    assert CARD in " ".join(shown.split())
    assert f"896 x 42 x 16 x 8 {row} -" in " ".join(shown.replace("│", " ").split())


def test_the_exact_result_is_eagers_in_fp64_with_its_gradients() -> None:
    leaves = [torch.randn(2, 3, 5, 4, dtype=torch.float64).requires_grad_() for _ in range(3)]
    gradient = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    computed = one_pass(eager.attend, leaves, gradient)()
    assert [relative_error(*pair) < 1e-12 for pair in zip(computed, exact(leaves, gradient), strict=True)] == [True] * 4
    assert relative_error(2 * gradient, gradient) == pytest.approx(1)


def test_every_backend_is_measured_and_every_shape_has_a_time_to_beat() -> None:
    assert backends().keys() == BACKENDS.keys() | {"patch"}
    assert NAIVE_MS.keys() == set(SHAPES)


def test_a_folder_without_kernels_is_wrong_input_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(["--against", "nowhere"])
    assert exit_.value.code == 2
    assert "--against nowhere: there is no model/attention/patch_kernels.py" in capsys.readouterr().err


@pytest.mark.parametrize("folder", [ROOT, ROOT / "model"], ids=["checkout", "model"])
def test_another_checkouts_kernels_are_timed_in_turns_with_ours_and_compared_bit_by_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launches, the graphs and their times are stand-ins; the kernels and what patch_op would launch are real."""
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks import attention_against, graph_timing
    from model.attention import patch_kernels, patch_op

    captured: list[Any] = []
    timed: list[int] = []

    class Launches:
        dtype, count = torch.bfloat16, 2

        def __init__(self, *_: Any) -> None:
            pass

        def calls(self, _: Any) -> list[Any]:
            return [patch_op.patch_kernels] * self.count

        def outputs(self, _: Any) -> tuple[torch.Tensor]:
            return (torch.full((2,), float(patch_op.patch_kernels is patch_kernels) if different else 0.0),)

    def capture(calls: list[Any]) -> int:
        captured.append(calls[0])
        return len(captured) % 2  # 1: here, 0: there

    def elapsed_ms(graph: int, repeats: int) -> float:
        timed.append(graph)
        return 4.0 if graph else 2.0 * repeats

    for name, stand_in in {"capture": capture, "elapsed_ms": elapsed_ms, "repeats_of": lambda graph: 1}.items():
        monkeypatch.setattr(graph_timing, name, stand_in)
    monkeypatch.setattr(attention_against, "Launches", Launches)
    for different in (False, True):
        results: dict[str, Any] = {"cells": []}
        attention_against.compare(SHAPES[:1], parse(["--against", str(folder), "--samples", "4"]), results, list)
        assert [cell["direction"] for cell in results["cells"]] == ["backward", "forward"]
        for cell in results["cells"]:
            assert (cell["ratio"], cell["equal"]) == (2.0, not different)
            assert cell["median_ms"] == {"here": 2.0, "there": 1.0} and cell["quartiles"] == [2.0, 2.0]
        assert ("DIFFERENT" if different else "equal to the bit") in capsys.readouterr().out
    assert captured[0] is patch_kernels is patch_op.patch_kernels and captured[1] is not patch_kernels
    assert captured[1].__file__ == patch_kernels.__file__
    assert timed[:8] == [1, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("shape", [*SHAPES, (2, 128, 1, 64), (2, 2, 1, 4), (2, 100, 3, 24)], ids=str)
def test_tuning_tries_each_variant_that_fits_with_sizes_that_a_gpu_takes(shape: Shape) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks.attention_tune import DIRECTIONS, candidates, variations
    from model.attention.patch_launch import constants

    tried = candidates(shape)
    assert len(set(tried)) == len(tried) and tried
    q = torch.empty(shape, device="meta", dtype=torch.bfloat16)
    for direction in DIRECTIONS:
        for choice in [*tried, *(new for old in tried for new in variations(old, direction))]:
            sizes = constants(q, choice, backward=direction == "backward")
            assert all(not size & (size - 1) for name, size in sizes.items() if name in ("ROWS", "COLUMNS", "KEYS_A"))
