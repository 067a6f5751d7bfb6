"""Reads a file as the converter does, without converting it."""

from __future__ import annotations

import numpy as np

from data_pipeline.options import DataOptions
from data_pipeline.source.readers import open_source


def read(path, options=None, only=None, **given):
    """All rows: the source after its last chunk, times and values."""
    source = open_source(path, options or DataOptions(**given), only)
    chunks = list(source.chunks())
    source.faults.raise_if_any()
    return source, np.concatenate([c.timestamps for c in chunks]), np.concatenate([c.values for c in chunks])
