"""Compiled code on disk, shared by the trials of a storage folder.

COMPILE_DIR/KEY/about.json   in clear what the key is a hash of
COMPILE_DIR/KEY/inductor     PyTorch's compiler (generated code, FX graphs, AOTAutograd)
COMPILE_DIR/KEY/triton       Triton's kernels
COMPILE_DIR/KEY/warmed       one note for each set of shapes that a process went through to the end (`ShapeNotes`)

PyTorch keys what it keeps by the graph and its own settings. Two backends can have the same graph and differ in a
context manager that no key has, so each (backend, engine, precision) gets a folder of its own here, and so does every
version, GPU model, setting and state of our sources. The folders hold pickles: they must be their owner's only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tune.common.files import make_private, write_atomically
from tune.config.trial_config import TrialConfig
from tune.gate.identity import platform_identity

SHARED, ISOLATED = "shared", "isolated"  # values of the tag compile_cache
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}  # environment variable -> folder
COMPILER_SETTINGS = ("TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TRITON_")  # first words of variables


def identity(config: TrialConfig, device: torch.device) -> dict[str, Any]:
    """All that compiled code depends on, beside what PyTorch's own keys hold; its hash is the folder's name."""
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(COMPILER_SETTINGS)}
    return platform_identity(device) | {
        "attention": config.model.attention,
        "engine": config.train.engine,
        "precision": config.train.precision,
        "compiler": {name: value for name, value in settings.items() if name not in FOLDERS},
    }


def folder_for(compile_dir: Path, config: TrialConfig, device: torch.device, *, isolated: bool) -> Path:
    """Where a trial compiles into."""
    return compile_dir if isolated else compile_dir / _key(identity(config, device))


def use(compile_dir: Path, config: TrialConfig, device: torch.device, *, isolated: bool) -> str:
    """Let this process compile into its folder under `compile_dir`; into that itself if it is `isolated`.

    Returns the tag compile_cache. Call before anything is compiled. RuntimeError where others can write in there.
    """
    make_private(compile_dir, "compiled programs")
    folder = folder_for(compile_dir, config, device, isolated=isolated)
    if not isolated:
        make_private(folder, "compiled programs")
        write_atomically(folder / "about.json", _text(identity(config, device)))
    for variable, name in FOLDERS.items():
        make_private(folder / name, "compiled programs")
        os.environ[variable] = str(folder / name)
    return ISOLATED if isolated else SHARED


class ShapeNotes:
    """Notes on the shapes for which a folder holds all that training compiles. `folder`: None keeps no notes."""

    def __init__(self, folder: Path | None) -> None:
        self._notes = None if folder is None else folder / "warmed"

    def knows(self, shapes: Mapping[str, Any]) -> bool:
        """Whether some process was through with these shapes."""
        return self._notes is not None and (self._notes / f"{_key(shapes)}.json").exists()

    def note(self, shapes: Mapping[str, Any]) -> None:
        """This process is through with them."""
        if self._notes is not None:
            make_private(self._notes, "compiled programs")
            write_atomically(self._notes / f"{_key(shapes)}.json", _text(shapes))


def _key(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(about).encode()).hexdigest()[:24]


def _text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, indent=1)
