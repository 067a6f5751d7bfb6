"""A pool of compiled Triton kernels, shared by processes whose caches of compiled code lie in different folders.

POOL/KEY.zip    the files of a kernel, or the library that launches kernels of a signature; KEY is Triton's own, a hash
                of sources, constants, options, target and versions
POOL/KEY.lock   held by the process that compiles it, so that those that start together compile each kernel once

Arms of a sweep differ in their attention, engine or batch, and have most of their layers' kernels in common. A file is
written whole and renamed, and has checksums: what a crash of the machine has cut is compiled again.
"""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from triton import knobs
from triton.runtime.cache import FileCacheManager

LONGEST_WAIT_S = 120.0  # for another process that compiles the same kernel; then this one does, too
LIBRARY = ".so"  # ends the name of what is stored alone; the files of a kernel are a group


@contextmanager
def shared(pool: Path) -> Iterator[None]:
    """Inside, Triton looks into `pool` for what its own cache lacks, and adds what this process compiles."""
    before = knobs.cache.manager_class
    knobs.cache.manager_class = type("PooledKernels", (_PooledKernels,), {"pool": pool})
    try:
        yield
    finally:
        knobs.cache.manager_class = before


class _PooledKernels(FileCacheManager):
    """Triton's cache of one kernel, in front of the pool. Triton asks it for a group, compiles, and puts the group."""

    pool: Path

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override=override, dump=dump)
        self._pooled = self.pool / f"{key}.zip"
        self._plain = override or dump
        self._lock = FileLock(self.pool / f"{key}.lock")

    def get_group(self, filename: str) -> dict[str, str] | None:
        group = super().get_group(filename)
        if group is not None or self._plain:
            return group
        group = self._taken(filename)
        if group is not None:
            return group
        with suppress(Timeout):
            self._lock.acquire(timeout=LONGEST_WAIT_S)  # `put_group` releases it, or the end of this object
        group = self._taken(filename)
        if group is not None:
            self._lock.release()
        return group

    def put_group(self, filename: str, group: Mapping[str, str]) -> str:
        stored = super().put_group(filename, dict(group))
        if not self._plain:
            self._give({name: Path(path).read_bytes() for name, path in group.items()})
            self._lock.release()
        return str(stored)

    def get_file(self, filename: str) -> str | None:
        file = super().get_file(filename)
        if file is None and filename.endswith(LIBRARY) and not self._plain:
            content = self._read().get(filename)
            file = None if content is None else super().put(content, filename)
        return file

    def put(self, data: Any, filename: str, binary: bool = True) -> str:
        file = str(super().put(data, filename, binary))
        if filename.endswith(LIBRARY) and not self._plain:
            self._give({filename: Path(file).read_bytes()})
        return file

    def _taken(self, filename: str) -> dict[str, str] | None:
        """The group from the pool, now in this cache too; None if the pool lacks it."""
        files = self._read()
        if filename not in files:
            return None
        group = {name: str(FileCacheManager.put(self, content, name)) for name, content in files.items()}
        FileCacheManager.put_group(self, filename, group)
        return group

    def _read(self) -> dict[str, bytes]:
        """The pool's files of this key; none if it has none that can be read whole."""
        try:
            with zipfile.ZipFile(self._pooled) as pooled:
                return {name: pooled.read(name) for name in pooled.namelist()}
        except (OSError, zipfile.BadZipFile):
            return {}

    def _give(self, files: Mapping[str, bytes]) -> None:
        """The pool is for speed only: where it cannot be written, the kernel is in the cache all the same."""
        draft = self._pooled.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
        try:
            with zipfile.ZipFile(draft, "w") as pooled:
                for name, content in files.items():
                    pooled.writestr(name, content)
            draft.replace(self._pooled)
        except OSError:
            draft.unlink(missing_ok=True)
