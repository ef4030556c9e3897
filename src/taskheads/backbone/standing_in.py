"""A function that stands in for the forward of modules, in one thread alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# What runs in place of a module: from its own forward and the arguments to what it gives.
Run = Callable[..., Any]


@contextmanager
def standing_in(modules: Iterable[nn.Module], run: Run) -> Iterator[None]:
    """Meanwhile `run(forward, ...)` is called wherever this thread calls one of the modules. Other threads'
    passes, and the modules afterwards, are what they were."""
    with _Watched.all(dict.fromkeys(modules), run):
        yield


class _Watched:
    """Stands in for the `forward` of a layer while any thread watches it, and minds each thread's wish."""

    _lock = threading.Lock()

    def __init__(self, forward: Callable) -> None:
        self.forward = forward
        self.wishes: dict[int, Callable] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wish = self.wishes.get(threading.get_ident())
        return self.forward(*args, **kwargs) if wish is None else wish(self.forward, *args, **kwargs)

    @classmethod
    @contextmanager
    def all(cls, modules: Any, wish: Callable) -> Iterator[None]:
        me = threading.get_ident()
        with cls._lock:
            for module in modules:
                if not isinstance(module.forward, cls):
                    module.forward = cls(module.forward)
                module.forward.wishes[me] = wish
        try:
            yield
        finally:
            with cls._lock:
                for module in modules:
                    del module.forward.wishes[me]
                    if not module.forward.wishes:
                        del module.forward
