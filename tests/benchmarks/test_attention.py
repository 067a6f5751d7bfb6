"""The attention benchmark without a GPU: what it refuses, what it counts, what it would try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.attention import CARD, NAIVE_MS, SHAPES, backends, floor_ms, one_pass, parse, print_table
from benchmarks.attention_inputs import Shape, exact, relative_error
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


@pytest.mark.parametrize("shape", [*SHAPES, (2, 128, 1, 64), (2, 2, 1, 4), (2, 100, 3, 24)], ids=str)
def test_tuning_tries_each_variant_that_fits_with_sizes_that_a_gpu_takes(shape: Shape) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks.attention_tune import DIRECTIONS, candidates, variations
    from model.attention.patch_op import constants

    tried = candidates(shape)
    assert len(set(tried)) == len(tried) and tried
    q = torch.empty(shape, device="meta", dtype=torch.bfloat16)
    for direction in DIRECTIONS:
        for choice in [*tried, *(new for old in tried for new in variations(old, direction))]:
            sizes = constants(q, choice)
            assert all(not size & (size - 1) for name, size in sizes.items() if name in ("ROWS", "COLUMNS", "KEYS_A"))
