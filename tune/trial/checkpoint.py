"""A trial on disk between two epochs. Read back without unpickling: safetensors, and torch.load(weights_only=True).

model/        the weights as they are (pruned shapes included)
best.safetensors   weights of the best epoch so far, if that is another one; of the best epoch itself model/ has them
moments.safetensors   the optimizer's, by "number of the parameter.name"
state.pt      loss scale, RNG, progress and the time taken
samples/      raw samples of the epochs so far (tune.measure.raw_samples)
files.json    what each of them holds (tune.storage.checksums), from whoever hands the checkpoint on: a damaged one is passed over

The device waits while this is written. So everything comes from it in one copy, what was written already is linked, and
nothing is compressed or forced to the disk: what is written outlives any process. A machine that loses its power may
leave a damaged one: then the trial goes on from the one before it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.numpy import save_file as write_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.facts import WEIGHTS
from model.patchtst import load_model, save_model
from tune.engine.optimizer import make_optimizer
from tune.trial.state import TrialState

if TYPE_CHECKING:
    from tune.trial.session import Session


def save(folder: Path, session: Session) -> None:
    """Write `session` into the new folder `folder`, beside those of its other epochs."""
    folder.mkdir(parents=True)
    weights = session.model.state_dict()
    moments = _moments(session.optimizer)
    on_host = session.host_copy.of({**weights, **moments})
    save_model(session.model, folder / "model", weights={name: on_host[name] for name in weights})
    write_tensors({name: on_host[name].numpy() for name in moments}, folder / "moments.safetensors")
    _save_best(folder, session)
    session.samples.write(folder / "samples", compressed=False)
    with (folder / "state.pt").open("wb") as file:  # given a path, torch does not say that the disk is full
        torch.save(_state(session), file)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def _save_best(folder: Path, session: Session) -> None:
    """The file that the best epoch's weights were written to is kept beside the epochs, and linked from then on."""
    kept, file = folder.parent / "best.safetensors", folder / "best.safetensors"
    if session.best_state is None:
        return
    if session.progress.best_epoch == session.progress.epoch:
        kept.unlink(missing_ok=True)
        _link(folder / "model" / WEIGHTS, kept)
    elif kept.exists():
        _link(kept, file)
    else:  # the best epoch was before an interruption
        save_file({name: value.contiguous() for name, value in session.best_state.items()}, kept)
        _link(kept, file)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _state(session: Session) -> dict[str, Any]:
    """What is no large tensor."""
    state: dict[str, Any] = {
        "progress": asdict(session.progress) | {"gpus": session.progress.ran_on(session.meter.uuid)},
        "spent_ms": session.spans.spent_ms(),
        "rng_cpu": torch.get_rng_state(),
    }
    if session.device.type == "cuda":
        state["rng_cuda"] = torch.cuda.get_rng_state()
    if session.scaler is not None:
        state["scaler"] = session.scaler.state_dict()
    return state


def restore(folder: Path, session: Session) -> None:
    """Put `session` where `save` left it: shapes, weights, moments, RNG and progress."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    session.model = load_model(folder / "model", **session.config.model.computed_by).to(session.device)
    session.optimizer = make_optimizer(session.model, learning_rate=session.config.train.learning_rate)
    # Moments only: learning rate and beta1 come from the schedule, the rest is how this process runs its optimizer
    session.optimizer.load_state_dict(session.optimizer.state_dict() | {"state": _read_moments(folder)})
    if session.scaler is not None:
        session.scaler.load_state_dict(state["scaler"])
    session.progress = TrialState(**state["progress"])
    session.best_state = _read_best(folder, session)
    session.spans.earlier_ms = state.get("spent_ms")  # None in a checkpoint of an earlier version
    session.samples.restore(folder / "samples")
    torch.set_rng_state(state["rng_cpu"])
    if session.device.type == "cuda":
        torch.cuda.set_rng_state(state["rng_cuda"])


def _read_moments(folder: Path) -> dict[int, dict[str, Tensor]]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / "moments.safetensors").items():
        number, _, kind = name.partition(".")
        found.setdefault(int(number), {})[kind] = value
    return found


def _read_best(folder: Path, session: Session) -> dict[str, Tensor] | None:
    best, epoch = session.progress.best_epoch, session.progress.epoch
    if not best:
        return None
    file = folder / "model" / WEIGHTS if best == epoch else folder / "best.safetensors"
    return load_file(file, device=str(session.device))
