"""A profile's kernel names tell the backends apart, and compiled eager attention stays eager attention."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from kernel_kit import KERNELS, OTHERS
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.virtualized import V
from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

from model.attention import BACKENDS
from model.attention.eager import attend


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backends_patterns_each_match_a_kernel_of_its_own_and_none_of_another(name: str) -> None:
    patterns = BACKENDS[name].kernel_patterns
    assert patterns
    for pattern in patterns:
        others = [kernel for other, kernels in KERNELS.items() if other != name for kernel in kernels]
        assert not [kernel for kernel in [*others, *OTHERS] if re.search(pattern, kernel)]
    if name not in KERNELS:
        pytest.skip(f"no kernel names of {name} are recorded yet: add them to KERNELS once it has been profiled")
    assert all(any(re.search(pattern, kernel) for kernel in KERNELS[name]) for pattern in patterns)


def _graphs_after_joint_passes(function: Any, tensors: list[torch.Tensor]) -> list[torch.fx.GraphModule]:
    """What inductor would generate code from: traced, decomposed and rewritten by its pattern matcher."""
    graphs: list[torch.fx.GraphModule] = []

    def rewrite(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        with V.set_fake_mode(detect_fake_mode([node.meta["val"] for node in graph.graph.nodes if "val" in node.meta])):
            joint_graph_passes(graph)
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    backend = aot_autograd(
        fw_compiler=lambda graph, _: make_boxed_func(graph.forward),
        inference_compiler=lambda graph, _: make_boxed_func(rewrite(graph).forward),
        partition_fn=lambda graph, inputs, **kwargs: min_cut_rematerialization_partition(
            rewrite(graph), inputs, **kwargs
        ),
        decompositions=select_decomp_table(),
    )
    output = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*tensors)
    if output.requires_grad:
        output.float().sum().backward()
    assert graphs
    return graphs


def _fused(
    attention: Any, heads: int, dtype: torch.dtype, *, transposed: bool, dropout: float, gradients: bool
) -> bool:
    shape = (6, 8, heads, 16) if transposed else (6, heads, 8, 16)
    tensors = [torch.randn(shape, dtype=dtype, requires_grad=gradients) for _ in range(3)]

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        query, key, value = (tensor.transpose(1, 2) if transposed else tensor for tensor in tensors)
        return attention(torch.nn.Module(), query, key, value, None, scaling=0.25, dropout=dropout)[0]

    nodes = [str(node.target) for graph in _graphs_after_joint_passes(run, tensors) for node in graph.graph.nodes]
    return any("scaled_dot_product" in node for node in nodes)


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "none"])
def test_inductor_replaces_transformers_eager_attention_by_a_fused_kernel(gradients: bool) -> None:
    """The control of the next test, and the reason for an eager attention of our own."""
    arguments: Any = {"dropout": 0.0, "gradients": gradients}
    assert _fused(eager_attention_forward, 2, torch.float32, transposed=False, **arguments)
    assert _fused(eager_attention_forward, 1, torch.float32, transposed=True, **arguments)


@pytest.mark.parametrize(
    ("heads", "dtype", "dropout"),  # each value of one with each of another
    [(1, torch.float32, 0.0), (1, torch.bfloat16, 0.1), (2, torch.float32, 0.1), (2, torch.bfloat16, 0.0)],
)
def test_inductor_leaves_our_eager_attention_alone(heads: int, dtype: torch.dtype, dropout: float) -> None:
    for transposed in (False, True):
        for gradients in (False, True):
            assert not _fused(attend, heads, dtype, transposed=transposed, dropout=dropout, gradients=gradients)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_our_eager_attention_is_bit_for_bit_that_of_transformers(dtype: torch.dtype, dropout: float) -> None:
    results = []
    for attention in (attend, eager_attention_forward):
        torch.manual_seed(0)
        leaves = [torch.randn(6, 8, 4, 16, dtype=dtype, requires_grad=True) for _ in range(3)]
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        output, _ = attention(torch.nn.Module().train(), query, key, value, None, scaling=0.25, dropout=dropout)
        output.square().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
