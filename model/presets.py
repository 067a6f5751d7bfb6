"""Named model shapes: flat fields, in the words of `build_model` and of `--set model.FIELD=VALUE`."""

from __future__ import annotations

from typing import Any

# `study`: the model of every arm of github.com/divyatadimeti/patchtst_flashattention (patchtst_model.py). Its
# `dropout=0.2` is no field of PatchTSTConfig and was ignored there, so the model that it measured has dropout 0
# and only the forecasting head's dropout of 0.2.
# `tiny`: the same, cut to what a laptop's CPU trains in seconds.
PRESETS: dict[str, dict[str, Any]] = {
    "study": {
        "d_model": 128,
        "num_heads": 16,
        "num_layers": 3,
        "ffn_dim": 512,
        "dropout": 0.0,
        "head_dropout": 0.2,
        "attention_dropout": 0.0,
        "context_length": 512,
        "patch_length": 12,
        "norm_type": "batchnorm",
        "pre_norm": True,
    },
    "tiny": {
        "d_model": 64,
        "num_heads": 16,
        "num_layers": 1,
        "ffn_dim": 64,
        "dropout": 0.0,
        "head_dropout": 0.2,
        "attention_dropout": 0.0,
        "context_length": 512,
        "patch_length": 12,
        "norm_type": "batchnorm",
        "pre_norm": True,
    },
}
