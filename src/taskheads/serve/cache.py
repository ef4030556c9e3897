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
# What answers depend on: the id of a version, the name of a way, a row.
Question = tuple[str, str, Row]

# One for all: to make one takes as long as to write a small answer.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

# What an entry costs beside the JSON in it: keys, and the objects that hold both.
_OVERHEAD = 400


def written(content: Any) -> bytes:
    """Compact JSON."""
    return _ENCODER.encode(content).encode()


class AnswerCache:
    """Answers by version, way, row and task, up to `most_bytes` (0 keeps none); those asked for longest ago
    go first.

    They are kept as JSON, so that their size is known and nobody's change reaches them. May be shared by
    threads.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, asked: Question, tasks: Sequence[str]) -> Answer | None:
        """The answers of all these tasks; None if one of them is not here."""
        if not self.most_bytes:
            return None
        key = _key(asked)
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            found = self._kept[key]
        answer = json.loads(found)
        return {task: answer[task] for task in tasks} if answer.keys() >= set(tasks) else None

    def put(self, asked: Question, answer: Answer) -> None:
        """Keep the answers of some tasks, beside those that are kept of others."""
        if not self.most_bytes:
            return
        key = _key(asked)
        with self._lock:
            old = self._kept.pop(key, None)
            if old is not None:
                self.bytes -= _OVERHEAD + len(old)
                answer = json.loads(old) | answer
            self._kept[key] = made = written(answer)
            self.bytes += _OVERHEAD + len(made)
            while self.bytes > self.most_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= _OVERHEAD + len(dropped)


def _key(asked: Question) -> bytes:
    version, way, row = asked
    text = f"{version} {way} {json.dumps(row, sort_keys=True)}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
