"""accelerate(model): our attention and layers in a transformers PatchTSTForPrediction, checked on the spot.

The check is the gate's. Copies of the model, without dropout, run on the model's own device: in fp64, in plain
transformers, and with our parts. Forecasts and gradients with our parts may be at most twice as far from fp64 as those
of plain transformers at the same precision. The copies run with the model's own weights, and again with weights that
make a wrong attention show: those of a new model do not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PatchTSTForPrediction

from model import swap
from model.attention import BACKENDS
from model.guard import DTYPES, Checked
from model.heads import attention_layers, heads_per_layer
from tune.api.captured import Captures
from tune.common.errors import WrongInput, first_line, unknown_name
from tune.gate.check import FACTOR, SLACK, problem_of
from tune.gate.numerics import Measurement, batch_that_fits, fixed_weights, measure_models

LAYERS = ("auto", "fused", "transformers")
OWN, SHARP = "own weights", "sharp weights"
INSTEAD = "use the model as it is"


class CannotAccelerate(WrongInput):
    """A model cannot be accelerated, and is unchanged. One line says why; `reasons` has the reason of each part."""

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class PartlyAccelerated(UserWarning):
    """Only the attention, or only the layers of a model could be accelerated."""


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """What `accelerate` did to a model, and the figures of its check. The model keeps it as `model.acceleration`."""

    attention: bool
    """Whether attention runs in our kernels."""
    layers: bool
    """Whether the encoder's layers run in our kernels."""
    reasons: Mapping[str, str]
    """Why a part was left as it was, by its name: "attention", "layers"."""
    precision: str
    """For which the model was checked: fp32, tf32, bf16 or fp16. It refuses others."""
    device: str
    """On which the model was checked."""
    batch_size: int
    """Windows in each batch of the check."""
    checks: Mapping[str, Measurement]
    """Errors with the model's "own weights" and with "sharp weights": `.arm` of our parts, `.eager` of transformers'.

    Each has `predictions`, `gradients` and `worst_series`: relative Frobenius norms of the difference from fp64.
    """
    cuda_graph: bool
    """Whether passes of the encoder run as CUDA graphs."""
    former_attention: str
    """The `attn_implementation` that `restore` gives back."""

    def __str__(self) -> str:
        parts = [
            f"{name} {'yes' if done else f'no: {self.reasons[name]}'}"
            for name, done in (("attention", self.attention), ("layers", self.layers))
        ] + [f"CUDA graph {'yes' if self.cuda_graph else 'no'}"]
        figures = [
            f"with {name}, forecasts {found.arm.predictions:.1e} (transformers {found.eager.predictions:.1e}), "
            f"gradients {found.arm.gradients:.1e} ({found.eager.gradients:.1e})"
            for name, found in self.checks.items()
        ]
        return (
            f"{'; '.join(parts)}. Checked in {self.precision} on {self.device} at batch {self.batch_size}, "
            f"errors to fp64: {'; '.join(figures)}. Allowed: {FACTOR:g} x transformers' + {SLACK:.0e}"
        )


def accelerate(
    model: PatchTSTForPrediction, *, precision: str | None = None, layers: str = "auto", batch_size: int = 128,
    cuda_graph: bool = True,
) -> PatchTSTForPrediction:  # fmt: skip
    """Give `model` our attention and layers, in place, and return it; `model.acceleration` says what was done.

    Weights, their names and the optimizer's parameters stay the same objects. So the model may be in training, and
    `save_pretrained` writes a plain checkpoint. `restore(model)` undoes it.

    precision: in which the model will run: fp32, tf32, bf16 or fp16, the latter two by torch.autocast, as
    `TrainingArguments(bf16=True)` does. None: that of the moment; fp32 outside torch.autocast. The model then refuses
    to run in another. layers: "auto" takes our layers if they can compute the model, "fused" insists on them, and
    "transformers" leaves them out. batch_size: windows in a batch of the check; fewer if fp64 needs much.
    cuda_graph: on a GPU, the encoder's passes run as CUDA graphs, from the second batch of a shape on. Without it the
    host starts each kernel, and small models get slower (docs/accelerate.md, "The gain").

    Raises CannotAccelerate, with the model unchanged, if neither part or not all that was asked for can be
    accelerated, or if the check does not pass. Warns with PartlyAccelerated if one part cannot.
    """
    if reason := swap.model_reason(model):
        raise CannotAccelerate(f"cannot accelerate: {reason}; {INSTEAD}", {"model": reason})
    if layers not in LAYERS:
        raise unknown_name("layers", str(layers), LAYERS)
    device = next(model.parameters()).device
    precision = _precision(device) if precision is None else precision
    if precision not in DTYPES:
        raise unknown_name("precision", str(precision), DTYPES)
    reasons = _reasons(model, precision, layers, batch_size)
    former = swap.attention_of(model)
    checks = _check(model, reasons, precision, batch_size, device)
    checked = Checked(precision=precision, device_type=device.type)
    swap.swap(model, attention="attention" not in reasons, layers="layers" not in reasons, checked=checked)
    if cuda_graph and device.type == "cuda":
        model.model.encoder.captures = Captures()
    done = Acceleration(
        attention="attention" not in reasons,
        layers="layers" not in reasons,
        reasons=reasons,
        precision=precision,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        batch_size=checks[OWN].batch_size,
        checks=checks,
        cuda_graph=model.model.encoder.captures is not None,
        former_attention=former,
    )
    model.acceleration = done
    if reasons and layers != "transformers":
        ((part, reason),) = reasons.items()
        other = "attention yes" if part == "layers" else "layers yes"
        warnings.warn(f"partly accelerated: {other}, {part} no: {reason}", PartlyAccelerated, stacklevel=2)
    return model


def restore(model: PatchTSTForPrediction) -> PatchTSTForPrediction:
    """Undo `accelerate`, in place, and return the model. ValueError if it was not accelerated."""
    done = getattr(model, "acceleration", None)
    if not isinstance(done, Acceleration):
        raise ValueError("the model was not accelerated: there is nothing to restore")
    swap.unswap(model, done.former_attention)
    del model.acceleration
    return model


def register_attention() -> str:
    """Tell transformers of our attention and return its name: `attn_implementation="patch"` then works.

    It is unchecked: `accelerate` checks. Raises ValueError when it meets an attention mask, attention dropout, more
    than 128 patches, heads wider than 64, or a tensor that is not on a CUDA GPU.
    """
    return BACKENDS[swap.ATTENTION].register()


def _precision(device: torch.device) -> str:
    """In which a model on the device would run now."""
    if torch.is_autocast_enabled(device.type):
        kind = torch.get_autocast_dtype(device.type)
        return next((name for name, known in DTYPES.items() if known == kind), str(kind))
    relaxed = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if relaxed else "fp32"


def _reasons(model: Any, precision: str, layers: str, batch_size: int) -> dict[str, str]:
    """Why a part stays as it is, by part. Raises CannotAccelerate if nothing, or not what was asked for, is left."""
    unasked = 'layers="transformers" was given' if layers == "transformers" else None
    found = {
        "attention": swap.attention_reason(model, precision, batch_size),
        "layers": unasked or swap.layers_reason(model, precision),
    }
    reasons = {part: reason for part, reason in found.items() if reason}
    if len(reasons) == len(found) or (layers == "fused" and "layers" in reasons):
        text = "; ".join(f"{part}: {reason}" for part, reason in reasons.items())
        raise CannotAccelerate(f"cannot accelerate: {text}. Change this, or {INSTEAD}", reasons)
    return reasons


def _check(
    model: Any, reasons: Mapping[str, str], precision: str, batch_size: int, device: torch.device
) -> dict[str, Measurement]:
    """The errors with each set of weights. Raises CannotAccelerate if they are too large or cannot be measured."""
    fields = _fields(model)
    batch_size = batch_that_fits(fields, fields["num_heads"], batch_size, device)
    plain = _without_dropout(model)
    swap.use_attention(plain, "eager")
    ours = _without_dropout(model)
    swap.swap(ours, attention="attention" not in reasons, layers="layers" not in reasons, checked=None)
    checks = {}
    for name, weights in ((OWN, model.state_dict()), (SHARP, fixed_weights(plain))):
        try:
            checks[name] = measure_models(
                copy.deepcopy(plain), copy.deepcopy(ours), _copied(weights),
                fields=fields, precision=precision, batch_size=batch_size, device=device,
            )  # fmt: skip
        except Exception as error:
            what = f"the check with {name} ended in {type(error).__name__}: {first_line(error)}"
            raise CannotAccelerate(f"cannot accelerate: {what}; give a smaller batch_size, or {INSTEAD}") from error
        if problem := problem_of(checks[name]):
            raise CannotAccelerate(f"cannot accelerate: with {name}, {problem}; {INSTEAD}", {"check": problem})
    return checks


def _fields(model: Any) -> dict[str, Any]:
    """The model's shape in arguments of build_model."""
    config = model.config
    names = ("context_length", "prediction_length", "patch_length", "patch_stride", "d_model", "ffn_dim")
    return {name: getattr(config, name) for name in names} | {
        "num_channels": config.num_input_channels,
        "num_layers": config.num_hidden_layers,
        "num_heads": max(map(len, heads_per_layer(model))),
        "end_padding": getattr(config, "end_padding", False),
    }


def _without_dropout(model: nn.Module) -> Any:
    """A copy of the model that drops nothing."""
    made: Any = copy.deepcopy(model)
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for attention in attention_layers(made):
        attention.dropout = 0.0
    return made


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
