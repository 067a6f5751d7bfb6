"""Models of transformers as its users build them, and a few steps of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPrediction

SHAPE: dict[str, Any] = {
    "num_input_channels": 2, "context_length": 24, "prediction_length": 4, "patch_length": 8, "patch_stride": 8,
    "d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 16, "pooling_type": None,
}  # fmt: skip


def plain_model(**changes: Any) -> PatchTSTForPrediction:
    """The same weights each time, for the same shape."""
    torch.manual_seed(0)
    return PatchTSTForPrediction(PatchTSTConfig(**SHAPE | changes))


class Windows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Windows of sines, as transformers' Trainer takes them."""

    def __init__(self, model: PatchTSTForPrediction, count: int) -> None:
        config: Any = model.config
        length = config.context_length + config.prediction_length
        times = torch.arange(length)[None, :, None] + 5 * torch.arange(count)[:, None, None]
        values = torch.sin(times / torch.arange(3, 3 + config.num_input_channels))
        self._past, self._future = values.split([config.context_length, config.prediction_length], dim=1)

    def __len__(self) -> int:
        return len(self._past)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"past_values": self._past[index], "future_values": self._future[index]}


def trainer_losses(model: PatchTSTForPrediction, folder: Any, *, steps: int, batch: int, **options: Any) -> list[float]:
    """The loss of each step of transformers' Trainer, which saves the model in `folder` at the end."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch, logging_steps=1, report_to=[],
        save_strategy="no", learning_rate=1e-3, seed=1, disable_tqdm=True, dataloader_pin_memory=False, **options,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(model, steps * batch))
    trainer.train()
    trainer.save_model(str(folder))
    # In half precision it leaves its autocast around the model's forward
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def forecasts(model: nn.Module, batch: int = 2) -> Tensor:
    """Of a fixed batch, in evaluation mode."""
    config: Any = model.config
    past = torch.randn(
        batch, config.context_length, config.num_input_channels, generator=torch.Generator().manual_seed(3)
    )
    training = model.training
    with torch.no_grad():
        found: Tensor = model.eval()(past_values=past.to(next(model.parameters()).device)).prediction_outputs
    model.train(training)
    return found
