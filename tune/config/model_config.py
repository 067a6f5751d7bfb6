"""ModelConfig: the fields of the network. Planning-safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tune.common.published import PublishedModel
from tune.config.base import Frozen

# Fields that say how a model is computed, not what it is: the same weights fit, and loading a model takes these anew.
COMPUTED_BY = ("attention", "layers", "as_published", "recompute")
PLAIN_MODEL: Mapping[str, str | None] = {
    "attention": "eager",
    "layers": "transformers",
    "as_published": None,
    "recompute": "never",
}
# What models of earlier versions were without saying it: their sweeps are the same sweeps today.
UNSAID_OF_A_MODEL: Mapping[str, Any] = {
    "recompute": "never",
    "init": "transformers",
    "positions": "sincos",
    "position_dropout": None,
    "attention_output_dropout": 0.0,
    "attention_residual_dropout": None,
    "ffn_dropout": None,
    "ffn_residual_dropout": None,
    "end_padding": False,
    "residual_attention": False,
}


class ModelConfig(Frozen):
    """The network: transformers' PatchTSTForPrediction at these widths."""

    preset: str  # a name in model.presets.PRESETS; fills the fields that are not given
    attention: str = "auto"  # a name in model.attention.BACKENDS
    as_published: PublishedModel | None = None  # an arm of the replaced study; only the sweep seed_study sets it
    layers: Literal["auto", "transformers", "fused"] = "auto"  # code of the encoder; auto: fused where it can
    recompute: Literal["auto", "never", "always"] = "auto"  # layers again in the backward pass; auto: if it must be
    patch_length: int = Field(ge=1)  # time steps in a patch
    patch_stride: int = Field(ge=1)  # time steps between patch starts
    d_model: int = Field(ge=2, le=16_384)  # even
    num_heads: int = Field(ge=1, le=1_024)  # of each layer; divides d_model
    num_layers: int = Field(ge=1, le=256)  # of the encoder
    ffn_dim: int = Field(ge=1, le=65_536)  # width inside a feed-forward layer
    dropout: float = Field(ge=0, lt=1)  # after positions, in the residual path and in the feed-forward layers
    head_dropout: float = Field(ge=0, lt=1)  # before the forecasting head
    attention_dropout: float = Field(ge=0, lt=1)  # of attention's weights
    norm_type: Literal["batchnorm", "layernorm"]  # of the encoder's layers
    pre_norm: bool  # whether a layer norms its input, not its output
    init: Literal["transformers", "torch"] = "transformers"  # linear layers: N(0, 0.02), or torch's U(+-1/sqrt(inputs))
    positions: Literal["sincos", "learned"] = "sincos"  # a fixed table of deviation 0.1, or trained from U(+-0.02)
    position_dropout: float | None = Field(None, ge=0, lt=1)  # after positions; none: model.dropout
    attention_output_dropout: float | None = Field(0.0, ge=0, lt=1)  # on attention's output; none: model.dropout
    attention_residual_dropout: float | None = Field(None, ge=0, lt=1)  # before its residual; none: model.dropout
    ffn_dropout: float | None = Field(None, ge=0, lt=1)  # after the activation inside; none: model.dropout
    ffn_residual_dropout: float | None = Field(None, ge=0, lt=1)  # before that layer's residual; none: model.dropout
    end_padding: bool = False  # one patch more at the end, of the last value; patches then begin at the first step
    residual_attention: bool = False  # scores are added to those of the layer before; eager, transformers' layers only

    @property
    def computed_by(self) -> dict[str, Any]:
        """Arguments of `model.patchtst.load_model` besides the folder."""
        return {name: getattr(self, name) for name in COMPUTED_BY}

    @property
    def said(self) -> dict[str, Any]:
        """The fields as JSON values, without what earlier versions did not say."""
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if UNSAID_OF_A_MODEL.get(name, ...) != value}

    @property
    def layer_dropout(self) -> float:
        """The highest rate inside the encoder's layers, attention's weights aside."""
        paths = (self.attention_residual_dropout, self.ffn_dropout, self.ffn_residual_dropout)
        rates = (self.dropout if rate is None else rate for rate in paths)
        return max(self.attention_output_dropout or 0.0, *rates)

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, values: Any) -> Any:
        """None for the second dropout after attention becomes its number: a store keeps no None."""
        if isinstance(values, dict) and values.get("attention_output_dropout", 0.0) is None:
            return values | {"attention_output_dropout": values.get("dropout")}
        return values

    @model_validator(mode="after")
    def _width_fits(self) -> Self:
        if self.d_model % 2 and self.positions == "sincos":
            raise ValueError(
                f"model.d_model={self.d_model} must be even: the position table has a sine and a cosine for each "
                "pair of columns"
            )
        if self.d_model % self.num_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide model.d_model={self.d_model}; choose a divisor"
            )
        return self
