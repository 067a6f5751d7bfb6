"""One series in one Arrow IPC file: written in bounded memory, mapped without a copy.

The file holds one record batch, so every column is one block. `values` and `scaled` are fixed-size lists of C float32,
raw and standardised; the third column is `timestamp`. A series with filled cells has a fourth, `filled`, of C bytes a
row. The rest of what is known of the series is JSON in the metadata of the schema.

Shapes: T rows, C columns.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

COPY_BYTES = 4 << 20
MAP_NORESERVE = 0x4000
"""Linux's (bits/mman-map-flags-generic.h); Python has no name for it before 3.13."""
METADATA_KEY = b"series"
METADATA_CRC = "metadata_crc32"
ARRAYS = ("values", "scaled", "timestamp")
MASK = "filled"
"""The optional fourth array: which cells the source lacks, and `values` has all the same."""
_DTYPES: dict[str, Any] = {"values": np.float32, "scaled": np.float32, "timestamp": np.int64, MASK: np.uint8}


class DamagedFile(Exception):
    """The file is not as it was written. The message says what is wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedFile:
    """A mapped file. Its arrays are views of the page cache, which all processes of the node share."""

    arrays: dict[str, np.ndarray]
    """`values`, `scaled` [T, C] float32, `timestamp` [T] datetime64[us], and `filled` [T, C] uint8 if cells were.

    They are writable (copy-on-write), so that torch takes them without a copy: hand out read-only views.
    """
    metadata: dict[str, Any]
    offsets: dict[str, int]
    """Of each array in the file, in bytes."""


class Scratch:
    """Raw columns on disk while a source is read: an Arrow batch must know its length before its data.

    With `masked`, it also holds which cells were filled.
    """

    def __init__(self, folder: Path, n_columns: int, *, masked: bool = False) -> None:
        """Make the files in the new folder `folder`. Raises OSError."""
        folder.mkdir()
        self.names = (*ARRAYS, MASK) if masked else ARRAYS
        self.n_columns = n_columns
        self._files = {name: open(folder / name, "w+b") for name in self.names}  # noqa: SIM115
        self.rows = 0

    @property
    def masked(self) -> bool:
        """Whether it holds which cells were filled."""
        return MASK in self._files

    def append(self, timestamps: np.ndarray, values: np.ndarray, filled: np.ndarray | None = None) -> None:
        """Add timestamps [n] int64, values [n, C] float32 and, if masked, which of them were filled [n, C]."""
        self._write("timestamp", timestamps)
        self._write("values", values)
        if filled is not None:
            self._write(MASK, filled.astype(np.uint8))
        self.rows += len(values)

    def append_scaled(self, scaled: np.ndarray) -> None:
        """Add standardised values [n, C] float32."""
        self._write("scaled", scaled)

    def array(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of one array: `timestamp` [n] int64, the others [n, C]."""
        file, dtype, width = self._files[name], _DTYPES[name], 1 if name == "timestamp" else self.n_columns
        file.flush()
        size = np.dtype(dtype).itemsize * width
        flat = np.frombuffer(os.pread(file.fileno(), (stop - start) * size, start * size), dtype)
        return flat if name == "timestamp" else flat.reshape(-1, width)

    def spans(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) in blocks of at most COPY_BYTES of values: first row and last row + 1 of each."""
        stop = self.rows if stop is None else stop
        block = max(1, COPY_BYTES // (4 * self.n_columns))
        for row in range(start, stop, block):
            yield row, min(row + block, stop)

    def values(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Rows [start, stop) of the values, in blocks [n, C]."""
        for first, last in self.spans(start, stop):
            yield self.array("values", first, last)

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of one array."""
        file = self._files[name]
        file.flush()
        file.seek(0)
        while block := file.read(COPY_BYTES):
            yield block

    def close(self) -> None:
        """Close the files. The caller removes the folder."""
        for file in self._files.values():
            file.close()

    def _write(self, name: str, rows: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(rows).data)


def write_file(path: Path, scratch: Scratch, metadata: dict[str, Any]) -> None:
    """Write `scratch` as an Arrow file at `path`, with checksums added to `metadata`. Raises OSError.

    The file is first written with zeros, which take no memory, and then filled in place. So peak memory does not depend
    on the length of the series.
    """
    checksums = {name: _crc(scratch.blocks(name)) for name in scratch.names}
    metadata = {**metadata, "crc32": checksums}
    metadata[METADATA_CRC] = _metadata_crc(metadata)
    batch = _zeros(scratch, metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with open(path, "r+b") as file:
        offsets = _array_offsets(file.fileno())
        for name in scratch.names:
            file.seek(offsets[name])
            for block in scratch.blocks(name):
                file.write(block)
        file.flush()
        os.fsync(file.fileno())


def map_file(path: Path, *, check: bool) -> MappedFile:
    """Map `path`. With `check`, compare its checksums first, which reads through the page cache and takes no memory.

    The path is opened once, so metadata and arrays belong to one file even if another process replaces it meanwhile.
    Raises DamagedFile, OSError.
    """
    with open(path, "rb") as file:
        try:
            mapped = private_map(file.fileno())
            metadata, arrays = _metadata(mapped), _arrays(mapped)
        except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(str(error)) from error
        if check:
            if METADATA_CRC not in metadata:
                raise DamagedFile("its metadata has no checksum, as in files of an earlier version")
            if _metadata_crc(metadata) != metadata[METADATA_CRC]:
                raise DamagedFile("the checksum of its metadata does not match")
            for name, array in arrays.items():
                blocks = _file_blocks(file.fileno(), _offset(mapped, array), array.nbytes)
                if _crc(blocks) != metadata["crc32"][name]:
                    raise DamagedFile(f"the checksum of {name} does not match")
    offsets = {name: _offset(mapped, array) for name, array in arrays.items()}
    return MappedFile(arrays=arrays, metadata=metadata, offsets=offsets)


def private_map(descriptor: int) -> mmap.mmap:
    """The whole file, mapped copy-on-write. It may be larger than the memory, which the kernel would refuse otherwise:
    it would keep room for a copy of every page."""
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def endless_zeros(count: int, dtype: Any) -> np.ndarray:
    """[count] zeros that take no memory, however many they are. Do not write to them."""
    if not count:
        return np.zeros(0, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    mapped = mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=flags, prot=mmap.PROT_READ)
    return np.frombuffer(mapped, dtype)


def _zeros(scratch: Scratch, metadata: dict[str, Any]) -> pa.RecordBatch:
    def array(name: str) -> pa.Array:
        if name == "timestamp":
            return pa.array(np.zeros(scratch.rows, "datetime64[us]"))
        cells = endless_zeros(scratch.rows * scratch.n_columns, _DTYPES[name])
        return pa.FixedSizeListArray.from_arrays(pa.array(cells), scratch.n_columns)

    batch = pa.record_batch([array(name) for name in scratch.names], names=list(scratch.names))
    return batch.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()})


def _metadata(mapped: mmap.mmap) -> dict[str, Any]:
    return dict(json.loads(pa.ipc.open_file(pa.py_buffer(mapped)).schema.metadata[METADATA_KEY]))


def _metadata_crc(metadata: dict[str, Any]) -> int:
    """The checksum of the other metadata, spelt with sorted keys."""
    rest = {key: value for key, value in metadata.items() if key != METADATA_CRC}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _arrays(mapped: mmap.mmap) -> dict[str, np.ndarray]:
    batch = pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)
    arrays = {}
    for name in batch.schema.names:
        column = batch.column(name)
        width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else None
        flat = (column if width is None else column.values).to_numpy(zero_copy_only=True)
        writable = np.frombuffer(mapped, flat.dtype, flat.size, _offset(mapped, flat))
        arrays[name] = writable if width is None else writable.reshape(-1, width)
    return arrays


def _array_offsets(descriptor: int) -> dict[str, int]:
    mapped = private_map(descriptor)
    return {name: _offset(mapped, array) for name, array in _arrays(mapped).items()}


def _offset(mapped: mmap.mmap, array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0]) - int(pa.py_buffer(mapped).address)


def _file_blocks(descriptor: int, start: int, length: int) -> Iterator[bytes]:
    for offset in range(start, start + length, COPY_BYTES):
        yield os.pread(descriptor, min(COPY_BYTES, start + length - offset), offset)


def _crc(blocks: Iterator[bytes]) -> int:
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return checksum
