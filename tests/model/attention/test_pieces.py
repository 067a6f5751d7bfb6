"""More sequences than a kernel takes: computed in pieces, with the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

from model.attention import BACKENDS
from model.attention import eager as eager_file
from model.attention import sdpa_flash as flash_file
from model.attention.base import Workload
from model.attention.pieces import MAX_GRID_YZ, fa2_limit, grid_limit, in_pieces

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
MANY = MAX_GRID_YZ + 100


def _three(heads: int, patches: int, head_dim: int) -> int:
    return 3


def _leaves(shape: tuple[int, int, int, int], device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k and v (S, K, N, E) as views of (S, N, K, E)."""
    s, k, n, e = shape
    generator = torch.Generator(device).manual_seed(0)
    tensors = [torch.randn(s, n, k, e, generator=generator, device=device).to(dtype) for _ in range(3)]
    return [tensor.transpose(1, 2).requires_grad_() for tensor in tensors]


def _pass(attend: Any, leaves: list[Tensor], **options: Any) -> list[Tensor]:
    output, _ = attend(torch.nn.Module(), *leaves, None, scaling=0.35, **options)
    gradient = torch.linspace(-1, 1, output.numel(), device=output.device).sin().view(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]


@pytest.mark.parametrize("sequences", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("file", [eager_file, flash_file], ids=["eager", "sdpa_flash"])
def test_output_and_gradients_are_those_of_one_launch_to_the_bit(file: Any, sequences: int) -> None:
    leaves = _leaves((sequences, 2, 5, 8))
    calls: list[int] = []

    def counted(module: Any, query: Tensor, *rest: Any, **options: Any) -> Any:
        calls.append(len(query))
        return file.attend(module, query, *rest, **options)

    ours = _pass(in_pieces(counted, _three), leaves)
    assert len(calls) == -(-sequences // 3) and max(calls) <= 3 and sum(calls) == sequences
    assert ours[0].is_contiguous()
    assert all(torch.equal(*pair) for pair in zip(ours, _pass(file.attend, leaves), strict=True))


def test_pieces_compile_without_a_graph_break() -> None:
    leaves = _leaves((8, 2, 5, 8))
    attend = in_pieces(flash_file.attend, _three)

    def block(*tensors: Tensor) -> Tensor:
        return attend(torch.nn.Module(), *tensors, None, scaling=0.35)[0].sin()

    compiled = torch.compile(block, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for ours, plain in zip(*(torch.autograd.grad(f(*leaves).sum(), leaves) for f in (compiled, block)), strict=True):
        assert torch.equal(ours, plain)


def test_a_mask_is_refused_whatever_the_number_of_sequences() -> None:
    for sequences in (2, 8):
        with pytest.raises(ValueError, match="eager got an attention mask"):
            in_pieces(eager_file.attend, _three)(torch.nn.Module(), *_leaves((sequences, 2, 5, 8)), torch.zeros(5, 5))


def test_flash_attention_2_takes_as_many_sequences_as_its_accumulator_has_room_for() -> None:
    assert fa2_limit(16, 42, 8) == 2**31 // (16 * 128 * 32) == 32_768
    assert fa2_limit(1, 42, 8) == grid_limit(1, 42, 8) == MAX_GRID_YZ
    assert fa2_limit(16, 42, 40) == 16_384 and fa2_limit(16, 2**20, 256) == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_registers_the_same_function_each_time(name: str) -> None:
    first, again = (AttentionInterface().get_interface(BACKENDS[name].register(), None) for _ in range(2))
    assert first is again


@needs_gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch's, tracing flex
@pytest.mark.parametrize("name", BACKENDS)
def test_on_the_gpu_each_backend_computes_more_than_65_535_sequences(name: str) -> None:
    backend, shape = BACKENDS[name], (MANY, 2, 5, 16)
    work = Workload(
        device_type="cuda", capability=torch.cuda.get_device_capability(), precision="bf16", head_dim=16,
        attention_dropout=0.0, sequences=MANY, patches=5, num_heads=2,
    )  # fmt: skip
    if reason := backend.unsupported_reason(work) or backend.missing_package(importing=True):
        pytest.skip(reason)
    attend = AttentionInterface().get_interface(backend.register(), eager_attention_forward)
    ours = _pass(attend, _leaves(shape, "cuda", torch.bfloat16))
    exact = _pass(
        eager_file.attend,
        [leaf.detach().double().requires_grad_() for leaf in _leaves(shape, "cuda", torch.bfloat16)],
    )
    last = [(mine[-200:].double(), true[-200:]) for mine, true in zip(ours, exact, strict=True)]
    errors = [((mine - true).norm() / true.norm()).item() for mine, true in last]
    assert max(errors) < 2e-2, f"relative errors of output, dq, dk and dv of the last 200 sequences: {errors}"
