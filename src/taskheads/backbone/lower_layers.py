"""Passes of the same batch which run the layers that none of them changes once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from taskheads.backbone.attention import Attention
from taskheads.backbone.changes import Lower


@contextmanager
def lower_layers(layers: Sequence[nn.Module], lower: Lower | None, attention: Attention) -> Iterator[None]:
    """In this thread's pass, keep what comes out of the layers below `lower.layer`, or, where an earlier pass
    has kept it, hand it on in place of running them. `attention` counts the layers that did not run, too."""
    if lower is None or lower.layer < 1:
        yield
        return
    taking = lower.output is not None
    calls = 0

    def run(forward: Callable, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if taking and calls <= lower.layer:
            attention.modules.append(layers[calls - 1])
            return lower.output
        output = forward(*args, **kwargs)
        if calls == lower.layer:
            lower.output = output
        return output

    with _Watched.all(dict.fromkeys(layers), run):
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
