"""OneLaunchAdam: compiled for GPUs that are absent, on a GPU as torch's fused Adam."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ptx_kit import miscompiled
from torch import Tensor

from data_pipeline.feed.batches import Batch
from model.attention import BACKENDS
from model.patchtst import build_model
from tune.engine.graph import CudaCapture, GraphStepper
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.optimizer import make_optimizer, make_scaler
from tune.engine.step import Stepper
from tune.gate.kernel_names import ATTENTION_LIKE
from tune.gate.profiled_step import profiled_names

ROOT = Path(__file__).resolve().parents[3]
triton = pytest.importorskip("triton", reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
SIZES = ((128, 12), (128,), (512, 128), (7,), (3, 5), (1024,), (33, 64), (1,))


def test_a_cpu_keeps_torchs_adam_and_imports_no_kernel() -> None:
    code = (
        "import sys, torch\nfrom tune.engine.optimizer import make_optimizer\n"
        "optimizer = make_optimizer(torch.nn.Linear(2, 2), learning_rate=1e-3)\n"
        "sys.exit('tune.engine.adam' in sys.modules or type(optimizer) is not torch.optim.Adam)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_kernel_is_not_taken_for_an_attention_kernel() -> None:
    from tune.engine.adam import one_launch_adam

    patterns = [ATTENTION_LIKE, *(pattern for backend in BACKENDS.values() for pattern in backend.kernel_patterns)]
    assert not any(re.search(pattern, one_launch_adam.__name__) for pattern in patterns)


def test_only_tensors_whose_every_row_is_aligned_are_read_16_bytes_at_a_time() -> None:
    from tune.engine.adam import _Table

    place = torch.zeros(64)
    assert place.data_ptr() % 16 == 0
    aligned, shifted, short = place[:8], place[1:9], place[:7]
    tensors = [(aligned,) * 4, (aligned, shifted, aligned, aligned), (aligned, aligned, aligned, shifted), (short,) * 4]
    columns = [list(column) for column in zip(*tensors, strict=True)] + [[torch.zeros(())] * 4]
    key = tuple(tensor.numel() for tensor in columns[0]) + tuple(t.data_ptr() for column in columns for t in column)
    table = _Table(4, torch.device("cpu"))
    table.fill(key, columns)
    assert table.device.view(8, 4)[:3].tolist() == [[0, 1, 2, 3], [8, 8, 8, 7], [1, 0, 0, 0]]


def _compiled(capability: int, *, lr_in_memory: bool, scaled: bool, grad: str) -> Any:
    """The kernel, compiled for a GPU of that capability; needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tune.engine.adam import BLOCK, GRADIENTS, WARPS, one_launch_adam

    gradient = GRADIENTS[{"fp32": torch.float32, "bf16": torch.bfloat16}[grad]]
    fixed: dict[str, Any] = {"LR_IN_MEMORY": lr_in_memory, "GRAD": gradient, "TENSORS": 64, "BLOCK": BLOCK}
    if not scaled:
        fixed |= {"grad_scale": None, "found_inf": None}
    special = {"table": "*i64", "T": "i32", "done": "*i32", "grad_scale": "*fp32", "found_inf": "*fp32"}
    special |= {"lr": "*fp32"} if lr_in_memory else {}
    names = one_launch_adam.arg_names
    types = {name: "constexpr" if name in fixed else special.get(name, "fp32") for name in names}
    source = ASTSource(
        one_launch_adam, types, {(names.index(name),): value for name, value in fixed.items()},
        {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if types[name].startswith("*")},
    )  # fmt: skip
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS})
    assert not miscompiled(kernel.asm["ptx"])
    return kernel


# Each value of one with each of another.
VARIANTS = [
    (80, False, False, "fp32"), (80, False, True, "bf16"), (80, True, False, "bf16"), (80, True, True, "fp32"),
    (90, False, False, "bf16"), (90, False, True, "fp32"), (90, True, False, "fp32"), (90, True, True, "bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("capability", "lr_in_memory", "scaled", "grad"), VARIANTS)
def test_it_compiles_for_ampere_and_hopper(capability: int, lr_in_memory: bool, scaled: bool, grad: str) -> None:
    ptx = _compiled(capability, lr_in_memory=lr_in_memory, scaled=scaled, grad=grad).asm["ptx"]
    wide = re.findall(r"(ld|st)\.global\.v4\.b32", ptx)
    assert (wide.count("ld"), wide.count("st")) == (8 if grad == "fp32" else 6, 6), "no 16 bytes at once"


def test_a_program_counts_as_done_after_all_its_threads_read_the_step() -> None:
    ptx = _compiled(90, lr_in_memory=True, scaled=False, grad="fp32").asm["ptx"]
    before, _, after = ptx.partition("atom.global.gpu.acq_rel.add")
    assert after and "atom." not in after
    updates = list(re.finditer(r"st\.global", before))
    assert "bar.sync" in before[updates[-1].end() :]


def _work(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A complete step whose gradients depend on the parameters; they are new tensors each time."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    targets = [torch.linspace(-1, 1, p.numel(), device=p.device).view_as(p) for p in parameters]

    def step() -> None:
        loss = sum((p - t).square().sum() * (n + 1) for n, (p, t) in enumerate(zip(parameters, targets, strict=True)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _pair(lr: float = 1e-2) -> tuple[Any, torch.optim.Adam]:
    """Ours with a learning rate in memory, and torch's, over equal parameters on the GPU."""
    from tune.engine.adam import OneLaunchAdam

    torch.manual_seed(0)
    values = [torch.randn(size, device="cuda") for size in SIZES]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in values] for _ in range(2))
    rates = [torch.tensor(lr, device="cuda") for _ in range(2)]
    return OneLaunchAdam(ours, lr=rates[0]), torch.optim.Adam(theirs, lr=rates[1], fused=True)


def _captured(optimizer: torch.optim.Optimizer, warm: bool = True) -> torch.cuda.CUDAGraph:
    step = _work(optimizer)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2 if warm else 0):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for group in optimizer.param_groups:
        group["capturable"] = True
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    for group in optimizer.param_groups:
        group["capturable"] = False
    graph.reads = step  # type: ignore[attr-defined]  # its targets must live as long as the graph
    return graph


def _assert_same(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, steps: int) -> None:
    """Torch rounds bias corrections to fp32 on the way: weights differ by 1e-5 of the updates, moments follow."""
    for mine, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        state, expected = ours.state[mine], theirs.state[other]
        assert state["step"].item() == expected["step"].item() == steps
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(state[name], expected[name], rtol=1e-4, atol=1e-4)


@needs_gpu
def test_on_the_gpu_one_step_has_torchs_moments_to_the_last_digits() -> None:
    ours, theirs = _pair()
    _work(ours)()
    _work(theirs)()
    for mine, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(ours.state[mine][name], theirs.state[other][name], rtol=1e-6, atol=1e-12)


@needs_gpu
def test_on_the_gpu_replays_train_as_torchs_eager_steps_and_honour_a_new_rate() -> None:
    ours, theirs = _pair()
    graph = _captured(ours)
    for _ in range(20):
        graph.replay()
    for _ in range(22):
        _work(theirs)()
    _assert_same(ours, theirs, 22)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"].fill_(1e-4)
    for _ in range(10):
        graph.replay()
        _work(theirs)()
    _assert_same(ours, theirs, 32)


@needs_gpu
def test_on_the_gpu_steps_outside_and_a_second_capture_leave_the_first_ones_table() -> None:
    ours, theirs = _pair()
    first = _captured(ours)  # two steps
    first.replay()
    kept = [torch.full((65_536,), 1.0, device="cuda") for _ in range(50)]  # other memory for the next gradients
    _work(ours)()
    first.replay()
    second = _captured(ours)  # two steps
    for graph in (first, second, first):
        graph.replay()
    for _ in range(10):
        _work(theirs)()
    _assert_same(ours, theirs, 10)
    assert all(bool((tensor == 1).all()) for tensor in kept)


@needs_gpu
def test_on_the_gpu_a_capture_without_a_step_before_is_refused() -> None:
    ours, theirs = _pair()
    _work(theirs)()  # what PyTorch itself has to load
    with pytest.raises(RuntimeError, match="step once outside"):
        _captured(ours, warm=False)
    torch.cuda.synchronize()


@needs_gpu
def test_on_the_gpu_a_replay_updates_in_one_launch_and_copies_nothing() -> None:
    ours, _ = _pair()
    graph = _captured(ours)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        graph.replay()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert sum("one_launch_adam" in name for name in names) == 1
    assert not [name for name in names if "Memcpy" in name or "fused_adam" in name.lower()]
    assert "one_launch_adam" in profiled_names(_work(ours), "cuda")


def _steppers(precision: str, schedule: str) -> tuple[Stepper, Stepper]:
    """The graph engine with our optimizer, the eager engine with torch's."""
    steppers: list[Stepper] = []
    for engine in (GraphStepper, Stepper):
        torch.manual_seed(0)
        model = build_model(
            num_channels=7, context_length=48, prediction_length=8, patch_length=12, patch_stride=12, d_model=32,
            num_heads=4, num_layers=2, ffn_dim=32, dropout=0.0, head_dropout=0.0, attention_dropout=0.0,
            norm_type="batchnorm", pre_norm=True, attention="eager",
        ).to("cuda")  # fmt: skip
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        options: dict[str, Any] = {"precision": precision, "scaler": make_scaler("cuda", precision)}
        options["rate"] = Rates(schedule=schedule, span=ScheduleSpan(learning_rate=1e-3, steps_per_epoch=5, epochs=8))
        if engine is GraphStepper:
            optimizer = make_optimizer(model, learning_rate=1e-3)
            steppers.append(GraphStepper(model, optimizer, capture=CudaCapture(), **options))
        else:
            steppers.append(Stepper(model, torch.optim.Adam(trained, lr=1e-3, fused=True), **options))
    return steppers[0], steppers[1]


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    past, future = torch.randn(16, 48, 7, generator=generator), torch.randn(16, 8, 7, generator=generator)
    return Batch(past=past.cuda(), future=future.cuda(), valid=16)


def _weights(stepper: Stepper) -> Tensor:
    state = stepper.model.state_dict().items()
    return torch.cat([value.double().flatten() for name, value in state if not name.endswith("k_proj.bias")])


@needs_gpu
@pytest.mark.filterwarnings("ignore::UserWarning:torch._inductor")
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_the_gpu_the_graph_engine_trains_with_it_as_the_eager_one_with_torchs(precision: str, schedule: str) -> None:
    graph, eager = _steppers(precision, schedule)
    for stepper in (graph, eager):
        stepper.warm_up(_batch(0), _batch(0).past)
        stepper.model.train()
        for number in range(20):
            stepper.step(_batch(number))
    mine, other = _weights(graph), _weights(eager)
    assert (mine - other).norm() / other.norm() < (1e-3 if precision == "fp32" else 2e-2)
    skipped = graph.take_skipped_steps()
    assert skipped == eager.take_skipped_steps()
    assert {int(state["step"]) for state in graph.optimizer.state.values()} == {20 - (skipped or 0)}
    graph.close()
