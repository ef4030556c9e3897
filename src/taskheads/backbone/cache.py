"""Computed features, kept in memory and on disk under what they were computed from."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from taskheads.backbone.groups import spans
from taskheads.backbone.reads import Read
from taskheads.backbone.shards import Entry, Index, Shard, ShardFolder, new_name

log = logging.getLogger(__name__)

Table = tuple[str, str]

# Calls with a few rows each leave small shards; this many of them become one.
_SMALL_BYTES = 1 << 20
_SMALL_SHARDS = 32


class FeatureCache:
    """Vectors of items, looked up by backbone, read and content: in memory first, then on disk.

    May be shared by threads, and its folder by processes. A disk that is full or cannot be written to is
    reported by one warning and then done without.

    Parameters
    ----------
    folder: where the disk tier lives; by default $TASKHEADS_CACHE, else the user's cache folder.
    limit_bytes: how large the disk tier may grow before what was not used for longest is dropped; 0 keeps
        everything in memory alone.
    memory_bytes: the same for the memory tier.
    """

    def __init__(
        self, folder: str | Path | None = None, limit_bytes: int = 4 << 30, memory_bytes: int = 2 << 30
    ) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.memory_bytes = memory_bytes
        self._disk = ShardFolder(self.folder / "features", limit_bytes)
        self._writing = limit_bytes > 0
        self._lock = threading.Lock()
        self._indexes: dict[Table, dict[str, Index]] = {}
        self._memory: OrderedDict[tuple[Table, str], Shard] = OrderedDict()

    def load(
        self,
        fingerprint: str,
        read: Read,
        keys: np.ndarray,
        out: torch.Tensor,
        starts: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Copy the vectors of the rows that are here into `out`; returns which rows these are, bool [rows].

        keys: what identifies each row's content, uint8 [rows, 16].
        out: float32 [vectors, width]; row r has `sizes[r]` vectors, from `out[starts[r]]` on.
        """
        table = fingerprint, str(read)
        missing = np.arange(len(keys))
        with self._lock:
            for name, index in self._known(table).items():
                if not len(missing):
                    break
                at = index.find(keys[missing])
                fits = (at >= 0) & (index.sizes[at] == sizes[missing])
                if not fits.any():
                    continue
                shard = self._shard(table, name)
                if shard is None or shard.values.shape[1] != out.shape[1]:
                    continue
                rows, at = missing[fits], at[fits]
                target = torch.from_numpy(spans(starts[rows], sizes[rows]))
                out[target] = shard.values[torch.from_numpy(spans(shard.index.starts[at], sizes[rows]))]
                missing = missing[~fits]
        found = np.ones(len(keys), bool)
        found[missing] = False
        return found

    def save(
        self, fingerprint: str, read: Read, keys: np.ndarray, values: torch.Tensor, sizes: np.ndarray
    ) -> None:
        """Keep the vectors of rows, `values` float32 [vectors, width], row after row; left alone after."""
        if not len(keys):
            return
        table = fingerprint, str(read)
        with self._lock:
            small = [name for name, index in self._known(table).items() if _is_small(index, values.shape[1])]
            shards = [Shard(Index(keys, sizes), values)]
            if len(small) >= _SMALL_SHARDS:
                shards += [shard for name in small if (shard := self._shard(table, name)) is not None]
            else:
                small = []
            name, shard = new_name(), _joined(shards)
            self._indexes[table][name] = shard.index
            self._remember(table, name, shard)
            written = self._write(table, name, shard)
            for old in small:
                del self._indexes[table][old]
                self._memory.pop((table, old), None)
                if written:
                    self._disk.remove(table, old)

    def entries(self) -> list[Entry]:
        """What is on disk, a read of a backbone each, most recently used first."""
        return self._disk.entries()

    def clear(self) -> None:
        """Forget everything, in memory and on disk."""
        with self._lock:
            self._indexes.clear()
            self._memory.clear()
            self._disk.clear()

    def _known(self, table: Table) -> dict[str, Index]:
        """The indexes of the shards in memory or on disk now; other processes add and remove some."""
        indexes = self._indexes.setdefault(table, {})
        on_disk = self._disk.names(table)
        for name in on_disk - indexes.keys():
            if (index := self._disk.index(table, name)) is not None:
                indexes[name] = index
        for name in indexes.keys() - on_disk:
            if (table, name) not in self._memory:
                del indexes[name]
        return indexes

    def _shard(self, table: Table, name: str) -> Shard | None:
        shard = self._memory.get((table, name))
        if shard is None:
            shard = self._disk.read(table, name)
            if shard is None:
                return None
            self._remember(table, name, shard)
        self._memory.move_to_end((table, name))
        self._disk.touch(table, name)
        return shard

    def _remember(self, table: Table, name: str, shard: Shard) -> None:
        self._memory[table, name] = shard
        held = sum(each.bytes for each in self._memory.values())
        # The newest stays, however large: it is being used.
        while held > self.memory_bytes and len(self._memory) > 1:
            _, dropped = self._memory.popitem(last=False)
            held -= dropped.bytes

    def _write(self, table: Table, name: str, shard: Shard) -> bool:
        if not self._writing:
            return False
        try:
            self._disk.write(table, name, shard)
        except OSError as error:
            self._writing = False
            log.warning("features are kept in memory only: %s cannot be written (%s)", self.folder, error)
            return False
        self._disk.trim()
        return True


def default_folder() -> Path:
    """$TASKHEADS_CACHE, or the folder where this platform keeps the user's caches."""
    if chosen := os.environ.get("TASKHEADS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~\\AppData\\Local"))
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "taskheads"


def _is_small(index: Index, width: int) -> bool:
    return int(index.sizes.sum()) * width * 4 < _SMALL_BYTES


def _joined(shards: list[Shard]) -> Shard:
    if len(shards) == 1:
        return shards[0]
    keys = np.concatenate([shard.index.keys for shard in shards])
    sizes = np.concatenate([shard.index.sizes for shard in shards])
    return Shard(Index(keys, sizes), torch.cat([shard.values for shard in shards]))
