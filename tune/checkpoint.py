"""A trial on disk between two epochs. Read back without unpickling: safetensors, and torch.load(weights_only=True).

model/        the weights as they are (pruned shapes included)
best.safetensors   weights of the best epoch so far, if there is one
state.pt      moments, loss scale, RNG, progress and the time taken
samples/      raw samples of the epochs so far (tune.raw_samples)
files.json    what each of them holds (tune.whole): a damaged one is not gone on from
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from model.patchtst import load_model, save_model
from tune.step import make_optimizer
from tune.trial import Progress
from tune.whole import seal

if TYPE_CHECKING:
    from tune.session import Session


def save(folder: Path, session: Session) -> None:
    """Write `session` into the new folder `folder`."""
    folder.mkdir(parents=True)
    save_model(session.model, folder / "model")
    session.samples.write(folder / "samples")
    if session.best_state is not None:
        save_file({name: value.contiguous() for name, value in session.best_state.items()}, folder / "best.safetensors")
    state: dict[str, Any] = {
        "progress": asdict(session.progress) | {"gpus": session.progress.ran_on(session.meter.uuid)},
        "spent_ms": session.spans.spent_ms(),
        "optimizer": session.optimizer.state_dict(),
        "rng_cpu": torch.get_rng_state(),
    }
    if session.device.type == "cuda":
        state["rng_cuda"] = torch.cuda.get_rng_state()
    if session.scaler is not None:
        state["scaler"] = session.scaler.state_dict()
    with (folder / "state.pt").open("wb") as file:  # given a path, torch does not say that the disk is full
        torch.save(state, file)
    seal(folder)


def restore(folder: Path, session: Session) -> None:
    """Put `session` where `save` left it: shapes, weights, moments, RNG and progress."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    fields = session.config.model
    session.model = load_model(
        folder / "model", attention=fields.attention, layers=fields.layers, as_published=fields.as_published
    ).to(session.device)
    session.optimizer = make_optimizer(session.model, learning_rate=session.config.train.learning_rate)
    # Moments only: learning rate and beta1 come from the schedule, the rest is how this process runs its optimizer
    session.optimizer.load_state_dict(session.optimizer.state_dict() | {"state": state["optimizer"]["state"]})
    if session.scaler is not None:
        session.scaler.load_state_dict(state["scaler"])
    best = folder / "best.safetensors"
    session.best_state = load_file(best, device=str(session.device)) if best.exists() else None
    session.progress = Progress(**state["progress"])
    session.spans.earlier_ms = state.get("spent_ms")  # None in a checkpoint of an earlier version
    session.samples.restore(folder / "samples")
    torch.set_rng_state(state["rng_cpu"])
    if session.device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"])
