"""Builds, saves and loads transformers' PatchTSTForPrediction, with all heads or pruned.

A pruned model runs transformers' code: its projections have fewer rows, head_dim and scaling stay, and the number of
heads is read from the shapes. `config.kept_heads` records which original heads are left, as a list of head numbers per
layer. It is absent while no head is gone.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

from model.as_published import use_published_attention
from model.attention import ALIASES, get_backend
from model.facts import CONFIG, WEIGHTS
from model.heads import attention_layers, heads_per_layer
from model.recompute import recompute_layers
from model.residual.reason import residual_reason
from model.variants import as_stored, construct, initialise, joint_rate, read_config


def build_model(
    *,
    num_channels: int,
    context_length: int,
    prediction_length: int,
    patch_length: int,
    patch_stride: int,
    d_model: int,
    num_heads: int,
    num_layers: int,
    ffn_dim: int,
    dropout: float,
    head_dropout: float,
    attention_dropout: float,
    norm_type: str,
    pre_norm: bool,
    attention: str,
    layers: str = "transformers",
    as_published: str | None = None,
    recompute: str = "never",
    init: str = "transformers",
    positions: str = "sincos",
    position_dropout: float | None = None,
    attention_output_dropout: float = 0.0,
    attention_residual_dropout: float | None = None,
    ffn_dropout: float | None = None,
    ffn_residual_dropout: float | None = None,
    end_padding: bool = False,
    residual_attention: bool = False,
) -> PatchTSTForPrediction:
    """A freshly initialised model, whose weights depend on torch's random state and not on the attention backend.

    Forecasts future [B, H, C] from past [B, L, C] in the units of its input: windows are scaled to mean 0, std 1 per
    channel inside and scaled back. `dropout` is used after the positions, on the residual paths and in the
    feed-forward layers, where they have no rate of their own. `layers`: "transformers", or "fused" for an encoder of
    our own kernels. `init`, `positions`: how weights are drawn, and whether positions are trained (`model.variants`).
    `attention_output_dropout`: after attention's output projection, right before `attention_residual_dropout`. Both
    are computed as one dropout (`variants.joint_rate`). `end_padding`: one patch more (`variants.EndPaddedPatchify`).
    `as_published`: the arm of the replaced study (`model.as_published`) whose attention is used.
    `recompute`: "always" keeps no activations of a layer but its input, and computes them again in the backward pass.
    `residual_attention`: scores are added up over the layers (`model.residual.reason`).
    Raises ValueError for an unknown name, and for a model that cannot be computed so.
    """
    rates = (position_dropout, attention_residual_dropout, ffn_dropout, ffn_residual_dropout)
    positional, after_attention, in_ffn, after_ffn = (dropout if own is None else own for own in rates)
    config = PatchTSTConfig(
        num_input_channels=num_channels,
        context_length=context_length,
        prediction_length=prediction_length,
        patch_length=patch_length,
        patch_stride=patch_stride,
        d_model=d_model,
        num_attention_heads=num_heads,
        num_hidden_layers=num_layers,
        ffn_dim=ffn_dim,
        positional_dropout=positional,
        path_dropout=after_ffn,
        ff_dropout=in_ffn,
        head_dropout=head_dropout,
        attention_dropout=attention_dropout,
        norm_type=norm_type,
        pre_norm=pre_norm,
        pooling_type=None,  # the head reads all N x D features, as in the paper; transformers' default is their mean
        loss="mse",
        scaling="std",
        do_mask_input=False,
    )
    before_residual = joint_rate(attention_output_dropout, after_attention)
    if before_residual != config.path_dropout:  # transformers has one rate for both residual paths
        config.attention_path_dropout = before_residual
    for name, value in (("end_padding", end_padding), ("residual_attention", residual_attention)):
        if value:
            setattr(config, name, True)
    _check_residual(config, attention, layers, as_published, recompute)
    config._attn_implementation = get_backend(attention).register()
    model = construct(config)
    initialise(model, init=init, positions=positions)
    return _with_layers(model, layers, as_published, recompute)


def _check_residual(
    config: PatchTSTConfig, attention: str, layers: str, as_published: str | None, recompute: str
) -> None:
    how = {"attention": ALIASES.get(attention, attention), "layers": layers, "recompute": recompute}
    if getattr(config, "residual_attention", False) and (reason := residual_reason(**how, as_published=as_published)):
        raise ValueError(reason)


def _with_layers(
    model: PatchTSTForPrediction, layers: str, as_published: str | None, recompute: str
) -> PatchTSTForPrediction:
    if recompute == "always":
        recompute_layers(model)
    if as_published not in (None, "vanilla"):  # vanilla is transformers' own
        use_published_attention(model, as_published)
    if layers == "transformers":
        return model
    from model.fused.encoder import fuse  # imports triton

    return fuse(model)


def save_model(
    model: PatchTSTForPrediction,
    folder: Path,
    files: Mapping[str, str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, model.safetensors and `files` (name -> text) to the new folder `folder`, in one rename.

    weights: the model's state, contiguous, if it is on the host already. Stock transformers loads the model from the
    folder, and refuses one that is pruned, or has end padding or residual attention. Folder and files get the modes
    that the umask gives.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    temporary.mkdir()  # not mkdtemp, whose folders only their owner may read
    try:
        model.config.architectures = [type(model).__name__]
        as_stored(model.config).save_pretrained(temporary)
        if weights is None:
            weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
        save_file(dict(weights), temporary / WEIGHTS, metadata={"format": "pt"})
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        shutil.copymode(temporary / CONFIG, temporary / WEIGHTS)  # safetensors writes for the owner only
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_model(
    folder: Path,
    attention: str | None = None,
    layers: str = "transformers",
    as_published: str | None = None,
    recompute: str = "never",
) -> PatchTSTForPrediction:
    """The model that `save_model` wrote, pruned or not, in evaluation mode; `attention` defaults to eager.

    Raises ValueError for a model with residual attention that is to be computed otherwise than it can be.
    """
    from safetensors.torch import load_file

    config = read_config(folder)
    _check_residual(config, attention or "eager", layers, as_published, recompute)
    config._attn_implementation = get_backend(attention or "eager").register()
    model = construct(config)
    cut_to_kept_heads(model)
    model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return _with_layers(model, layers, as_published, recompute).eval()


def cut_to_kept_heads(model: PatchTSTForPrediction) -> None:
    """Cut a full-size model to the shapes of its config's `kept_heads`; the weights are then to be loaded."""
    for attention, kept in zip(attention_layers(model), heads_per_layer(model), strict=True):
        rows = len(kept) * attention.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, nn.Linear(attention.embed_dim, rows))
        attention.out_proj = nn.Linear(rows, attention.embed_dim)
