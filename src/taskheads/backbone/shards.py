"""Files of vectors under the keys of what they were computed from.

A read of one backbone is a folder of shards, `<fingerprint>/<read>/<name>.safetensors`. A shard is written
under another name, moved to its place when it is whole, and never changed after that. So processes may share
a folder without locks, and a kill leaves either a whole shard or a file that nobody reads.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

_SUFFIX = ".safetensors"
_UNFINISHED = ".part"
_FORGOTTEN_SECONDS = 3600
_BROKEN = (SafetensorError, KeyError, ValueError, TypeError)


@dataclass(frozen=True)
class Index:
    """Which rows a shard has: their `keys`, uint8 [rows, 16], and how many vectors each has, int64 [rows]."""

    keys: np.ndarray
    sizes: np.ndarray

    def __post_init__(self) -> None:
        fits = self.keys.dtype == np.uint8 and self.keys.shape == (len(self.sizes), 16)
        if not fits or not len(self.keys) or (self.sizes < 0).any():
            raise ValueError("not the keys of a shard")

    @cached_property
    def starts(self) -> np.ndarray:
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        numbers = leading(self.keys)
        order = np.argsort(numbers)
        return numbers[order], order

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 for those that are not here."""
        numbers, order = self._sorted
        place = np.searchsorted(numbers, leading(keys))
        row = order[np.minimum(place, len(order) - 1)]
        return np.where((self.keys[row] == keys).all(1), row, -1)


def leading(keys: np.ndarray) -> np.ndarray:
    """The first half of each key as a number, to sort and search by."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]


@dataclass(frozen=True)
class Shard:
    """Rows with their vectors one after the other, `values` float32 [vectors, width]."""

    index: Index
    values: torch.Tensor

    def __post_init__(self) -> None:
        whole = self.values.dtype == torch.float32 and self.values.ndim == 2
        if not whole or len(self.values) != self.index.sizes.sum():
            raise ValueError("not the values of a shard")

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.element_size()


@dataclass(frozen=True)
class Entry:
    """What the disk holds of one read of one backbone; `last_used` in seconds since the epoch."""

    fingerprint: str
    read: str
    rows: int
    bytes: int
    last_used: float


class ShardFolder:
    """Shards below `root`, at most `limit_bytes` of them. Only `write` raises OSError."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.limit_bytes = limit_bytes

    def names(self, table: tuple[str, str]) -> set[str]:
        """The shards of one (fingerprint, read)."""
        with suppress(OSError):
            return {name for name in os.listdir(self._folder(table)) if name.endswith(_SUFFIX)}
        return set()

    def index(self, table: tuple[str, str], name: str) -> Index | None:
        """The rows of a shard, without their values; None, and the shard is removed, when it is damaged."""
        path = self._folder(table) / name
        try:
            with safe_open(path, "pt") as file:
                return Index(file.get_tensor("keys").numpy(), file.get_tensor("sizes").numpy())
        except (OSError, RuntimeError):
            # safe_open opens a file twice, and says RuntimeError when it is gone at the second time.
            return None
        except _BROKEN:
            self.remove(table, name)
            return None

    def read(self, table: tuple[str, str], name: str) -> Shard | None:
        """A shard; None when it is gone, or damaged, and then it is removed."""
        path = self._folder(table) / name
        try:
            tensors = load(path.read_bytes())
            if int(tensors.pop("crc32")) != _checksum(tensors):
                raise ValueError("the checksum does not agree")
            return Shard(Index(tensors["keys"].numpy(), tensors["sizes"].numpy()), tensors["values"])
        except OSError:
            return None
        except _BROKEN:
            self.remove(table, name)
            return None

    def write(self, table: tuple[str, str], name: str, shard: Shard) -> None:
        """Put a shard in its place, whole. Raises OSError when it cannot be, leaving nothing behind."""
        tensors = {
            "keys": torch.from_numpy(shard.index.keys),
            "sizes": torch.from_numpy(shard.index.sizes),
            "values": shard.values.contiguous(),
        }
        folder = self._folder(table)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / (name + _UNFINISHED)
        try:
            # Not flushed to the disk: what a power cut garbles is found by its checksum.
            unfinished.write_bytes(save(tensors | {"crc32": torch.tensor(_checksum(tensors))}))
            os.replace(unfinished, folder / name)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise

    def remove(self, table: tuple[str, str], name: str) -> None:
        with suppress(OSError):
            (self._folder(table) / name).unlink()

    def touch(self, table: tuple[str, str], name: str) -> None:
        """Mark a shard as used now."""
        with suppress(OSError):
            os.utime(self._folder(table) / name)

    def trim(self) -> None:
        """Remove what was not used for longest until the limit is kept, and what a kill left unfinished."""
        files = []
        for path, status in self._files():
            if path.name.endswith(_UNFINISHED):
                if time.time() - status.st_mtime > _FORGOTTEN_SECONDS:
                    with suppress(OSError):
                        path.unlink()
            else:
                files.append((status.st_mtime, status.st_size, path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self.limit_bytes:
                break
            with suppress(OSError):
                path.unlink()
            held -= size

    def entries(self) -> list[Entry]:
        """What is here, most recently used first."""
        found: dict[tuple[str, str], Entry] = {}
        for path, status in self._files():
            table = path.parent.parent.name, path.parent.name
            index = self.index(table, path.name) if path.name.endswith(_SUFFIX) else None
            if index is not None:
                so_far = found.get(table, Entry(table[0], _read(table[1]), 0, 0, 0.0))
                found[table] = Entry(
                    so_far.fingerprint,
                    so_far.read,
                    so_far.rows + len(index.keys),
                    so_far.bytes + status.st_size,
                    max(so_far.last_used, status.st_mtime),
                )
        return sorted(found.values(), key=lambda entry: -entry.last_used)

    def clear(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, table: tuple[str, str]) -> Path:
        # A colon cannot stand in a file name everywhere, and a hyphen is in no name of a site or a pooling.
        return self.root / table[0] / table[1].replace(":", "-")

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.root.glob("*/*/*"):
            if path.name.endswith((_SUFFIX, _UNFINISHED)):
                with suppress(OSError):
                    yield path, path.stat()


def new_name() -> str:
    """A name that no shard has."""
    return secrets.token_hex(8) + _SUFFIX


def _read(folder: str) -> str:
    return folder.replace("-", ":")


def _checksum(tensors: dict[str, torch.Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].numpy().data, total)
    return total
