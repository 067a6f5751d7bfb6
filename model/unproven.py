"""Switches of paths that are tested without a GPU and have not run on one yet. Off: the path before them is taken.

Turn one on once its tests marked needs_gpu pass and its benchmark is not slower (docs/measurements.md); then remove the
switch and what it replaces. Importable without torch. No option of a sweep reads or sets them.
"""

from __future__ import annotations

EMBEDDING = False  # model/fused/embedding_kernels.py; benchmarks/ends.py
HEAD = False  # model/fused/head_kernels.py; benchmarks/ends.py
# Fused layers by `auto` for norm after the sublayer, layer norm, dropout inside and d_model above 128.
FUSED_EVERY_MODEL = False  # tests/model/fused/test_fused_gpu.py; benchmarks/step.py --set model.preset=ettm
RECOMPUTE = False  # model.recompute=auto may become always (tune/plan/memory.py); tests/model/test_recompute.py
EVALUATION = False  # larger evaluation batches on a GPU (tune/plan/memory.py); tests/tune/engine/test_evaluation.py
COMPILE_AHEAD = False  # tune/engine/kernel_threads.py; benchmarks/warmup.py
