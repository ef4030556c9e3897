"""Checkpoints written block by block, in any order, to places that are known before the first byte."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taskheads.errors import ModelError
from taskheads.merging.files.checkpoint import INDEX, WEIGHTS
from taskheads.merging.files.stored import STORED

_ALIGNMENT = 64  # bytes at which data begin: a whole cache line


class Form(NamedTuple):
    """What is known of a tensor before its elements are: its type, by safetensors' name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        size = STORED[self.dtype].itemsize
        for length in self.shape:
            size *= length
        return size


class _Place(NamedTuple):
    file: int
    offset: int
    width: int


class Writer:
    """The files of a checkpoint with these tensors, in a folder that is there.

    Files are made at their full size with their headers; `put` then writes elements of a tensor, from any
    thread. With more than `shard_bytes` there are shards and an index, as Hugging Face names them. A context
    manager: it closes the files.

    Raises ModelError where the disk has not the room, before anything is written.

    Attributes
    ----------
    sums: {name: CRC-32 of the bytes written}; of a tensor that came in order, which is all of them.
    """

    def __init__(
        self,
        folder: Path,
        forms: Mapping[str, Form],
        *,
        shard_bytes: int = 5_000_000_000,
        name: str = WEIGHTS,
    ) -> None:
        needed, free = sum(form.bytes for form in forms.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise ModelError(f"{folder.parent} has {free:,} bytes free; the merged model takes {needed:,}")
        self.sums = dict.fromkeys(forms, 0)
        self._places: dict[str, _Place] = {}
        self._files: list[int] = []
        shards = _shards(forms, shard_bytes)
        where: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            file = name
            if len(shards) > 1:
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            where |= dict.fromkeys(names, file)
            self._begin(folder / file, {name: forms[name] for name in names})
        if len(shards) > 1:
            index = {"metadata": {"total_size": needed}, "weight_map": where}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            os.close(self._files.pop())

    def put(self, name: str, start: int, raw: np.ndarray) -> None:
        """Write the elements of a tensor from number `start` on (in row-major order), which are in its type.
        The parts of one tensor come in order."""
        place = self._places[name]
        left = memoryview(raw.view(np.uint8).data)
        self.sums[name] = zlib.crc32(left, self.sums[name])
        position = place.offset + start * place.width
        while left:
            done = os.pwrite(self._files[place.file], left, position)
            left, position = left[done:], position + done

    def _begin(self, path: Path, forms: Mapping[str, Form]) -> None:
        # By falling size of an element, so that every tensor is aligned to its own type.
        widths = {name: STORED[form.dtype].itemsize for name, form in forms.items()}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(forms, key=lambda each: (-widths[each], each)):
            begin, end = end, end + forms[name].bytes
            about = {"dtype": forms[name].dtype, "shape": list(forms[name].shape)}
            header[name] = about | {"data_offsets": [begin, end]}
            self._places[name] = _Place(len(self._files), begin, widths[name])
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-(8 + len(text)) % _ALIGNMENT)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._files.append(file)
        os.pwrite(file, len(text).to_bytes(8, "little") + text, 0)
        os.truncate(file, 8 + len(text) + end)
        for name in forms:
            number, begin, width = self._places[name]
            self._places[name] = _Place(number, begin + 8 + len(text), width)


def _shards(forms: Mapping[str, Form], shard_bytes: int) -> list[list[str]]:
    """Names in order, in groups of at most so many bytes (a larger tensor is alone)."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, form in forms.items():
        if shards[-1] and form.bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= form.bytes
    return shards
