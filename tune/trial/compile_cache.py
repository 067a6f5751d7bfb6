"""Compiled code on disk, shared by the trials of a storage folder.

COMPILE_DIR/KEY/about.json   what the key is a hash of
COMPILE_DIR/KEY/inductor     PyTorch's compiler: generated code, FX graphs, AOTAutograd entries
COMPILE_DIR/KEY/triton       Triton's kernels
COMPILE_DIR/KEY/warmed       a note for each set of shapes for which everything is compiled (`ShapeNotes`)
COMPILE_DIR/headers          C++ headers that are precompiled for a CPU, 120 MB each, for all keys
COMPILE_DIR/kernels-KEY      a GPU's Triton kernels again, for all keys of its model (tune.engine.kernel_pool)

`tune.trial.cache_guard` removes files that killed processes have left; it keeps its manifest and marks beside them.

PyTorch's own keys hold the graph and its settings. Two backends can have the same graph and differ in a context manager
that is in no key. So each (backend, engine, precision) has a folder of its own here, and so has every version, GPU
model, setting and state of our sources. The folders hold pickles: only their owner may write there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tune.common.errors import GateFailed, Unsupported, disk_full
from tune.common.files import make_private, write_atomically
from tune.common.published import PublishedFault
from tune.config.trial_config import TrialConfig
from tune.gate.identity import platform_identity
from tune.machine.out_of_memory import is_out_of_memory, lost_a_worker
from tune.trial.cache_guard import CacheGuard
from tune.trial.job import HandOver

SHARED, ISOLATED = "shared", "isolated"  # values of the tag compile_cache
FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}  # environment variable -> folder
NOTES = "warmed"  # folder of ShapeNotes
COMPILER_SETTINGS = ("TORCHINDUCTOR_", "TORCH_COMPILE", "TORCHDYNAMO_", "TRITON_")  # first words of variables


def compiled_for(config: TrialConfig, device: torch.device) -> dict[str, Any]:
    """Everything that compiled code depends on and PyTorch's own keys lack. Its hash is the folder's name."""
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(COMPILER_SETTINGS)}
    return platform_identity(device) | {
        "attention": config.model.attention,
        "engine": config.train.engine,
        "precision": config.train.precision,
        "compiler": {name: value for name, value in settings.items() if name not in FOLDERS},
    }


def folder_for(compile_dir: Path, config: TrialConfig, device: torch.device, *, isolated: bool) -> Path:
    """The folder that a trial compiles into."""
    return compile_dir if isolated else compile_dir / _key(compiled_for(config, device))


_guards: list[CacheGuard] = []  # of the folders that this process compiles into


@contextmanager
def use(compile_dir: Path, config: TrialConfig, device: torch.device, *, isolated: bool) -> Iterator[str]:
    """Inside, this process compiles into its folder under `compile_dir`, or into `compile_dir` itself if `isolated`.

    Yields the tag compile_cache. Enter before anything is compiled. RuntimeError if others can write to the folder.
    After a failure that compiled code may have caused, the next process compiles everything anew, and takes
    from the pool only what has its checksum.
    """
    make_private(compile_dir, "compiled programs")
    folder = folder_for(compile_dir, config, device, isolated=isolated)
    if not isolated:
        make_private(folder, "compiled programs")
        write_atomically(folder / "about.json", _text(compiled_for(config, device)))
    for variable, name in FOLDERS.items():
        make_private(folder / name, "compiled programs")
        os.environ[variable] = str(folder / name)
    _guards[:] = [CacheGuard(folder, (*FOLDERS.values(), NOTES))]
    if config.compiles:
        headers = compile_dir / "headers" if device.type == "cpu" else folder
        _keep_headers_in(headers / "inductor")
        if headers != folder:
            _guards.append(CacheGuard(headers, ("inductor",)))
    try:
        begin()
        with nullcontext() if isolated else _pooled_kernels(compile_dir, device):
            yield ISOLATED if isolated else SHARED
    except (HandOver, Unsupported, GateFailed, PublishedFault):  # no failure of what was compiled
        end()
        raise
    except Exception as error:
        may_be_cut = is_out_of_memory(error) or lost_a_worker(error) or disk_full(error)  # but not the older files
        for guard in _guards:
            guard.abandon() if may_be_cut else guard.distrust()
        raise
    except BaseException:
        for guard in _guards:
            guard.abandon()
        raise
    else:
        end()
    finally:
        _guards.clear()


def _pooled_kernels(compile_dir: Path, device: torch.device) -> AbstractContextManager[None]:
    """Inside, processes that compile into different folders share their Triton kernels."""
    if device.type != "cuda" or find_spec("triton") is None:
        return nullcontext()
    from tune.engine import kernel_pool

    about = platform_identity(device)
    pool = compile_dir / f"kernels-{_key(about)}"
    make_private(pool, "compiled programs")
    write_atomically(pool / "about.json", _text(about))
    return kernel_pool.shared(pool)


def begin() -> None:
    """This process may compile from now on."""
    for guard in _guards:
        guard.begin()


def end() -> None:
    """This process has compiled all that it needs for now. Before a timed epoch: it flushes files to the disk."""
    for guard in _guards:
        guard.end()


def _keep_headers_in(folder: Path) -> None:
    """By default they lie in one folder below /tmp, for all of a user's programs."""
    from torch._inductor import codecache

    make_private(folder, "compiled programs")
    if str(folder) != codecache._HEADER_DIR:
        codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(folder), str(folder / "locks")
        codecache._precompile_header.cache_clear()


class ShapeNotes:
    """Notes on the shapes for which a folder holds all that training compiles. `folder`: None keeps no notes."""

    def __init__(self, folder: Path | None) -> None:
        self._notes = None if folder is None else folder / NOTES

    def knows(self, shapes: Mapping[str, Any]) -> bool:
        """Whether a process has compiled everything for these shapes."""
        return self._notes is not None and (self._notes / f"{_key(shapes)}.json").exists()

    def note(self, shapes: Mapping[str, Any]) -> None:
        """This process has compiled everything for these shapes."""
        if self._notes is not None:
            make_private(self._notes, "compiled programs")
            write_atomically(self._notes / f"{_key(shapes)}.json", _text(shapes))


def _key(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(about).encode()).hexdigest()[:24]


def _text(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, indent=1)
