"""Kernel names as profilers show them, by the backend that launches them, and names that belong to no backend."""

from __future__ import annotations

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
