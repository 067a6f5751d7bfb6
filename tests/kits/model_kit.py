"""A small saved model for tests, with all heads or pruned, and the facts that it needs to forecast."""

from pathlib import Path
from typing import Any

import torch

from model.facts import FACTS, Facts
from model.patchtst import build_model, save_model
from model.pruning.surgery import remove_heads

COLUMNS = ("load", "OT")
L, H = 48, 10


def small_model(attention: str = "eager", pruned: bool = False, **fields: Any) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_channels": len(COLUMNS), "context_length": L, "prediction_length": H, "patch_length": 12,
        "patch_stride": 12, "d_model": 16, "num_heads": 4, "num_layers": 2, "ffn_dim": 24, "dropout": 0.0,
        "head_dropout": 0.2, "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True,
        "attention": attention,
    }  # fmt: skip
    model = build_model(**shape | fields)
    if pruned:
        remove_heads(model, None, {0: {1, 2}})
    return model


def small_facts(**fields: Any) -> Facts:
    known: dict[str, Any] = {
        "columns": COLUMNS, "step_minutes": 60.0, "mean": (10.0, 1 / 3), "std": (2.0, 0.1), "context_length": L,
        "prediction_length": H, "dataset": {"name": "demo"}, "trial": {"sweep_id": "s", "trial_id": "t"},
        "versions": {"torch": "2.11.0+cu130"},
    }  # fmt: skip
    return Facts(**known | fields)


def save_small(folder: Path, attention: str = "eager", pruned: bool = False, **facts: Any) -> Path:
    model = small_model(attention, pruned)
    save_model(model, folder, files={FACTS: small_facts(**facts).as_json()})
    return folder
