"""The patch backend on a GPU: right, deterministic, compiled whole, captured in a graph."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from model.attention.patch import Patch, attend
from model.attention.pieces import MAX_GRID_YZ

pytest.importorskip("triton", reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
# The kernel table of benchmarks/attention.py as (N, K, E), pruned heads, and sizes that are no powers of two.
TABLE = [(42, 16, 8), (21, 16, 8), (5, 16, 8), (64, 16, 8), (42, 8, 16), (42, 4, 32)]
ODD = [(2, 1, 4), (41, 3, 5), (100, 5, 24), (128, 3, 64), (128, 16, 8), (42, 11, 8), (42, 15, 8), (41, 16, 8)]
HALF_SHAPES = [(42, 16, 8), (42, 11, 8), (41, 15, 8), (64, 16, 8), (42, 8, 16), (5, 3, 4)]
HALF = [*((shape, torch.bfloat16) for shape in HALF_SHAPES), (HALF_SHAPES[0], torch.float16)]


def _views(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """q, k, v as transformers hands them over: (S, K, N, E) views of (S, N, K * E) projections."""
    s, n, k, e = shape
    generator = torch.Generator().manual_seed(0)
    projections = [torch.randn(s, n, k * e, generator=generator).to(dtype).to(device) for _ in range(3)]
    return [p.view(s, n, k, e).transpose(1, 2).detach().requires_grad_() for p in projections]


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
    _hold_the_gate(shape, dtype)


@needs_gpu
@pytest.mark.parametrize(("shape", "dtype"), HALF, ids=str)
def test_on_the_gpu_the_kernels_for_half_precision_pass_the_gate_with_the_same_bits_each_time(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    _hold_the_gate(shape, dtype)
    first, again = (_pass((64, *shape), dtype, ours=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def _hold_the_gate(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    shape_SNKE = (6, *shape)
    reference = _pass(shape_SNKE, dtype, ours=False, exact=True)
    slack = 1e-6 if 6 * shape[0] * shape[1] * shape[2] > 1000 else torch.finfo(dtype).eps
    ours, plain = _pass(shape_SNKE, dtype, True), _pass(shape_SNKE, dtype, False)
    errors = {
        name: (_error(mine, true), _error(theirs, true))
        for name, mine, theirs, true in zip(("output", "gradients"), ours, plain, reference, strict=True)
    }
    assert all(mine <= 2 * theirs + slack for mine, theirs in errors.values()), f"(ours, plain PyTorch's): {errors}"


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
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream")  # of leaves that were made before the capture
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
