"""The tensors of a checkpoint on disk, by name: mapped into memory, read only where they are looked at."""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taskheads.errors import ModelError
from taskheads.merging.files.stored import STORED, Stored

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What a merge writes beside its weights: the plan, and the CRC-32 of every tensor.
RECIPE, SUMS = "merge.json", "crc32"
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000  # what the safetensors library itself accepts


class Checkpoint(Mapping[str, Stored]):
    """The tensors of one safetensors file, or of a folder with `model.safetensors` or its shards and index.

    Opening it reads and checks every header and no weight. All names are in alphabetical order.

    Raises ModelError, with the file and the tensor, for a folder without safetensors weights, a header that
    cannot be read, a file that is cut off, and an index that names what is not there.

    Attributes
    ----------
    metadata: what the files say beside their tensors.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        sums, found = _sums(self.path), dict[str, Stored]()
        for file, expected in _files(self.path).items():
            tensors = self._open(file, sums)
            absent = expected - set(tensors) if expected else set()
            if absent:
                raise ModelError(f"{file} lacks {min(absent)!r}, which {self.path / INDEX} says it has")
            twice = tensors.keys() & found
            if twice:
                raise ModelError(f"{file}: the tensor {min(twice)!r} stands in another file of it too")
            found |= tensors
        self._tensors = {name: found[name] for name in sorted(found)}

    def __getitem__(self, name: str) -> Stored:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _open(self, file: Path, sums: Mapping[str, int]) -> dict[str, Stored]:
        try:
            size = file.stat().st_size
            with file.open("rb") as stream:
                start, header = _header(file, stream.read(_LENGTH.size), stream, size)
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
        whole = np.frombuffer(mapped, np.uint8)
        self.metadata |= header.pop("__metadata__", None) or {}
        tensors = {}
        for name, entry in header.items():
            try:
                dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
                begin, end = map(int, entry["data_offsets"])
                width = STORED[dtype].itemsize
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"{file}: what it says of the tensor {name!r} cannot be read") from error
            if min(shape, default=0) < 0 or begin < 0 or end - begin != math.prod(shape) * width:
                raise ModelError(f"{file}: the tensor {name!r} has not the bytes that its shape needs")
            if start + end > size:
                raise ModelError(
                    f"{file} is cut off: {name!r} ends at byte {start + end}, the file at {size}"
                )
            tensors[name] = Stored(dtype, shape, whole, start + begin, sums.get(name))
        return tensors


def _sums(path: Path) -> dict[str, int]:
    """The checksums of a folder that a merge wrote; of any other none."""
    if not (path / RECIPE).is_file():
        return {}
    try:
        return dict(json.loads((path / RECIPE).read_text(encoding="utf-8"))[SUMS])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path / RECIPE} cannot be read: it has no checksums") from error


def _files(path: Path) -> dict[Path, set[str]]:
    """The files of a checkpoint, and the names which an index expects in each (none without an index)."""
    if path.is_file():
        return {path: set()}
    if not path.is_dir():
        raise ModelError(f"there is no checkpoint {path}")
    if (path / WEIGHTS).is_file():
        return {path / WEIGHTS: set()}
    if not (path / INDEX).is_file():
        raise ModelError(f"{path} has no {WEIGHTS} and no {INDEX}; weights of other formats are not read")
    try:
        where = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, set[str]] = {}
        for name, file in sorted(where.items()):
            files.setdefault(path / file, set()).add(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path / INDEX} cannot be read: it has no weight map") from error
    for file in files:
        if not file.is_file() or file.parent != path:
            raise ModelError(f"{path / INDEX} names {file.name}, which is not there")
    return files


def _header(file: Path, length: bytes, stream: Any, size: int) -> tuple[int, dict[str, Any]]:
    """Where the data of a safetensors file begin, and its header."""
    count = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else size
    start = _LENGTH.size + count
    if start > size or count > _LONGEST_HEADER:
        raise ModelError(f"{file} is cut off or no safetensors file: its header does not fit in it")
    try:
        header = json.loads(stream.read(count))
    except ValueError as error:
        raise ModelError(f"{file} is no safetensors file: its header cannot be read") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file} is no safetensors file: its header is no table of tensors")
    return start, header
