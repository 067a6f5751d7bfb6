"""Our attention and layers in a PatchTSTForPrediction that transformers built, and the way back.

Only classes of modules and the name of the attention change. Weights, buffers, their names and the optimizer's
parameters stay the same objects, so what is saved is a plain checkpoint.

Shapes: B batch, C channels, N patches, P patch length, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import (
    PatchTSTAttention,
    PatchTSTEncoder,
    PatchTSTEncoderLayer,
)

from model import fused
from model.attention import BACKENDS
from model.attention.base import Workload
from model.guard import Checked, Guard, GuardedEncoder
from model.heads import attention_layers, heads_per_layer

ATTENTION = "patch"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def model_reason(model: nn.Module) -> str | None:
    """Why nothing of this model can be swapped, in one line; None where something may be."""
    if not isinstance(model, PatchTSTForPrediction):
        inside = getattr(model, "_orig_mod", getattr(model, "module", None))
        if isinstance(inside, PatchTSTForPrediction):
            return f"it is wrapped in a {type(model).__name__}: accelerate the model first, then wrap it"
        return f"it is a {type(model).__name__}: only transformers' PatchTSTForPrediction is known"
    if model.config.loss != "mse":
        return f"its head gives a distribution (loss={model.config.loss!r}): only heads with loss='mse' are known"
    if isinstance(model.model.encoder, Guard):
        return "it was accelerated already: call restore(model) first"
    if type(model.model.encoder) is not PatchTSTEncoder:
        return f"its encoder is a {type(model.model.encoder).__name__}, not transformers' own"
    if model.config.output_attentions:
        return "its config has output_attentions=True: our attention has no weights to return"
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()} - {"float32"}
    if kinds:
        return f"its weights are {', '.join(sorted(kinds))}: keep them in float32 and train under torch.autocast"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "its weights lie on several devices: move them to one"
    return None


def attention_reason(model: Any, precision: str, batch_size: int) -> str | None:
    """Why our attention cannot take the place of the model's, in one line; None where it can."""
    device_type, capability = device_facts(model)
    for number, attention in enumerate(attention_layers(model)):
        if type(attention) is not PatchTSTAttention:
            return f"layer {number}'s attention is a {type(attention).__name__}, not transformers' own"
    config, backend = model.config, BACKENDS[ATTENTION]
    tokens = model.model.encoder.positional_encoder.position_enc.shape[0]
    work = Workload(
        device_type=device_type,
        capability=capability,
        precision=precision,
        head_dim=config.d_model // config.num_attention_heads,
        attention_dropout=config.attention_dropout,
        sequences=batch_size * config.num_input_channels,
        # Channel attention has a token for each channel
        patches=max(tokens, config.num_input_channels) if config.channel_attention else tokens,
        num_heads=max(map(len, heads_per_layer(model))),
    )
    return _fact(backend.unsupported_reason(work)) or backend.missing_package(importing=True)


def layers_reason(model: Any, precision: str) -> str | None:
    """Why our layers cannot take the place of the model's, in one line; None where they can."""
    device_type, capability = device_facts(model)
    config = model.config
    reason = fused.unsupported_reason(
        d_model=config.d_model,
        ffn_dim=config.ffn_dim,
        precision=precision,
        device_type=device_type,
        capability=capability,
        activation=config.activation_function,
    )
    return (
        _fact(reason)
        or next(_strange_parts(model.model.encoder), None)
        or BACKENDS[ATTENTION].missing_package(importing=True)
    )


def _fact(reason: str | None) -> str | None:
    """A reason without its advice, which names the fields of a sweep."""
    return None if reason is None else reason.split(": ")[0]


def _strange_parts(encoder: Any) -> Iterator[str]:
    """What our layers would not compute."""
    config = encoder.config
    for name, wrong in (("use_cls_token", True), ("channel_attention", True), ("output_hidden_states", True)):
        if getattr(config, name) is wrong:
            yield f"our layers know no {name}={wrong}"
    for number, layer in enumerate(encoder.layers):
        if type(layer) is not PatchTSTEncoderLayer or type(layer.self_attn) is not PatchTSTAttention:
            yield f"layer {number} is a {type(layer).__name__} with a {type(layer.self_attn).__name__}, not plain"
        parts = {name: getattr(layer.self_attn, name) for name in PROJECTIONS} | {
            "ff.0": layer.ff[0],
            "ff.3": layer.ff[3],
        }
        for name, part in parts.items():
            if type(part) is not nn.Linear:
                yield f"{name} of layer {number} is a {type(part).__name__}, not a Linear"
            if part.bias is None:
                yield f"{name} of layer {number} has no bias"
        for name, module in layer.named_modules():
            if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
                yield f"{name or 'the whole'} of layer {number} has a hook, which our layers would not call"


def device_facts(model: nn.Module) -> tuple[str, tuple[int, int] | None]:
    """The type of the model's device, and the compute capability of a GPU."""
    device = next(model.parameters()).device
    return device.type, torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def attention_of(model: Any) -> str:
    """The `attn_implementation` of the model."""
    name: str = model.config._attn_implementation
    return name


def use_attention(model: Any, name: str) -> None:
    """Make the model compute attention by the function that transformers knows by this name."""
    for config in (model.config, *(attention.config for attention in attention_layers(model))):
        config._attn_implementation = name


def swap(model: Any, *, attention: bool, layers: bool, checked: Checked | None) -> None:
    """Put our parts into the model. checked: what its encoder lets through; None lets everything through."""
    if attention:
        use_attention(model, BACKENDS[ATTENTION].register())
    guarded: type[nn.Module] = GuardedEncoder
    if layers:
        from model.fused.encoder import GuardedFusedEncoder, fuse  # imports triton

        fuse(model)
        guarded = GuardedFusedEncoder
    if checked is not None:
        model.model.encoder.__class__ = guarded
        model.model.encoder.checked = checked


def unswap(model: Any, attention: str) -> None:
    """Give the model transformers' own parts back, and the attention of this name."""
    encoder = model.model.encoder
    encoder.__class__ = PatchTSTEncoder
    for name in ("checked", "rates", "captures"):
        vars(encoder).pop(name, None)
    use_attention(model, attention)
