"""A trial on disk between two epochs. Reading it unpickles nothing: safetensors, and torch.load(weights_only=True).

model/        the current weights (pruned shapes included)
best.safetensors   weights of the best epoch so far; absent if that is this epoch, whose weights are in model/
moments.safetensors   the optimizer's moments, named "NUMBER OF THE PARAMETER.NAME"
state.pt      loss scale, random number generators, progress, and the time taken
samples/      raw samples of the epochs so far (tune.measure.raw_samples)
files.json    manifest of these files (tune.storage.checksums), written by the process that passes the checkpoint on.
              A damaged checkpoint is skipped

The device waits while a checkpoint is written. So all tensors come from it in one copy, files that exist already are
linked, and nothing is compressed or forced to disk: what is written outlives any process. A power failure may damage
the newest checkpoint; the trial then continues from the one before.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file as write_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.facts import WEIGHTS
from model.patchtst import load_model, save_model
from tune.config.trial_config import TrialConfig
from tune.engine.optimizer import make_optimizer
from tune.trial.state import TrialProgress, TrialState


def save(folder: Path, state: TrialState) -> None:
    """Write `state` into the new folder `folder`, beside the folders of the trial's other epochs."""
    folder.mkdir(parents=True)
    weights = state.model.state_dict()
    moments = _moments(state.optimizer)
    on_host = state.host_copy.of({**weights, **moments})
    save_model(state.model, folder / "model", weights={name: on_host[name] for name in weights})
    write_tensors({name: on_host[name].numpy() for name in moments}, folder / "moments.safetensors")
    _save_best(folder, state)
    state.samples.write(folder / "samples", compressed=False)
    with (folder / "state.pt").open("wb") as file:  # given a path, torch hides that the disk is full
        torch.save(_small_values(state), file)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def _save_best(folder: Path, state: TrialState) -> None:
    """The best epoch's weights are written once, into a file beside the epochs' folders, and linked from then on."""
    kept, file = folder.parent / "best.safetensors", folder / "best.safetensors"
    if state.best_weights is None:
        return
    if state.progress.best_epoch == state.progress.epoch:
        kept.unlink(missing_ok=True)
        _link(folder / "model" / WEIGHTS, kept)
    elif kept.exists():
        _link(kept, file)
    else:  # the best epoch was before an interruption
        save_file({name: value.contiguous() for name, value in state.best_weights.items()}, kept)
        _link(kept, file)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _small_values(state: TrialState) -> dict[str, Any]:
    """What state.pt holds: all but the large tensors."""
    values: dict[str, Any] = {
        "progress": asdict(state.progress),
        "spent_ms": state.timeline.spent_ms(),
        "rng_cpu": torch.get_rng_state(),
    }
    if state.device.type == "cuda":
        values["rng_cuda"] = torch.cuda.get_rng_state()
    if state.scaler is not None:
        values["scaler"] = state.scaler.state_dict()
    return values


def restore(folder: Path, config: TrialConfig, state: TrialState) -> None:
    """Put `state`, and the random number generators, where `save` left them: shapes, weights, moments, progress."""
    values = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    state.model = load_model(folder / "model", **config.model.computed_by).to(state.device)
    state.optimizer = make_optimizer(state.model, learning_rate=config.train.learning_rate)
    # Moments only: learning rate and beta1 come from the schedule, the rest is how this process runs its optimizer
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": _read_moments(folder)})
    if state.scaler is not None:
        state.scaler.load_state_dict(values["scaler"])
    state.progress = TrialProgress(**values["progress"])
    state.best_weights = _read_best(folder, state)
    state.timeline.earlier_ms = values.get("spent_ms")  # None in a checkpoint of an earlier version
    state.samples.restore(folder / "samples")
    torch.set_rng_state(values["rng_cpu"])
    if state.device.type == "cuda":
        torch.cuda.set_rng_state(values["rng_cuda"])


def _read_moments(folder: Path) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / "moments.safetensors").items():
        number, _, kind = name.partition(".")
        moments.setdefault(int(number), {})[kind] = value
    return moments


def _read_best(folder: Path, state: TrialState) -> dict[str, Tensor] | None:
    best, epoch = state.progress.best_epoch, state.progress.epoch
    if not best:
        return None
    file = folder / "model" / WEIGHTS if best == epoch else folder / "best.safetensors"
    return load_file(file, device=str(state.device))
