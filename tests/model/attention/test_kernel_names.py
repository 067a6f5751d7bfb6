"""A profile's kernel names tell the backends apart, and compiled eager attention stays eager attention."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.virtualized import V
from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

from model.attention import BACKENDS
from model.attention.eager import attend

# What profilers show, shortened inside template arguments. Sources: ATen and inductor names from PyTorch 2.11's code
# (aten/src/ATen/native/cuda/PersistentSoftmax.cuh, fmha_cutlass*.cu, flash_attn/src, torch/_inductor/utils.py); flex
# from meta-pytorch/tritonbench#939 and #940; cuDNN from published profiles of H100s; the packages' from
# flash-attention's csrc/flash_attn/src and hopper/*_launch_template.h, and FA4's from Dao-AILab/flash-attention#2564.
# Seen since on an H100, eager and compiled: those of eager, the three sdpa_*, flash_attention_2 and flex.
KERNELS = {
    "eager": [
        "void (anonymous namespace)::softmax_warp_forward<float, float, float, 6, false, false>(float*, float const*)",
        "void (anonymous namespace)::softmax_warp_backward<float, float, float, 6, false, false>(float*, float const*)",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>(float*, int)",
        "triton_per_fused__softmax__to_copy_mul_view_7",
        "triton_per_fused__softmax_backward_data__to_copy_mul_view_21",
        "triton_per_fused__softmax__to_copy_exp_mul_prepare_softmax_online_sub_view_16",
        "triton_per_fused__softmax__softmax_backward_data__to_copy_mul_view_20",
    ],
    "sdpa_efficient": [
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>::Params)",
        "fmha_cutlassB_bf16_aligned_64x64_k32_sm80(PyTorchMemEffAttention::AttentionBackwardKernel<>::Params)",
    ],
    "sdpa_flash": [
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<32, 128, 128, 4>, true>(params)",
        "void pytorch_flash::flash_bwd_dot_do_o_kernel<true, pytorch_flash::Flash_bwd_kernel_traits<32>>(params)",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<pytorch_flash::Flash_bwd_traits>()",
    ],
    "sdpa_cudnn": [
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1x1_kernel0_0",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x128_1x4x1_cga1x1x1_kernel0_0",
        "void cudnn::fusion::compute_dot_do_o<true>(void const*, void const*, void*, void*, unsigned int)",
        "cudnn_generated_fort_native_sdpa_sm80_flash_fprop_wmma_f16_knob_3_64x64x64_4x1x1_kernel0_0",
        "cudnn_generated_fort_native_sdpa_sm80_flash_bprop_wmma_f16_knob_3_64x64x64_4x1x1_kernel0_0",
    ],
    "flash_attention_2": [
        "void flash::flash_fwd_kernel<flash::Flash_fwd_kernel_traits<32, 128, 128, 4>, false>(params)",
        "void flash::flash_bwd_dot_do_o_kernel<true, flash::Flash_bwd_kernel_traits<32, 128, 128, 8>>(params)",
        "void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<flash::Flash_bwd_kernel_traits<32, 128>>(params)",
    ],
    "flash_attention_3": [
        "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90>>>()",
        "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnBwdSm90<flash::CollectiveMainloopBwdSm90>>>()",
        "void cutlass::device_kernel<flash::FlashAttnBwdPreprocess<cute::tuple<cute::C<128>, cute::C<64>>>>()",
    ],
    "flash_attention_4": [
        "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__tensor0000o11101213_0",
        "kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90FlashAttentionBackwardSm90_object_at__tensor0000o11101213_0",
        "flash_fwd_sm100_bf16_head_dim128_tile128x128_kernel_cutlass_kernel_flash_attncuteflash_fwd_sm100"
        "FlashAttentionForwardSm100_object_at__tensor0000o11101213_0",
        "kernel_cutlass_kernel_flash_attncuteflash_bwd_preprocessFlashAttentionBackwardPreprocess_object_at__0",
    ],
    "flex": [
        "triton_tem_fused_flex_attention_0",
        "triton_tem_fused__to_copy_flex_attention_transpose_view_4",
        "triton_tem_fused_flex_attention_backward_zeros_1",
        "triton_poi_fused_flex_attention_backward_transpose_3",
        "triton_tem_fused_flex_attention_transpose_view_7",
        "triton_tem_fused_flex_attention_backward_transpose_view_5",
        "triton_per_fused_flex_attention_backward_transpose_view_4",
    ],
    "patch": ["patch_attention_forward", "patch_attention_backward"],
}  # fmt: skip
OTHERS = [
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>(Params)",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
    "nvjet_tst_128x64_64x8_1x2_h_bz_coopA_TNT",
    "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>(int)",
    "triton_poi_fused_gelu_view_9",
    # Inductor names the kernels beside an operator after it too.
    "triton_poi_fused__scaled_dot_product_efficient_attention_view_3",
    "triton_poi_fused__scaled_dot_product_efficient_attention_backward_transpose_5",
    "triton_poi_fused__scaled_dot_product_flash_attention_clone_view_3",
    "triton_poi_fused__scaled_dot_product_cudnn_attention_backward_transpose_5",
    "triton_poi_fused__flash_attn_forward_transpose_view_2",
    "triton_poi_fused_fa4_backward_transpose_view_2",
    "void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>(cudnnTensorStruct)",
]


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


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("heads", [1, 2])
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
