"""Every backend is the same function of the same weights, calls the kernel it is named after, and states its limits."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.models.patchtst.modeling_patchtst import eager_attention_forward

from model.attention import ALIASES, BACKENDS, get_backend
from model.attention import sdpa_cudnn as cudnn_file
from model.attention import sdpa_efficient as efficient_file
from model.attention import sdpa_flash as flash_file
from model.attention.base import Workload
from model.patchtst import build_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CAPABILITY = torch.cuda.get_device_capability() if DEVICE == "cuda" else None
BATCH, CHANNELS, L, H, D, K = 4, 2, 48, 12, 32, 2
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Recorder(TorchDispatchMode):
    """ATen operators that ran, by name, with the arguments of their last call."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: dict[str, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops[func.overloadpacket.__name__] = args
        return func(*args, **(kwargs or {}))


def _model(attention: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_channels": CHANNELS, "context_length": L, "prediction_length": H, "patch_length": 6, "patch_stride": 6,
        "d_model": D, "num_heads": K, "num_layers": 2, "ffn_dim": 32, "dropout": 0.0, "head_dropout": 0.0,
        "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True,
    }  # fmt: skip
    return build_model(attention=attention, **shape | fields).to(DEVICE)


def _skip_where_unsupported(name: str, precision: str = "fp32") -> None:
    work = Workload(
        device_type=DEVICE, capability=CAPABILITY, precision=precision, head_dim=D // K, attention_dropout=0.0,
        sequences=BATCH * CHANNELS, patches=L // 6, num_heads=K,
    )  # fmt: skip
    if reason := BACKENDS[name].unsupported_reason(work) or BACKENDS[name].missing_package(importing=True):
        pytest.skip(reason)


def _first_precision(name: str) -> str:
    """fp32, or bf16 for a backend that computes in half precision only; skips where it runs in neither."""
    _skip_where_unsupported(name, "bf16")
    work = {"head_dim": D // K, "attention_dropout": 0.0, "sequences": BATCH * CHANNELS, "patches": L // 6}
    fp32 = Workload(device_type=DEVICE, capability=CAPABILITY, precision="fp32", **work)  # type: ignore[arg-type]
    return "bf16" if BACKENDS[name].unsupported_reason(fp32) else "fp32"


def _run(model: Any, precision: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions, and all gradients but k_proj.bias (truly zero) in one vector, both in fp64 on the CPU."""
    generator = torch.Generator().manual_seed(1)
    past = torch.randn(BATCH, L, CHANNELS, generator=generator).to(DEVICE, dtype)
    future = torch.randn(BATCH, H, CHANNELS, generator=generator).to(DEVICE, dtype)
    half = torch.autocast(DEVICE, dtype=HALF[precision]) if precision in HALF else contextlib.nullcontext()
    with half:
        output = model(past_values=past, future_values=future)
    output.loss.backward()
    gradients = [p.grad for n, p in model.named_parameters() if p.grad is not None and "k_proj.bias" not in n]
    flat = torch.cat([gradient.double().flatten() for gradient in gradients]).cpu()
    return output.prediction_outputs.detach().double().cpu(), flat


def _error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", BACKENDS)
def test_each_backend_is_as_close_to_fp64_as_eager_is(name: str, precision: str, training: bool) -> None:
    """At most twice the eager arm's error at this precision, plus 1e-6, in predictions and in gradients."""
    _skip_where_unsupported(name, precision)
    eager = _model("eager").train(training)
    reference = _run(copy.deepcopy(eager).double(), "fp64", torch.float64)
    plain, ours = _run(eager, precision), _run(_model(name).train(training), precision)
    for mine, theirs, true in zip(ours, plain, reference, strict=True):
        assert _error(mine, true) <= 2 * _error(theirs, true) + 1e-6


@pytest.mark.parametrize("name", BACKENDS)
def test_the_same_seed_gives_the_same_weights_and_random_state_under_each_backend(name: str) -> None:
    eager = _model("eager")
    after_eager = torch.get_rng_state()
    model = _model(name)
    assert torch.equal(torch.get_rng_state(), after_eager)
    assert all(torch.equal(a, b) for a, b in zip(eager.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_the_output_is_contiguous_with_heads_behind_patches_and_has_no_mask_branch(name: str) -> None:
    precision = _first_precision(name)
    attend = AttentionInterface().get_interface(BACKENDS[name].register(), eager_attention_forward)
    dtype = HALF.get(precision, torch.float32)
    query, key, value = (torch.randn(6, 8, 3, 16, device=DEVICE, dtype=dtype).transpose(1, 2) for _ in range(3))
    output, _ = attend(torch.nn.Module().eval(), query, key, value, None, dropout=0.0, scaling=16**-0.5)
    assert output.shape == (6, 8, 3, 16) and output.is_contiguous()
    with pytest.raises(ValueError, match=f"{name} got an attention mask"):
        attend(torch.nn.Module(), query, key, value, torch.zeros(8, 8), dropout=0.0, scaling=1.0)


@pytest.mark.parametrize("name", BACKENDS)
def test_each_backend_compiles_without_a_graph_break_and_gives_the_same_gradients(name: str) -> None:
    precision = _first_precision(name)
    # Inductor's tracing and decompositions without its code generation, which takes 20 s and more on a CPU. Plain
    # "aot_eager" stops at batch norm on CPU: its fake output has other strides than the real one.
    model = _model(name)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for ours, plain in zip(_run(compiled, precision), _run(model, precision), strict=True):
        assert _error(ours, plain) < (1e-6 if precision == "fp32" else 0.02)


@pytest.mark.parametrize("name", BACKENDS)
def test_no_name_given_to_transformers_makes_it_look_for_the_flash_attn_package(name: str) -> None:
    from transformers.utils.generic import is_flash_attention_requested

    assert not is_flash_attention_requested(requested_attention_implementation=BACKENDS[name].register())


def test_sdpa_flash_runs_its_own_kernel_forward_and_backward_on_cpu() -> None:
    model = _model("sdpa_flash").cpu()
    with Recorder() as recorder:
        model(past_values=torch.randn(2, L, CHANNELS)).prediction_outputs.sum().backward()
    fused = {op for op in recorder.ops if "attention" in op}
    assert fused == {f"_scaled_dot_product_flash_attention_for_cpu{suffix}" for suffix in ("", "_backward")}
    assert "_softmax" not in recorder.ops


OPERATORS = {
    "efficient": efficient_file.attend,
    "flash": flash_file.attend,
    "cudnn": cudnn_file.attend,
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_on_cuda_the_named_operator_is_called_and_its_output_is_not_copied(kind: str) -> None:
    with FakeTensorMode(), Recorder() as recorder:
        tensors = [torch.empty(14, 42, 16, 8, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]
        output, _ = OPERATORS[kind](torch.nn.Module(), *tensors, None, dropout=0.125, scaling=8**-0.5)
    assert {op for op in recorder.ops if "attention" in op} == {f"_scaled_dot_product_{kind}_attention"}
    assert output.shape == (14, 42, 16, 8) and output.is_contiguous() and output.device.type == "cuda"
    assert not recorder.ops.keys() & {"clone", "copy_"}


@pytest.mark.parametrize("kind", ["efficient", "cudnn"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "none"])
def test_the_log_sum_exp_is_saved_whenever_gradients_are_taken(kind: str, training: bool, gradients: bool) -> None:
    """The gate takes gradients in eval mode, where dropout is off; without the log-sum-exp the backward fails."""
    leaves = [torch.empty(6, 3, 8, 8, device="meta", requires_grad=True) for _ in range(3)]
    with Recorder() as recorder, torch.set_grad_enabled(gradients):
        module = torch.nn.Module().train(training)
        output, _ = OPERATORS[kind](module, *leaves, None, dropout=0.0, scaling=8**-0.5)
        if gradients:
            output.sum().backward()
    log_sumexp = recorder.ops[f"_scaled_dot_product_{kind}_attention"][4]
    assert log_sumexp is gradients
    assert (f"_scaled_dot_product_{kind}_attention_backward" in recorder.ops) == gradients


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_says_what_it_is_and_which_kernels_prove_it(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.name == name and backend.description and backend.kernel_patterns
    for pattern in backend.kernel_patterns + backend.cpu_patterns:
        re.compile(pattern)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_cpu_patterns_are_found_in_a_profile_of_that_backend_only(name: str) -> None:
    if DEVICE != "cpu" or not BACKENDS[name].cpu_patterns:
        pytest.skip(f"{name} is not profiled on this {DEVICE}")
    model = _model(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        _run(model, "fp32")
    operators = {event.name for event in profile.events()}
    for other in BACKENDS.values():
        seen = [any(re.search(pattern, operator) for operator in operators) for pattern in other.cpu_patterns]
        assert all(seen) if other.name == name else not any(seen)


def test_aliases_and_misspellings_are_understood() -> None:
    assert get_backend("vanilla").name == "eager"
    assert not ALIASES.keys() & BACKENDS.keys()
    with pytest.raises(ValueError, match="unknown attention 'sdpa_flsh'.*Did you mean 'sdpa_flash'"):
        get_backend("sdpa_flsh")
