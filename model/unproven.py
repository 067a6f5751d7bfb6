"""Switches of paths that are tested without a GPU and have not run on one yet. Off: the path before them is taken.

Turn one on once its tests marked needs_gpu pass and its benchmark is not slower (docs/measurements.md); then remove the
switch and what it replaces. Importable without torch. No option of a sweep reads or sets them.
"""

from __future__ import annotations

RECOMPUTE = False  # model.recompute=auto may become always (tune/plan/memory.py); tests/model/test_recompute.py
COMPILE_AHEAD = False  # tune/engine/kernel_threads.py; benchmarks/warmup.py
