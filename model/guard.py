"""Encoders of a model that was accelerated: they compute what was checked, and refuse everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoder

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """For what a model was checked."""

    precision: str  # fp32 tf32 bf16 fp16
    device_type: str  # "cuda" or "cpu"


class Guard:
    """The first base of a guarded encoder."""

    checked: Checked
    captures: Any = None
    """What may run a pass as a CUDA graph (`tune.api.captured`); None: every pass runs kernel by kernel."""
    keeps_states = True
    """Whether it can return the hidden states of each layer."""

    def forward(
        self,
        patch_input: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the encoder itself. ValueError for another precision or device, and for outputs that it does not have."""
        if output_attentions:
            raise ValueError("an accelerated model returns no attention weights: call restore(model) first")
        if output_hidden_states and not self.keeps_states:
            raise ValueError("accelerated layers return no hidden states: call restore(model) first")
        checked, kind, device = self.checked, compute_type(patch_input), patch_input.device.type
        if device != checked.device_type or kind != DTYPES[checked.precision]:
            raise ValueError(
                f"this model was accelerated for {checked.precision} on {checked.device_type} and got "
                f"{str(kind).removeprefix('torch.')} on {device}: call it as it was checked (bf16 and fp16 inside "
                "torch.autocast), or call restore(model) and accelerate(model, precision=...)"
            )
        forward: Any = super().forward  # type: ignore[misc]
        if self.captures is None or output_hidden_states or torch.compiler.is_compiling():
            return forward(patch_input, output_hidden_states=output_hidden_states, **options)
        found = self.captures.run(self, lambda x: forward(x, **options).last_hidden_state, patch_input)
        return BaseModelOutput(last_hidden_state=found)


class GuardedEncoder(Guard, PatchTSTEncoder):
    """transformers' encoder with our attention."""


def compute_type(x: Tensor) -> torch.dtype:
    """The type in which layers compute: autocast's, or that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
