"""Who is next: rows of many requests, in turn caller by caller and, for one caller, request by request."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue that a caller with many items cannot fill for the others.

    Callers take turns, and so do the requests of one caller; items of one request come in their order.
    """

    def __init__(self) -> None:
        self._callers: OrderedDict[Hashable, OrderedDict[Hashable, deque[T]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, caller: Hashable, request: Hashable, item: T) -> None:
        requests = self._callers.setdefault(caller, OrderedDict())
        requests.setdefault(request, deque()).append(item)
        self._count += 1

    def take(self) -> T:
        """The next item. Raises KeyError where there is none."""
        caller, requests = self._callers.popitem(last=False)
        request, items = requests.popitem(last=False)
        item = items.popleft()
        self._count -= 1
        # Whoever had a turn goes to the end of the line.
        if items:
            requests[request] = items
        if requests:
            self._callers[caller] = requests
        return item
