"""PRESETS: named models with their training recipes, keyed by field name as `--set` takes them. Planning-safe."""

from __future__ import annotations

from typing import Any

# github.com/yuqinie98/PatchTST, PatchTST_supervised/scripts/PatchTST/{etth1,ettm1,weather}.sh and
# scripts/EXP-LongForecasting/PatchTST/{traffic,electricity,illness}.sh (context 336, "PatchTST/42"; illness 104), what
# they leave out from run_longExp.py; norms and dropouts from layers/PatchTST_backbone.py. Not taken over, as what they
# are worth has not been measured: docs/official-model.md lists them with their fields.
_OFFICIAL: dict[str, Any] = {
    "data.context_length": 336,
    "model.patch_length": 16,
    "model.patch_stride": 8,
    "model.d_model": 128,
    "model.num_heads": 16,
    "model.num_layers": 3,
    "model.ffn_dim": 256,
    "model.dropout": 0.2,
    "model.head_dropout": 0.0,
    "model.attention_dropout": 0.0,
    "model.norm_type": "batchnorm",
    "model.pre_norm": False,
    "train.batch_size": 128,
    "train.epochs": 100,
    "train.learning_rate": 1e-4,
}

# github.com/divyatadimeti/patchtst_flashattention, patchtst_model.py: the model of every arm of that study. Its
# `dropout=0.2` is no field of PatchTSTConfig and was ignored there. The model that it measured has dropout 0 and only
# the forecasting head's dropout of 0.2. Its recipe is not taken over: batch size and epochs are swept.
_STUDY: dict[str, Any] = {
    "data.context_length": 512,
    "model.patch_length": 12,
    "model.d_model": 128,
    "model.num_heads": 16,
    "model.num_layers": 3,
    "model.ffn_dim": 512,
    "model.dropout": 0.0,
    "model.head_dropout": 0.2,
    "model.attention_dropout": 0.0,
    "model.norm_type": "batchnorm",
    "model.pre_norm": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "study": _STUDY,
    # What a laptop's CPU trains in seconds.
    "tiny": _STUDY | {"model.d_model": 64, "model.num_layers": 1, "model.ffn_dim": 64},
    "etth": _OFFICIAL
    | {
        "model.d_model": 16,
        "model.num_heads": 4,
        "model.ffn_dim": 128,
        "model.dropout": 0.3,
        "train.schedule": "type3",
        "train.patience": 100,
    },
    "ettm": _OFFICIAL | {"train.schedule": "one_cycle", "train.pct_start": 0.4, "train.patience": 20},
    "traffic": _OFFICIAL
    | {"train.batch_size": 24, "train.schedule": "one_cycle", "train.pct_start": 0.2, "train.patience": 10},
    "electricity": _OFFICIAL
    | {"train.batch_size": 32, "train.schedule": "one_cycle", "train.pct_start": 0.2, "train.patience": 10},
    "weather": _OFFICIAL | {"train.schedule": "type3", "train.patience": 20},
    # The paper's horizons are 24, 36, 48 and 60 weeks.
    "illness": _OFFICIAL
    | {
        "data.context_length": 104,
        "data.prediction_length": 24,
        "model.patch_length": 24,
        "model.patch_stride": 2,
        "model.d_model": 16,
        "model.num_heads": 4,
        "model.ffn_dim": 128,
        "model.dropout": 0.3,
        "train.batch_size": 16,
        "train.learning_rate": 2.5e-3,
        "train.schedule": "constant",
        "train.patience": 100,
    },
}


def build_fields(preset: str) -> dict[str, Any]:
    """A preset's fields that `model.patchtst.build_model` takes beside the number of channels and the horizon."""
    fields = {
        name.split(".", 1)[1]: value
        for name, value in PRESETS[preset].items()
        if name.startswith("model.") or name == "data.context_length"
    }
    return {"patch_stride": fields["patch_length"]} | fields
