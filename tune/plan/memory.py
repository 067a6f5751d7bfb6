"""What a trial's training step needs of its GPU's memory, what does not fit, and whether layers are computed again.

Planning-safe. The estimate is `model.memory`'s, and so is its error. It is compared with the GPU's whole memory, not
with what happens to be free, so that a plan is the same at every look.
"""

from __future__ import annotations

from model.memory import CONTEXT_BYTES, ERROR, Execution, evaluation_bytes, step_memory
from model.memory import evaluation_batch as fitting_batch
from tune.config.step_shape import step_shape
from tune.config.trial_config import TrialConfig
from tune.machine.device import GIB, DeviceFacts

FIELD = "model.recompute"
# PyTorch's operators of these backends read the random state, also without dropout. Computing them again sets it, which
# a CUDA graph cannot capture (torch 2.11: CUDAGeneratorImpl::current_seed).
SEEDED = ("sdpa_efficient", "sdpa_flash", "sdpa_cudnn")
HOPPER = (9, 0)


def peak_gib(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None) -> float | None:
    """Peak memory of tensors in a training step, estimated; None on a CPU and where the channels are not known.

    rows: of the whole series, which the device feed keeps on the GPU; None: not known, and left out.
    """
    if device.device_type != "cuda" or not channels:
        return None
    how = execution(config, device)
    series = 4 * channels * (rows or 0) if config.data.feed == "device" else 0
    return (step_memory(step_shape(config, channels=channels), how).total + series) / GIB


def execution(config: TrialConfig, device: DeviceFacts) -> Execution:
    """How a step of `config` is computed on `device`, as far as its memory depends on it."""
    model = config.model
    return Execution(
        layers="fused" if model.layers == "fused" else "transformers",
        attention=model.attention,
        engine=config.train.engine,
        precision=config.train.precision,
        norm_type=model.norm_type,
        pre_norm=model.pre_norm,
        dropout=max(model.layer_dropout, model.dropout if model.position_dropout is None else model.position_dropout),
        head_dropout=model.head_dropout,
        residual_attention=model.residual_attention,
        recompute=model.recompute == "always",
        hopper=(device.capability or HOPPER) >= HOPPER,
    )


def evaluation_batch(config: TrialConfig, device: DeviceFacts, channels: int) -> int | None:
    """Windows of an evaluation batch that fills the GPU; None on a CPU and for unknown memory: as in training."""
    if device.device_type != "cuda" or device.memory_gib is None:
        return None
    shape = step_shape(config, channels=channels)
    return fitting_batch(shape, execution(config, device), int(device.memory_gib * GIB))


def training_gib(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None) -> float | None:
    """What a process that trains and evaluates needs at most: tensors, estimated at their worst, and CUDA's context.

    Arguments and None as in `peak_gib`.
    """
    peak = peak_gib(config, device, channels, rows)
    if peak is None:
        return None
    windows = evaluation_batch(config, device, channels) or config.train.batch_size
    evaluated = evaluation_bytes(step_shape(config, channels=channels), execution(config, device), windows)
    return (1 + ERROR) * (peak + evaluated / GIB) + CONTEXT_BYTES / GIB


def settle(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None) -> TrialConfig:
    """`config` with `auto` replaced: layers are computed again if the step would not fit, and fits then."""
    if config.model.recompute != "auto":
        return config
    never, always = (with_recompute(config, value) for value in ("never", "always"))
    if _fits(never, device, channels, rows, at_worst=True):
        return never
    helps = recompute_reason(always) is None and _fits(always, device, channels, rows, at_worst=False)
    return always if helps else never


def memory_reason(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None) -> str | None:
    """Why a training step cannot fit into the GPU's memory, if it is clear before the start; else None."""
    if _fits(config, device, channels, rows, at_worst=False):
        return None
    needed, instead = peak_gib(config, device, channels, rows), f"a smaller train.batch_size than {_batch(config)}"
    always = with_recompute(config, "always")
    if config.model.recompute != "always" and recompute_reason(always) is None:
        less = peak_gib(always, device, channels, rows)
        if _fits(always, device, channels, rows, at_worst=False):
            instead += f", or {FIELD}=always, which needs about {less:.1f} GiB"
    return (
        f"a training step needs about {needed:.1f} GiB of GPU memory (estimated, +-{100 * ERROR:.0f} %) and "
        f"{CONTEXT_BYTES / GIB:.0f} GiB for CUDA, and {device.name} has {device.memory_gib:.1f}: give {instead}"
    )


def recompute_reason(config: TrialConfig) -> str | None:
    """Why the layers of `config` cannot be computed again; None if they can, or if they are not."""
    name, engine = config.model.attention, config.train.engine
    if config.model.recompute == "always" and config.model.residual_attention:
        return f"{FIELD}=always keeps no scores, which model.residual_attention hands on: use {FIELD}=never"
    if config.model.recompute != "always" or engine == "eager":
        return None
    if engine != "graph" or name not in SEEDED:
        return None
    return (
        f"{FIELD}=always computes {name} again, which sets PyTorch's random state, and a captured step cannot: use "
        "train.engine=compile, or model.attention=patch or eager"
    )


def _fits(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None, *, at_worst: bool) -> bool:
    """at_worst: whether it fits if the estimate is too low by its error; else, if it is too high by that."""
    needed = peak_gib(config, device, channels, rows)
    if needed is None or device.memory_gib is None:
        return True
    return needed * (1 + ERROR if at_worst else 1 - ERROR) + CONTEXT_BYTES / GIB <= device.memory_gib


def with_recompute(config: TrialConfig, value: str) -> TrialConfig:
    """`config` with this value of model.recompute."""
    return config.model_copy(update={"model": config.model.model_copy(update={"recompute": value})})


def _batch(config: TrialConfig) -> str:
    return f"{config.train.batch_size:,}"
