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

from model.attention import ALIASES, AUTO_ORDER, BACKENDS, get_backend, resolve_auto
from model.attention import sdpa_efficient as efficient_file
from model.attention import sdpa_flash as flash_file
from model.attention.base import MAX_GRID_YZ, Workload
from model.patchtst import build_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CAPABILITY = torch.cuda.get_device_capability() if DEVICE == "cuda" else None
BATCH, CHANNELS, L, H, D, K = 4, 2, 48, 12, 32, 4
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
H100: dict[str, Any] = {
    "device_type": "cuda", "capability": (9, 0), "precision": "bf16", "head_dim": 8, "attention_dropout": 0.0,
    "sequences": 896, "patches": 42, "num_heads": 16,
}  # fmt: skip
CPU = H100 | {"device_type": "cpu", "capability": None, "precision": "fp32"}


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
    if reason := BACKENDS[name].unsupported_reason(work):
        pytest.skip(reason)


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
    _skip_where_unsupported(name)
    attend = AttentionInterface().get_interface(BACKENDS[name].register(), eager_attention_forward)
    query, key, value = (torch.randn(6, 8, 3, 8, device=DEVICE).transpose(1, 2) for _ in range(3))
    output, _ = attend(torch.nn.Module().eval(), query, key, value, None, dropout=0.0, scaling=8**-0.5)
    assert output.shape == (6, 8, 3, 8) and output.is_contiguous()
    if name != "eager":
        with pytest.raises(ValueError, match="mask"):
            attend(torch.nn.Module(), query, key, value, torch.zeros(8, 8), dropout=0.0, scaling=1.0)


@pytest.mark.parametrize("name", BACKENDS)
def test_each_backend_compiles_without_a_graph_break_and_gives_the_same_gradients(name: str) -> None:
    _skip_where_unsupported(name)
    # Inductor's tracing and decompositions without its code generation, which takes 20 s and more on a CPU. Plain
    # "aot_eager" stops at batch norm on CPU: its fake output has other strides than the real one.
    model = _model(name)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for ours, plain in zip(_run(compiled, "fp32"), _run(model, "fp32"), strict=True):
        assert _error(ours, plain) < 1e-6


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


@pytest.mark.parametrize("attend", [efficient_file.attend, flash_file.attend])
def test_on_cuda_the_named_operator_is_called_and_its_output_is_not_copied(attend: Any) -> None:
    with FakeTensorMode(), Recorder() as recorder:
        tensors = [torch.empty(14, 42, 16, 8, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]
        output, _ = attend(torch.nn.Module(), *tensors, None, dropout=0.1, scaling=8**-0.5)
    kind = "efficient" if attend is efficient_file.attend else "flash"
    assert {op for op in recorder.ops if "attention" in op} == {f"_scaled_dot_product_{kind}_attention"}
    assert output.shape == (14, 42, 16, 8) and output.is_contiguous() and output.device.type == "cuda"
    assert not recorder.ops.keys() & {"clone", "copy_"}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "none"])
def test_sdpa_efficient_saves_the_log_sum_exp_whenever_gradients_are_taken(training: bool, gradients: bool) -> None:
    """The gate takes gradients in eval mode, where dropout is off; without the log-sum-exp the backward fails."""
    leaves = [torch.empty(6, 3, 8, 8, device="meta", requires_grad=True) for _ in range(3)]
    with Recorder() as recorder, torch.set_grad_enabled(gradients):
        module = torch.nn.Module().train(training)
        output, _ = efficient_file.attend(module, *leaves, None, dropout=0.0, scaling=8**-0.5)
        if gradients:
            output.sum().backward()
    log_sumexp = recorder.ops["_scaled_dot_product_efficient_attention"][4]
    assert log_sumexp is gradients
    assert ("_scaled_dot_product_efficient_attention_backward" in recorder.ops) == gradients


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [
        ("sdpa_efficient", CPU, "no CPU kernel"),
        ("sdpa_efficient", H100 | {"head_dim": 4}, "divisible by 8 in bf16 and got 4"),
        ("sdpa_efficient", H100 | {"head_dim": 6, "precision": "fp32"}, "divisible by 4 in fp32 and got 6"),
        ("sdpa_efficient", H100 | {"capability": (7, 5)}, "8.0 for bf16, this GPU has 7.5"),
        ("sdpa_efficient", H100 | {"sequences": MAX_GRID_YZ + 1}, "at most 65,535 sequences"),
        ("sdpa_flash", CPU | {"attention_dropout": 0.1}, "no attention dropout on CPU"),
        ("sdpa_flash", H100 | {"precision": "fp32"}, "bf16 or fp16 on CUDA and got fp32"),
        ("sdpa_flash", H100 | {"precision": "tf32"}, "bf16 or fp16 on CUDA and got tf32"),
        ("sdpa_flash", H100 | {"capability": (7, 5)}, "needs compute capability 8.0"),
        ("sdpa_flash", H100 | {"head_dim": 4}, "divisible by 8"),
        ("sdpa_flash", H100 | {"head_dim": 264}, "at most 256"),
        ("sdpa_flash", H100 | {"head_dim": 200, "capability": (8, 9)}, "cannot train with head_dim 200"),
        ("sdpa_flash", H100 | {"sequences": MAX_GRID_YZ + 1}, "at most 65,535 sequences"),
        ("sdpa_flash", H100 | {"sequences": 32_769}, r"at most 2\^31 elements"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_limit_is_stated_in_one_line_with_a_way_out(name: str, facts: dict[str, Any], says: str) -> None:
    reason = BACKENDS[name].unsupported_reason(Workload(**facts))
    assert reason is not None and re.search(says, reason)
    assert reason.startswith(name) and "\n" not in reason
    assert re.search(r": (use|set|change|lower|raise) ", reason), "no way out is named"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sdpa_efficient", H100),
        ("sdpa_efficient", H100 | {"precision": "fp32", "head_dim": 4, "attention_dropout": 0.2}),
        ("sdpa_efficient", H100 | {"precision": "fp16", "capability": (7, 5), "sequences": MAX_GRID_YZ}),
        ("sdpa_efficient", H100 | {"capability": None, "num_heads": None}),
        ("sdpa_flash", H100 | {"attention_dropout": 0.2}),
        ("sdpa_flash", H100 | {"sequences": 32_768}),
        ("sdpa_flash", H100 | {"head_dim": 256, "capability": (8, 9)}),
        ("sdpa_flash", CPU | {"head_dim": 4, "precision": "bf16"}),
        ("eager", CPU | {"head_dim": 3, "sequences": 10**6}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_runs_is_not_refused(name: str, facts: dict[str, Any]) -> None:
    assert BACKENDS[name].unsupported_reason(Workload(**facts)) is None


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
        found = [any(re.search(pattern, operator) for operator in operators) for pattern in other.cpu_patterns]
        assert all(found) if other.name == name else not any(found)


def test_auto_is_the_first_of_its_order_that_runs() -> None:
    on_gpu = next(name for name in AUTO_ORDER if name in BACKENDS)
    assert resolve_auto(Workload(**H100)) == on_gpu
    assert resolve_auto(Workload(**CPU)) == "eager"
    assert resolve_auto(Workload(**H100 | {"head_dim": 3})) == "eager"


def test_aliases_and_misspellings_are_understood() -> None:
    assert get_backend("vanilla").name == "eager"
    assert not ALIASES.keys() & BACKENDS.keys()
    with pytest.raises(ValueError, match="unknown attention 'sdpa_flsh'.*Did you mean 'sdpa_flash'"):
        get_backend("sdpa_flsh")
