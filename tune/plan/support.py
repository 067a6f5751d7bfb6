"""Why a configuration cannot run on a device, and what `auto` becomes there."""

from __future__ import annotations

from collections.abc import Mapping

from model import fused
from model.attention import BACKENDS, resolve_auto
from model.attention.base import Workload
from model.fused.hopper import reason
from model.residual.reason import COMPUTED, PRUNED, residual_reason
from tune.common.errors import WrongInput
from tune.config.names import backend_name
from tune.config.trial_config import TrialConfig
from tune.engine import ENGINES
from tune.machine.compilers import CPP, C
from tune.machine.device import DeviceFacts
from tune.plan import memory


def _workload(config: TrialConfig, device: DeviceFacts, channels: int) -> Workload:
    return Workload(
        device_type=device.device_type,
        capability=device.capability,
        precision=config.attention_precision,
        head_dim=config.model.d_model // config.model.num_heads,
        attention_dropout=config.model.attention_dropout,
        sequences=config.train.batch_size * channels,
        patches=config.num_patches,
        num_heads=config.model.num_heads,
    )


def resolve_auto_names(config: TrialConfig, device: DeviceFacts, channels: int, rows: int | None = None) -> TrialConfig:
    """Replace aliases and `auto` by the name of one backend, `auto` layers by who computes them, `auto` recomputing.

    rows: of the whole series; None: not known.
    """
    name = config.model.attention
    work = _workload(config, device, channels)
    try:
        if name == "auto" and config.model.residual_attention:
            chosen = COMPUTED["attention"] or name
        else:
            chosen = resolve_auto(work, device.missing or {}) if name == "auto" else backend_name(name)
    except ValueError as error:  # no backend of AUTO_ORDER can do it
        raise WrongInput(str(error)) from None
    layers = config.model.layers
    if layers == "auto":
        layers = "transformers" if why_not_fused(config, device) else "fused"
    settled = config.model.model_copy(update={"attention": chosen, "layers": layers})
    return memory.settle(config.model_copy(update={"model": settled}), device, channels, rows)


def _layers_reason(config: TrialConfig, device: DeviceFacts) -> str | None:
    """Why `config` cannot use the fused layers on `device`; None if it can."""
    model = config.model
    if model.residual_attention and device.device_type == "cuda":
        return f"fused layers hand no scores from layer to layer, as model.residual_attention asks for: {fused.INSTEAD}"
    return fused.unsupported_reason(
        d_model=model.d_model,
        ffn_dim=model.ffn_dim,
        precision=config.train.precision,
        device_type=device.device_type,
        capability=device.capability,
    )


def hopper_reason(config: TrialConfig, device: DeviceFacts) -> str | None:
    """Why the Hopper kernels do not compute the fused layers of `config` on `device`; None if they do."""
    model = config.model
    return _layers_reason(config, device) or reason.hopper_reason(
        d_model=model.d_model,
        ffn_dim=model.ffn_dim,
        head_dim=model.d_model // model.num_heads,
        norm_type=model.norm_type,
        pre_norm=model.pre_norm,
        activation="gelu",
        dropout=model.layer_dropout,
        dtype=config.train.precision,
        capability=device.capability,
    )


def why_not_fused(config: TrialConfig, device: DeviceFacts) -> str | None:
    """Why `auto` layers do not become the fused ones for `config` on `device`; None if they do."""
    return _layers_reason(config, device)


def unsupported_reason(
    config: TrialConfig, device: DeviceFacts, channels: int, windows: int | None = None, rows: int | None = None
) -> str | None:
    """Why `config` cannot run on `device` for a series of `channels`; None if nothing is known to prevent it.

    windows: in the training split; None: not known yet. rows: of the whole series; None: not known.
    """
    early = _batch_reason(config, channels, windows) or _precision_reason(config, device) or _residual_reason(config)
    if early:
        return early
    attention = config.model.attention
    backend = BACKENDS[attention].unsupported_reason(_workload(config, device, channels))
    missing = (device.missing or {}).get(attention)
    layers = _layers_reason(config, device) if config.model.layers == "fused" else None
    engine = ENGINES[config.train.engine].unsupported_reason(device_type=device.device_type)
    compiler = compiler_reason(config, device.device_type, device.compilers or {})
    room = memory.recompute_reason(config) or memory.memory_reason(config, device, channels, rows)
    return backend or missing or layers or engine or compiler or room


def _residual_reason(config: TrialConfig) -> str | None:
    """Why the model of `config` cannot add up its scores; None if it can, or does not have to."""
    model = config.model
    if not model.residual_attention:
        return None
    if config.pruning.heads_to_remove:
        return PRUNED
    how = {"attention": model.attention, "layers": model.layers, "recompute": model.recompute}
    return residual_reason(**how, as_published=model.as_published or config.pruning.as_published)


def compiler_needed(config: TrialConfig, device_type: str) -> str | None:
    """The language of which a trial needs a working compiler on its node; None if it needs none.

    On a GPU every trial runs Triton kernels, be it those of the optimizer, and Triton compiles its launchers as C. On a
    CPU PyTorch's compiler writes C++.
    """
    if device_type == "cuda":
        return C
    return CPP if ENGINES[config.train.engine].compiled else None


def compiler_reason(config: TrialConfig, device_type: str, broken: Mapping[str, str]) -> str | None:
    """Why a trial cannot run for want of a compiler; None if it can. broken: as `broken_compilers` returns it."""
    needed = compiler_needed(config, device_type)
    if needed is None or needed not in broken:
        return None
    who, instead = f"the {config.train.engine} engine", "or use train.engine=eager"
    if device_type == "cuda":
        who, instead = "Triton, which every trial on a GPU uses,", "or give --gpus-per-trial 0"
    return f"{who} needs a working {needed} compiler: {broken[needed]}; {instead}"


def _batch_reason(config: TrialConfig, channels: int, windows: int | None) -> str | None:
    batch = config.train.batch_size
    if windows is not None and batch > windows:
        return (
            f"train.batch_size={batch} is above the {windows:,} training windows, and a step takes a whole batch: give "
            f"at most {windows}"
        )
    if config.model.norm_type == "batchnorm" and batch * channels * config.num_patches == 1:
        return (
            "batch norm has a single value to normalise (1 window x 1 channel x 1 patch): give a train.batch_size of 2 "
            "or more, a shorter model.patch_length, or model.norm_type=layernorm"
        )
    return None


def _precision_reason(config: TrialConfig, device: DeviceFacts) -> str | None:
    precision = config.train.precision
    if precision == "fp16" and device.device_type == "cpu":
        return "fp16 with its loss scaling is for GPUs; use bf16 or fp32 on a CPU"
    if precision == "tf32" and (device.device_type == "cpu" or (device.capability or (8, 0)) < (8, 0)):
        return f"tf32 needs an NVIDIA GPU of compute capability 8.0 or more, this is {device.name}; use fp32"
    if precision == "bf16" and device.device_type == "cuda" and (device.capability or (8, 0)) < (8, 0):
        return f"bf16 needs compute capability 8.0 or more, this is {device.name}; use fp32"
    return None
