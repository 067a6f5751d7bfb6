"""The patch backend: right in Triton's interpreter, compiled for GPUs that are absent, and on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.attention import BACKENDS
from model.attention.base import MAX_GRID_YZ, Workload
from model.attention.patch import MAX_HEAD_DIM, MAX_PATCHES, Patch, attend

ROOT = Path(__file__).resolve().parents[3]
triton = pytest.importorskip("triton", reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
H100: dict[str, Any] = {
    "device_type": "cuda", "capability": (9, 0), "precision": "bf16", "head_dim": 8, "attention_dropout": 0.0,
    "sequences": 896, "patches": 42, "num_heads": 16,
}  # fmt: skip
# The kernel table of benchmarks/attention.py as (N, K, E), and sizes that are no powers of two.
TABLE = [(42, 16, 8), (21, 16, 8), (5, 16, 8), (64, 16, 8), (42, 8, 16), (42, 4, 32)]
ODD = [(2, 1, 4), (41, 3, 5), (100, 5, 24), (128, 3, 64), (128, 16, 8)]


def test_the_kernels_are_right_in_tritons_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/kits/interpreted_patch.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d{2,} passed", done.stdout)


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
    from model.attention import patch_op

    assert (patch_op.MAX_PATCHES, patch_op.MAX_HEAD_DIM) == (MAX_PATCHES, MAX_HEAD_DIM)


def test_the_patterns_tell_our_kernels_from_all_others() -> None:
    from model.attention.patch_kernels import patch_attention_backward, patch_attention_forward

    names = patch_attention_forward.__name__, patch_attention_backward.__name__
    for other in (backend for name, backend in BACKENDS.items() if name != "patch"):
        assert not any(re.search(pattern, name) for pattern in other.kernel_patterns for name in names)
    ours = [[bool(re.search(pattern, name)) for name in names] for pattern in Patch().kernel_patterns]
    assert ours == [[True, False], [False, True]]
    # Inductor puts the names of operators into those of the kernels around them.
    fused = "triton_poi_fused_patch_attention_forward_patch_attention_backward_view_0"
    assert not any(re.search(pattern, fused) for pattern in Patch().kernel_patterns)


def _views(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """q, k, v as transformers hands them over: (S, K, N, E) views of (S, N, K * E) projections."""
    s, n, k, e = shape
    generator = torch.Generator().manual_seed(0)
    projections = [torch.randn(s, n, k * e, generator=generator).to(dtype).to(device) for _ in range(3)]
    return [p.view(s, n, k, e).transpose(1, 2).detach().requires_grad_() for p in projections]


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


def _compiled(direction: str, shape: tuple[int, int, int], dtype: torch.dtype, capability: int) -> Any:
    """The chosen kernel, compiled for a GPU of that capability; needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.attention import patch_kernels, patch_op

    n, _, e = shape
    choice = patch_op.choose_launch(n, e, dtype, backward=direction == "backward")
    kernel = getattr(patch_kernels, f"patch_attention_{direction}")
    fixed = patch_op.constants(torch.empty(1, *shape, dtype=dtype, device="meta"), choice)
    if direction == "backward":
        fixed["RECOMPUTE"] = choice.recompute
    element = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}[dtype]
    special = {"lse": "*fp32", "scale": "fp32", "scale_log2": "fp32"}
    types = {name: "constexpr" if name in fixed else special.get(name, element) for name in kernel.arg_names}
    aligned = [at for at, name in enumerate(kernel.arg_names) if types[name].startswith("*")]
    source = ASTSource(
        kernel, types, {(kernel.arg_names.index(name),): value for name, value in fixed.items()},
        {(at,): [["tt.divisibility", 16]] for at in aligned},
    )  # fmt: skip
    options: dict[str, Any] = {"num_warps": choice.warps, "num_stages": choice.stages}
    if choice.registers is not None:
        options["maxnreg"] = choice.registers
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


# Every shape in one type for one generation, three shapes in every type for both.
TO_COMPILE = [(shape, torch.bfloat16, 90) for shape in TABLE + ODD] + [
    (shape, dtype, capability)
    for shape in (TABLE[0], ODD[1], ODD[3])
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for capability in (80, 90)
    if (dtype, capability) != (torch.bfloat16, 90)
]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "dtype", "capability"), TO_COMPILE, ids=str)
def test_the_chosen_kernels_compile_for_ampere_and_hopper(
    shape: tuple[int, int, int], dtype: torch.dtype, capability: int, direction: str
) -> None:
    kernel = _compiled(direction, shape, dtype, capability)
    assert kernel.metadata.shared <= 99 * 1024  # what a block may have on every GPU from capability 8.0 on
    if dtype == torch.bfloat16 and shape in TABLE:
        reads = re.findall(r"ld\.global\S*\.(v\d)\.", kernel.asm["ptx"])
        assert "v4" in reads and "mma" in kernel.asm["ptx"], "no 16-byte reads or no tensor cores"


@pytest.mark.parametrize(("shape", "fits"), [((97, 4, 33), False), ((96, 2, 64), True), ((128, 4, 32), True)], ids=str)
def test_patch_refuses_tf32_where_the_backward_kernel_does_not_fit_an_ada_gpu(
    shape: tuple[int, int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert (_compiled("backward", shape, torch.float32, 89).metadata.shared <= 99 * 1024) == fits
    facts = H100 | {"precision": "tf32", "patches": shape[0], "head_dim": shape[2], "capability": (8, 9)}
    assert (Patch().unsupported_reason(Workload(**facts)) is None) == fits


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours.double() - true).norm() / true.norm()).item()


def _pass(shape: tuple[int, int, int, int], dtype: torch.dtype, ours: bool, exact: bool = False) -> list[Tensor]:
    """Output (S, N, K, E) and the gradients (S, K, N, E) of q, k, v concatenated, on the GPU."""
    leaves = _views(shape, dtype, "cuda")
    if exact:
        leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    q, k, v = leaves
    scale = shape[3] ** -0.5
    if ours:
        output, _ = attend(torch.nn.Module(), q, k, v, None, scaling=scale)
    else:
        output = (torch.softmax(q @ k.transpose(2, 3) * scale, -1) @ v).transpose(1, 2)
    gradient = torch.linspace(-1, 1, output.numel(), device="cuda").sin().view(output.shape).to(dtype).to(output.dtype)
    gradients = torch.autograd.grad(output, leaves, gradient)
    return [output.detach().flatten(), torch.cat([g.flatten() for g in gradients])]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", TABLE + ODD, ids=str)
def test_on_the_gpu_the_gate_is_passed(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    shape_SNKE = (6, *shape)
    reference = _pass(shape_SNKE, dtype, ours=False, exact=True)
    slack = 1e-6 if 6 * shape[0] * shape[1] * shape[2] > 1000 else torch.finfo(dtype).eps
    for ours, plain, true in zip(
        _pass(shape_SNKE, dtype, True), _pass(shape_SNKE, dtype, False), reference, strict=True
    ):
        assert _error(ours, true) <= 2 * _error(plain, true) + slack


@needs_gpu
def test_on_the_gpu_numbers_of_patches_around_every_size_of_a_tile_are_right_in_bf16() -> None:
    errors = {}
    for n in (2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 65, 80, 81, 96, 97, 127):
        reference = _pass((4, n, 3, 8), torch.bfloat16, ours=False, exact=True)
        ours = _pass((4, n, 3, 8), torch.bfloat16, ours=True)
        errors[n] = max(_error(mine, true) for mine, true in zip(ours, reference, strict=True))
    assert not {n: error for n, error in errors.items() if not error < 1e-2}


@needs_gpu
def test_on_the_gpu_more_than_65_535_sequences_run() -> None:
    shape = (MAX_GRID_YZ + 100, 5, 2, 8)
    for ours, true in zip(
        _pass(shape, torch.bfloat16, True), _pass(shape, torch.bfloat16, False, exact=True), strict=True
    ):
        assert _error(ours, true) < 1e-2 and _error(ours[-1000:], true[-1000:]) < 2e-2


@needs_gpu
def test_on_the_gpu_tf32_is_used_only_where_asked_for() -> None:
    reference = _pass((8, 42, 4, 16), torch.float32, ours=False, exact=True)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        exact = _error(_pass((8, 42, 4, 16), torch.float32, ours=True)[0], reference[0])
        torch.set_float32_matmul_precision("high")
        rounded = _error(_pass((8, 42, 4, 16), torch.float32, ours=True)[0], reference[0])
    finally:
        torch.set_float32_matmul_precision(before)
    assert exact < 1e-6 < 1e-5 < rounded < 5e-3


@needs_gpu
def test_on_the_gpu_it_compiles_whole_and_no_copy_is_made_around_it() -> None:
    layer = torch.nn.Linear(128, 128, device="cuda", dtype=torch.bfloat16)

    def block(x: Tensor) -> Tensor:
        heads = [layer(x).view(896, 42, 16, 8).transpose(1, 2) for _ in range(3)]
        return layer(attend(torch.nn.Module(), *heads, None, scaling=8**-0.5)[0].reshape(896, 42, 128))

    x = torch.randn(896, 42, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn_like(x)  # given, or a loss outside of the compiled part would make copies of its own
    plain = torch.autograd.grad(block(x), x, gradient)[0]
    compiled = torch.compile(block, fullgraph=True)
    torch.autograd.grad(compiled(x), x, gradient)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        ours = torch.autograd.grad(compiled(x), x, gradient)[0]
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    assert _error(ours, plain.double()) < 3e-2
    for pattern in Patch().kernel_patterns:
        assert sum(bool(re.search(pattern, name)) for name in names) == 1
    assert not [name for name in names if "copy" in name.lower() and "Memcpy" not in name and "_to_copy" not in name]


@needs_gpu
def test_on_the_gpu_a_graph_replays_forward_and_backward() -> None:
    leaves = _views((64, 42, 16, 8), torch.bfloat16, "cuda")
    gradient = torch.randn(64, 42, 16, 8, device="cuda", dtype=torch.bfloat16)

    def step() -> tuple[Tensor, ...]:
        output, _ = attend(torch.nn.Module(), *leaves, None)
        return output, *torch.autograd.grad(output, leaves, gradient)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(-0.5)
    graph.replay()
    assert all(torch.equal(ours, again) for ours, again in zip(captured, step(), strict=True))


@needs_gpu
def test_on_the_gpu_it_takes_what_autocast_hands_over() -> None:
    layer = torch.nn.Linear(32, 32, device="cuda")
    x = torch.randn(8, 21, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        heads = layer(x).view(8, 21, 4, 8).transpose(1, 2)
        output = layer(attend(torch.nn.Module(), heads, heads, heads, None)[0].reshape(8, 21, 32))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16 and layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_the_gpu_the_operators_keep_pytorchs_rules(dtype: torch.dtype) -> None:
    from model.attention.patch_op import patch_attention

    tensors = [leaf.transpose(1, 2).detach().requires_grad_() for leaf in _views((3, 21, 4, 8), dtype, "cuda")]
    torch.library.opcheck(patch_attention, (*tensors, 0.35))
