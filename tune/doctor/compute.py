"""Checks of what trials compute with: devices, compilers, backends, engines. They import torch."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from model.presets import PRESETS
from tune.common.errors import WrongInput
from tune.config.sweeps import Arm, SweepConfig, get_sweep
from tune.doctor.finding import Finding, Place
from tune.machine.compilers import CPP, C, broken_compilers
from tune.machine.device import DeviceFacts, has_gpu, missing_packages, node_facts
from tune.plan.plan import make_plan
from tune.plan.support import hopper_reason, why_not_fused
from tune.storage.check_folder import cache_place

DEFAULT_SWEEP = "pruning"


@functools.cache
def _facts(place: Place) -> DeviceFacts:
    """Facts of this machine's device, as a sweep's probe reads them."""
    use_gpu = has_gpu()
    broken = broken_compilers([C if use_gpu else CPP], _compile_folder(place))
    return replace(node_facts(use_gpu=use_gpu), missing=missing_packages(importing=True), compilers=broken)


def bytecode(place: Place) -> Iterator[Finding]:
    """Whether Python has stored the bytecode of PyTorch, which stands for all packages."""
    import torch

    spec, name = torch.__spec__, "Python's bytecode"
    if spec is None or spec.cached is None:
        yield Finding(kind="start-up", name=name, works=None, found="torch does not say where it would be")
    elif Path(spec.cached).exists():
        yield Finding(kind="start-up", name=name, works=True, found="torch is imported from it")
    else:
        how = f"python -m compileall -q {shlex.quote(str(Path(torch.__file__).parents[1]))}"
        found = "torch has none, so every process compiles its sources, seconds each time: unset "
        found += f"PYTHONDONTWRITEBYTECODE, or run: {how}"
        yield Finding(kind="start-up", name=name, works=False, found=found)


def compiler(place: Place) -> Iterator[Finding]:
    """The compiler that trials need: C++ for PyTorch's compiler on a CPU, C for Triton on a GPU."""
    facts = _facts(place)
    on_gpu = facts.device_type == "cuda"
    name, whose = (C, "Triton") if on_gpu else (CPP, "PyTorch's compiler")
    problem = (facts.compilers or {}).get(name) or (None if on_gpu else _through_inductor(_compile_folder(place)))
    found = problem or f"{whose} can use it"
    yield Finding(kind="compiler", name=name, works=problem is None, found=found, needed=on_gpu)


def _compile_folder(place: Place) -> Path:
    """Where trials compile, or the nearest folder above it that exists."""
    try:
        folder = cache_place(place.storage)
    except (OSError, WrongInput):  # nothing can be made there, which the check of the storage says
        folder = place.storage
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _through_inductor(place: Path) -> str | None:
    """Why PyTorch's compiler cannot build and load a file in `place`; None if it can. Nothing is left there."""
    from torch._inductor.cpp_builder import CppBuilder, CppTorchOptions
    from torch._inductor.cpu_vec_isa import invalid_vec_isa

    try:
        with tempfile.TemporaryDirectory(prefix=".compiles-", dir=place) as folder:
            source = Path(folder, "works.cpp")
            source.write_text('extern "C" int works() { return 0; }\n')
            options = CppTorchOptions(vec_isa=invalid_vec_isa, warning_all=False)
            builder = CppBuilder("works", [str(source)], options, folder)
            builder.build()
            ctypes.CDLL(builder.get_target_file_path())
    except Exception as error:  # torch raises its own kinds, CalledProcessError, OSError
        words = next((line for line in str(error).splitlines() if "error" in line.lower()), str(error))
        return f"torch cannot build a C++ file in {place} ({' '.join(words.split())[:200]}): correct CXX or install g++"
    return None


def devices(place: Place) -> Iterator[Finding]:
    """Each GPU that trials may use."""
    import torch

    facts = _facts(place)
    if facts.device_type == "cpu":
        found = f"NVML shows no GPU; trials run on the CPU, {facts.cpus} CPUs"
        yield Finding(kind="device", name=facts.name, works=None, found=found)
        return
    if not torch.cuda.is_available():
        found = f"torch {torch.__version__} cannot use it: install a CUDA build of torch, or give --gpus-per-trial 0"
        yield Finding(kind="device", name=facts.name, works=False, found=found, needed=True)
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(number, facts)


def _gpu(number: int, facts: DeviceFacts) -> Finding:
    import torch

    name = f"{torch.cuda.get_device_name(number)} {number}"
    try:
        ones = torch.ones(256, 256, device=f"cuda:{number}")
        right = (ones @ ones).sum().item() == 256.0**3
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:  # out of memory, a broken or a forbidden device
        found = f"{str(error).splitlines()[0]}: end what uses it (nvidia-smi), or hide it (CUDA_VISIBLE_DEVICES)"
        return Finding(kind="device", name=name, works=False, found=found, needed=True)
    known = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free, capability {facts.capability}, driver {facts.driver}"
    found = known if right else "it computes wrong products: have it tested (nvidia-smi -q, dcgmi diag)"
    return Finding(kind="device", name=name, works=right, found=found, needed=True)


def triton(place: Place) -> Iterator[Finding]:
    """A Triton kernel on the first GPU, compiled anew where trials compile."""
    if _facts(place).device_type == "cpu":
        yield Finding(kind="Triton", name="kernel", works=None, found="not tried: a CPU needs none")
        return
    if broken := _facts(place).compilers:
        yield Finding(kind="Triton", name="kernel", works=False, found=", ".join(broken.values()), needed=True)
        return
    with tempfile.TemporaryDirectory(prefix=".compiles-", dir=_compile_folder(place)) as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        from tune.doctor.triton_kernel import runs

        right = runs()
    found = "compiled and run" if right else "it computes wrong sums: install the triton that this torch asks for"
    yield Finding(kind="Triton", name="kernel", works=right, found=found, needed=True)


def backends(place: Place) -> Iterator[Finding]:
    """Whether each attention backend can run on this device."""
    yield from _arms("attention", _facts(place))


def engines(place: Place) -> Iterator[Finding]:
    """Whether each engine can run on this device."""
    yield from _arms("engine", _facts(place))


def layers(place: Place) -> Iterator[Finding]:
    """Who computes the encoder's layers at the default model on this device."""
    facts, given = _facts(place), {"data.dataset": "demo"}
    trial = make_plan(get_sweep("custom"), overrides=given, repeats=1, seed=1, device=facts).trials[0]
    found = f"{trial.config.model.layers} layers compute the default model"
    yield Finding(kind="layers", name="auto", works=True, found=found)
    why = hopper_reason(trial.config, facts)
    yield Finding(kind="layers", name="Hopper kernels", works=why is None, found=why or "compute the fused layers")
    model = trial.config.model.model_copy(update={"residual_attention": True})
    slow = why_not_fused(trial.config.model_copy(update={"model": model}), facts)
    if slow and facts.device_type == "cuda":
        yield Finding(kind="layers", name="residual attention", works=None, found=f"eager attention only; {slow}")


def presets(place: Place) -> Iterator[Finding]:
    """Which presets train through our fused layers on this device, and why others do not."""
    facts = _facts(place)
    if facts.device_type == "cpu":
        yield Finding(kind="preset", name="all", works=None, found="for GPUs; transformers' layers run on a CPU")
        return
    arm = Arm(label="arm", changes={})
    sweep = SweepConfig(name="layers", question="", baseline="arm", arms=(arm,))
    for preset in PRESETS:
        overrides = {"data.dataset": "demo", "model.preset": preset}
        config = make_plan(sweep, overrides=overrides, repeats=1, seed=1, device=facts).trials[0].config
        reason = why_not_fused(config, facts)
        kernels = "Hopper" if hopper_reason(config, facts) is None else "plain Triton"
        found = reason or f"auto takes the fused layers, by {kernels} kernels"
        yield Finding(kind="preset", name=preset, works=reason is None, found=found)


def _arms(sweep: str, facts: DeviceFacts) -> Iterator[Finding]:
    """Whether each arm of a sweep can run on this device, at the default model."""
    plan = make_plan(get_sweep(sweep), overrides={"data.dataset": "demo"}, repeats=1, seed=1, device=facts)
    for trial in sorted(plan.trials, key=lambda trial: trial.arm):
        found = trial.unsupported or "can run at the default model"
        yield Finding(kind=sweep, name=trial.arm, works=trial.unsupported is None, found=found)


def default_sweep(place: Place) -> Iterator[Finding]:
    """How many trials of the default sweep can run."""
    plan = make_plan(get_sweep(DEFAULT_SWEEP), overrides={}, repeats=1, seed=1, device=_facts(place))
    found = f"{len(plan.runnable)} of {len(plan.trials)} trials can run"
    if not plan.runnable:
        found = f"none of {len(plan.trials)} trials can run: {plan.trials[0].unsupported}"
    yield Finding(kind="sweep", name=DEFAULT_SWEEP, works=bool(plan.runnable), found=found, needed=True)
