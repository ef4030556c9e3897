"""How the gradients of each parameter of a backbone are split by task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.running import Batch
from taskheads.sharing.recording import Recorder, recorder_for
from taskheads.sharing.slices import Slices

# Rows, longest row and tokens of the batch that is tried are three numbers: shapes tell them apart.
_TRIED_LENGTHS = (5, 2, 7)

Following = dict[nn.Module, Recorder | None]


class _Part(NamedTuple):
    """A module with trained parameters of its own; `splits` says whether their gradients split by task."""

    module: nn.Module
    recorder: Recorder | None
    parameters: list[torch.Tensor]
    splits: bool

    @property
    def is_table(self) -> bool:
        return isinstance(self.module, nn.Embedding) and self.recorder is not None


@dataclass(frozen=True)
class Plan:
    """How the gradients of each trained parameter are split.

    Attributes
    ----------
    trained: the parameters that require a gradient, and their names.
    split: those of them whose use follows the batch's rows.
    mixed: those whose use does not: they take a backward pass for each task.
    tables: parameters that embeddings alone look up.
    recorded: modules whose parameters' gradients follow from their input and output gradient.
    task_by_task: other modules, which run once for each task.
    """

    trained: dict[torch.Tensor, str]
    split: list[torch.Tensor]
    mixed: list[torch.Tensor]
    tables: set[torch.Tensor]
    recorded: list[tuple[nn.Module, Recorder]]
    task_by_task: list[nn.Module]

    @classmethod
    def of(cls, backbone: Backbone, following: Following) -> Plan:
        """The plan for the parameters that require a gradient now."""
        model, layers = backbone.model, set(backbone.layout.layers)
        trained = {p: name for name, p in model.named_parameters() if p.requires_grad}
        parts = list(_parts(model, layers, following, trained))
        mixed = {p: None for part in parts if not part.splits for p in part.parameters}
        count = 0
        while count != len(mixed):  # what is mixed in one module is so in all that use it
            count = len(mixed)
            touched = (part for part in parts if any(p in mixed for p in part.parameters))
            mixed |= {p: None for part in touched for p in part.parameters}
        split = [part for part in parts if not any(p in mixed for p in part.parameters)]
        others = {p for part in split if not part.is_table for p in part.parameters}
        return cls(
            trained,
            [p for p in trained if p not in mixed],
            [*mixed],
            {p for part in split for p in part.parameters if part.is_table} - others,
            [(part.module, part.recorder) for part in split if part.recorder is not None],
            [part.module for part in split if part.recorder is None],
        )


def _parts(
    module: nn.Module, layers: set[nn.Module], following: Following, trained: dict[torch.Tensor, str]
) -> Iterator[_Part]:
    recorder, follows = following.get(module), module in following
    own: list[torch.Tensor] = [p for p in module.parameters(recurse=False) if p in trained]
    # A module of an unknown kind takes all that is below it along, but never whole layers.
    if own and follows and recorder is None and layers.isdisjoint(module.modules()):
        yield _Part(module, None, [p for p in module.parameters() if p in trained], True)
        return
    if own:
        yield _Part(module, recorder, own, follows and recorder is not None)
    for child in module.children():
        yield from _parts(child, layers, following, trained)


def modules_that_follow(backbone: Backbone) -> Following:
    """The modules whose every call, in a pass over a batch that is tried, takes the batch's tokens or rows.

    With each is said what works out its gradients, None where it has to run task by task. A table of
    positions that is looked up once for all padded rows follows too: it can be looked up for each.
    """
    batch = _tried(backbone)
    slices = Slices.of(batch, [1] * len(batch), ragged=backbone.ragged)
    called: dict[nn.Module, bool] = {}

    def hook(module: nn.Module, args: tuple, kwargs: dict, _output: Any) -> None:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        follows = any(slices.axis(each.shape) is not None for each in tensors)
        if isinstance(module, nn.Embedding) and not slices.ragged:
            follows |= any(each.ndim == 2 and len(each) == 1 for each in tensors)
        called[module] = called.get(module, True) and follows

    modes = {module: module.training for module in backbone.model.modules()}
    backbone.model.eval()  # dropout would use up random numbers
    try:
        with ExitStack() as stack, torch.no_grad():
            for module in modes:
                if any(True for _ in module.parameters(recurse=False)):
                    stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            backbone.run(batch)
    finally:
        for module, training in modes.items():
            module.training = training
    return {module: recorder_for(module) for module, follows in called.items() if follows}


def _tried(backbone: Backbone) -> Batch:
    config = backbone.model.config
    if backbone.vision:
        shape = (len(_TRIED_LENGTHS), config.num_channels, config.image_size, config.image_size)
        return backbone.images(torch.zeros(shape))
    known = np.setdiff1d(np.arange(min(config.vocab_size, 24)), [config.pad_token_id])
    ids = np.resize(known, sum(_TRIED_LENGTHS))
    parts = np.split(ids, np.cumsum(_TRIED_LENGTHS)[:-1])
    return RaggedBatch([Encoded(part) for part in parts]).to(backbone.device)
