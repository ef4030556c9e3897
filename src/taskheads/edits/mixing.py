"""The changes of several tasks in one pass: each sees the slice of the batch that is its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.backbone.changes import Changes, Prompts
from taskheads.edits.edit import KeysValues, Own


@dataclass(frozen=True)
class Segment:
    """Rows of one task that stand side by side: what it changes, and its rows' numbers of tokens (without
    prompts). `own` is None for a task that changes nothing."""

    own: Own | None
    lengths: Sequence[int]


def mixed(segments: Sequence[Segment]) -> Changes:
    """What the tasks of a batch change, which stand in it as these segments, one after the other."""
    owns = [segment.own or Own() for segment in segments]
    sizes = [
        sum(segment.lengths) + own.prompt_length * sum(length > 0 for length in segment.lengths)
        for segment, own in zip(segments, owns, strict=True)
    ]
    sites = dict.fromkeys(site for own in owns for site in own.sites)
    maps = dict.fromkeys(name for own in owns for name in own.maps)
    return Changes(
        {site: _by_slice([own.sites.get(site) for own in owns], sizes) for site in sites},
        {name: _by_slice([own.maps.get(name) for own in owns], sizes) for name in maps},
        _prompts(owns, segments) if any(own.prompt_length for own in owns) else None,
        Prefixes(owns, segments) if any(own.past for own in owns) else None,
    )


def _by_slice(changes: Sequence[Callable | None], sizes: Sequence[int]) -> Callable:
    """The function that applies each change to its slice of the tokens; None leaves a slice as it is.

    Changes of one kind that knows a faster way for all of them (`by_slice`) take that.
    """
    if len(changes) == 1:
        assert changes[0] is not None
        return wide(changes[0])
    kinds = {type(change) for change in changes if change is not None}
    if len(kinds) == 1 and (faster := getattr(kinds.pop(), "by_slice", None)) is not None:
        return faster(changes, sizes)

    def change(*tensors: torch.Tensor) -> torch.Tensor:
        parts = zip(changes, *(tensor.split(list(sizes)) for tensor in tensors), strict=True)
        made = [part[-1] if own is None else wide(own)(*part) for own, *part in parts if len(part[-1])]
        return torch.cat(made)

    return change


def wide(change: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The change, computed in single precision where the backbone runs in half of it, and rounded to that
    again: an edit's parameters stay in single precision, so that small steps of training are not lost."""

    def widened(*tensors: torch.Tensor) -> torch.Tensor:
        kind = tensors[-1].dtype
        if kind not in (torch.bfloat16, torch.float16):
            return change(*tensors)
        return change(*(tensor.float() for tensor in tensors)).to(kind)

    return widened


def _prompts(owns: Sequence[Own], segments: Sequence[Segment]) -> Prompts:
    lengths, vectors = [], []
    for own, segment in zip(owns, segments, strict=True):
        lengths += [own.prompt_length if length else 0 for length in segment.lengths]
        if own.prompt is not None:
            vectors.append(own.prompt.repeat(sum(length > 0 for length in segment.lengths), 1))
    return Prompts(lengths, torch.cat(vectors))


class Prefixes:
    """Each row has its task's keys and values before its own (`taskheads.backbone.changes.Past`)."""

    def __init__(self, owns: Sequence[Own], segments: Sequence[Segment]) -> None:
        counts = [len(segment.lengths) for segment in segments]
        self.owns = owns
        self.of_row = np.repeat(np.arange(len(owns)), counts)
        self.lengths: Sequence[int] = np.repeat([own.past_length for own in owns], counts).tolist()

    def of(self, layer: int, rows: np.ndarray) -> KeysValues:
        """Keys and values of some rows, which have equally many."""
        tasks, at = np.unique(self.of_row[rows], return_inverse=True)
        keys, values = (torch.stack([self.owns[task].past[layer][side] for task in tasks]) for side in (0, 1))
        if len(tasks) == 1:
            return keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1)
        index = torch.from_numpy(at).to(keys.device)
        return keys[index], values[index]
