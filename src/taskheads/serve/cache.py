"""Answers kept for rows that come again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

Row = str | dict[str, Any]
Answer = dict[str, Any]

# What an entry costs beside the JSON in it: keys, and the objects that hold both.
_OVERHEAD = 400


class AnswerCache:
    """Answers by version, row and task, up to `most_bytes`; those asked for longest ago go first.

    They are kept as JSON, so that their size is known and nobody's change reaches them. May be shared by
    threads.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, dict[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, tasks: Sequence[str]) -> Answer | None:
        """The answers of all these tasks; None if one of them is not here."""
        with self._lock:
            found = self._kept.get(key)
            if found is None or any(task not in found for task in tasks):
                return None
            self._kept.move_to_end(key)
        return {task: json.loads(found[task]) for task in tasks}

    def put(self, key: bytes, answer: Answer) -> None:
        made = {task: json.dumps(each, ensure_ascii=False).encode() for task, each in answer.items()}
        with self._lock:
            old = self._kept.pop(key, {})
            self.bytes -= _size(old)
            self._kept[key] = old | made
            self.bytes += _size(self._kept[key])
            while self.bytes > self.most_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= _size(dropped)


def key_of(version: str, way: str, row: Row) -> bytes:
    """What identifies a row's answers by a version of a model, given in some way."""
    text = f"{version} {way} {json.dumps(row, sort_keys=True)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _size(entry: dict[str, bytes]) -> int:
    return _OVERHEAD + sum(map(len, entry.values())) if entry else 0
