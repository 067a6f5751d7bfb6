"""The patch backend: what it takes, and its kernels compiled for GPUs that are absent."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.attention_counts import compiled
from benchmarks.compiled import counts
from model.attention import BACKENDS
from model.attention.base import Workload
from model.attention.patch import MAX_HEAD_DIM, MAX_PATCHES, Patch, attend
from model.attention.pieces import MAX_GRID_YZ

ROOT = Path(__file__).resolve().parents[3]
pytest.importorskip("triton", reason="triton is not installed")
from model.attention.patch_launch import MOST_SHARED_BYTES, choose_launch  # noqa: E402, imports triton

H100: dict[str, Any] = {
    "device_type": "cuda", "capability": (9, 0), "precision": "bf16", "head_dim": 8, "attention_dropout": 0.0,
    "sequences": 896, "patches": 42, "num_heads": 16,
}  # fmt: skip
# The kernel table of benchmarks/attention.py as (N, K, E), and sizes that are no powers of two.
TABLE = [(42, 16, 8), (21, 16, 8), (5, 16, 8), (64, 16, 8), (42, 8, 16), (42, 4, 32)]
ODD = [(2, 1, 4), (41, 3, 5), (100, 5, 24), (128, 3, 64), (128, 16, 8)]


def test_planning_with_the_backend_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys\nfrom model.attention.patch import Patch\nPatch().missing_package(importing=False)\n"
        "sys.exit(', '.join(sorted({'torch', 'triton', 'transformers'} & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"device_type": "cpu", "capability": None}, "needs a CUDA GPU"),
        ({"capability": (7, 5)}, "capability 8.0 and this GPU has 7.5"),
        ({"attention_dropout": 0.1}, "no attention dropout"),
        ({"patches": MAX_PATCHES + 1}, "at most 128 patches and got 129"),
        ({"head_dim": MAX_HEAD_DIM + 1}, "at most 64 and got 65"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_limit_is_stated_in_one_line_with_a_way_out(facts: dict[str, Any], says: str) -> None:
    reason = Patch().unsupported_reason(Workload(**H100 | facts))
    assert reason is not None and says in reason
    assert reason.startswith("patch ") and "\n" not in reason
    assert re.search(r": (use|set|raise) ", reason), "no way out is named"


@pytest.mark.parametrize(
    "facts",
    [
        {}, {"precision": "fp32", "head_dim": 5}, {"precision": "tf32"}, {"precision": "fp16", "capability": (8, 0)},
        {"sequences": MAX_GRID_YZ + 1, "num_heads": 1}, {"patches": 2}, {"patches": MAX_PATCHES}, {"capability": None},
        {"head_dim": MAX_HEAD_DIM},
    ],
    ids=str,
)  # fmt: skip
def test_what_runs_is_not_refused(facts: dict[str, Any]) -> None:
    assert Patch().unsupported_reason(Workload(**H100 | facts)) is None


def test_the_limits_that_planning_knows_are_the_kernels() -> None:
    from model.attention import patch_launch as patch_op

    assert (patch_op.MAX_PATCHES, patch_op.MAX_HEAD_DIM) == (MAX_PATCHES, MAX_HEAD_DIM)


def test_the_patterns_tell_our_kernels_from_all_others() -> None:
    from model.attention import patch_half_kernels, patch_kernels

    for module, ending in ((patch_kernels, ""), (patch_half_kernels, "_half")):
        kernels = [getattr(module, f"patch_attention_{direction}{ending}") for direction in ("forward", "backward")]
        names = [kernel.__name__ for kernel in kernels]
        for other in (backend for name, backend in BACKENDS.items() if name != "patch"):
            assert not any(re.search(pattern, name) for pattern in other.kernel_patterns for name in names)
        ours = [[bool(re.search(pattern, name)) for name in names] for pattern in Patch().kernel_patterns]
        assert ours == [[True, False], [False, True]]
    # Inductor puts the names of operators into those of the kernels around them.
    fused = "triton_poi_fused_patch_attention_forward_patch_attention_backward_view_0"
    assert not any(re.search(pattern, fused) for pattern in Patch().kernel_patterns)


class Recorder(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_only_our_operators_and_views_run_and_gradients_lie_as_the_projections() -> None:
    with Recorder() as recorder:
        leaves = [
            torch.empty(14, 42, 16, 8, device="meta", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for _ in range(3)
        ]
        output, _ = attend(torch.nn.Module(), *leaves, None, dropout=0.0, scaling=8**-0.5)
        gradients = torch.autograd.grad(output, leaves, torch.empty_like(output))
    assert output.shape == (14, 42, 16, 8) and output.is_contiguous() and output.dtype == torch.bfloat16
    assert all(g.shape == (14, 16, 42, 8) and g.transpose(1, 2).is_contiguous() for g in gradients)
    assert [op for op in recorder.ops if "patch" in op] == ["patch_attention", "patch_attention_backward"]
    assert not {"clone", "copy_", "contiguous", "_to_copy"} & set(recorder.ops)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q, k, v: (q, k[:, :, :3], v), "one type and one shape"),
        (lambda q, k, v: (q, k, v.half()), "one type and one shape"),
        (lambda q, k, v: (q.double(), k.double(), v.double()), "fp32, bf16 or fp16 and got torch.float64"),
    ],
    ids=["shape", "type", "fp64"],
)
def test_what_the_kernels_were_not_written_for_is_an_error(change: Any, says: str) -> None:
    with FakeTensorMode(), pytest.raises(ValueError, match=says):
        attend(torch.nn.Module(), *change(*(torch.empty(2, 2, 5, 4, device="cuda") for _ in range(3))), None)


def test_a_mask_dropout_and_a_negative_scale_are_errors() -> None:
    tensors = [torch.empty(2, 2, 5, 4, device="meta") for _ in range(3)]
    with pytest.raises(ValueError, match="mask"):
        attend(torch.nn.Module(), *tensors, torch.zeros(5, 5))
    with pytest.raises(ValueError, match="dropout"):
        attend(torch.nn.Module(), *tensors, None, dropout=0.1)
    with pytest.raises(ValueError, match="scale above 0"):
        attend(torch.nn.Module(), *tensors, None, scaling=-1.0)


def _compiled(direction: str, shape: tuple[int, int, int], dtype: torch.dtype, target: int, half: bool) -> Any:
    """The chosen kernel, compiled for a GPU of that capability; needs no GPU."""
    choice = choose_launch(shape[0], shape[2], dtype, backward=direction == "backward", half=half)
    return compiled(choice, shape, direction, target, dtype)


# Every shape in one type for one generation, three shapes in every type for two, one shape for all.
TO_COMPILE = [(shape, torch.bfloat16, 90, False) for shape in TABLE + ODD] + [
    (shape, dtype, target, False)
    for shape in (TABLE[0], ODD[1], ODD[3])
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for target in (80, 90)
    if (dtype, target) != (torch.bfloat16, 90)
]
TO_COMPILE += [(TABLE[0], torch.bfloat16, target, half) for target in (86, 89) for half in (False, True)]
TO_COMPILE += [(TABLE[0], torch.float16, 80, True), *((shape, torch.bfloat16, 90, True) for shape in TABLE[:5])]
# Compiling takes its time: of odd shapes in other types than bf16, or for other generations, one is compiled each time.
SELDOM = [case for case in TO_COMPILE if case[0] in ODD and case[1:] != (torch.bfloat16, 90, False)]
SELDOM.remove((ODD[3], torch.float32, 80, False))
CASES = [pytest.param(*case, marks=pytest.mark.soak_only) if case in SELDOM else case for case in TO_COMPILE]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "dtype", "target", "half"), CASES, ids=str)
def test_the_chosen_kernels_compile_for_every_generation(
    shape: tuple[int, int, int], dtype: torch.dtype, target: int, half: bool, direction: str
) -> None:
    kernel = _compiled(direction, shape, dtype, target, half)
    assert kernel.metadata.shared <= MOST_SHARED_BYTES
    if dtype == torch.bfloat16 and shape in TABLE:
        reads = re.findall(r"ld\.global\S*\.(v\d)\.", kernel.asm["ptx"])
        assert "v4" in reads and "mma" in kernel.asm["ptx"], "no 16-byte reads or no tensor cores"
        assert counts(kernel).spilled_bytes <= 64, "a loop's numbers do not fit into registers"


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_kernels_for_half_precision_need_fewer_instructions(direction: str) -> None:
    plain, half = (counts(_compiled(direction, TABLE[0], torch.bfloat16, 90, half)) for half in (False, True))
    trips = -(-TABLE[0][0] // 16)
    assert half.executed(trips) <= 0.85 * plain.executed(trips)
    assert half.resident_warps(90) >= 0.9 * plain.resident_warps(90)


@pytest.mark.parametrize(("shape", "fits"), [((97, 4, 33), False), ((96, 2, 64), True), ((128, 4, 32), True)], ids=str)
def test_patch_refuses_tf32_where_the_backward_kernel_does_not_fit_an_ada_gpu(
    shape: tuple[int, int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert (_compiled("backward", shape, torch.float32, 89, False).metadata.shared <= 99 * 1024) == fits
    facts = H100 | {"precision": "tf32", "patches": shape[0], "head_dim": shape[2], "capability": (8, 9)}
    assert (Patch().unsupported_reason(Workload(**facts)) is None) == fits
