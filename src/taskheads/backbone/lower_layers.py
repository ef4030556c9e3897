"""Passes of the same batch in which what none of them changes runs once: layers, and blocks of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from taskheads.backbone.attention import Attention
from taskheads.backbone.changes import Attended, Lower
from taskheads.backbone.standing_in import standing_in


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

    with standing_in(layers, run):
        yield


@contextmanager
def given_attention(
    modules: Sequence[nn.Module], attended: Attended | None, attention: Attention
) -> Iterator[None]:
    """In this thread's pass, a layer's block of attention gives what it is said to, and does not run."""
    if attended is None:
        yield
        return

    def run(forward: Callable, *args: Any, **kwargs: Any) -> Any:
        if len(attention.modules) != attended.layer:
            return forward(*args, **kwargs)
        attention.modules.append(modules[attended.layer])
        return attended.output[None], None

    with standing_in([modules[attended.layer]], run):
        yield
