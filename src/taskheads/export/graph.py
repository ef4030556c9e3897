"""A model as one function of token ids, which can be written down as a graph."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import branched
from taskheads.backbone.reads import Read
from taskheads.backbone.sites import layer_of
from taskheads.errors import ConfigError
from taskheads.heads import EmbedHead, Head
from taskheads.model.model import Model


class Graph(nn.Module):
    """All tasks of a model, about padded rows.

    forward(ids, mask, segments, pairs) → a tensor for each name in `outputs`, in order.

    ids, mask, segments: int64 [rows, tokens]; the mask is 1 at tokens and 0 at padding on the right.
    pairs: int64 [pairs, 2], which two rows a task of two texts compares; there may be none.

    Tasks whose backbone has weights of its own (a branch, or an edit folded into the weights) have a pass of
    their own; all others share one.

    Attributes
    ----------
    outputs: by name, what stands there and whose it is; see `form_of`.

    Raises ConfigError for a model that has no such graph: one in lower precision, an edit that cannot be
    folded, a read of something inside a layer.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        if model.backbone.precision != "float32":
            raise ConfigError(
                f"a backbone in {model.backbone.precision} cannot be exported: load it in float32"
            )
        if not model.heads:
            raise ConfigError("the model has no task to export")
        served: dict[int, list[Head]] = {}
        trunks: dict[int, nn.Module] = {}
        for name, head in model.heads.items():
            _check_reads(head)
            key = id(model.edits.get(name) or model.backbone_of(name))
            if key not in trunks:
                trunks[key] = _own(model, name).model
            served.setdefault(key, []).append(head)
        self.trunks = nn.ModuleList(trunks.values())
        self.served = list(served.values())
        self.heads = nn.ModuleList(head for heads in self.served for head in heads)
        self.outputs: dict[str, tuple[Head, str]] = {}
        for heads in self.served:
            for head in heads:
                for part in (".query", ".document") if isinstance(head, EmbedHead) else ("",):
                    self.outputs[head.task.name + part] = head, part[1:]

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor, pairs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        found: list[torch.Tensor] = []
        for trunk, heads in zip(self.trunks, self.served, strict=True):
            run = trunk(**_accepted(trunk, ids, mask, segments), output_hidden_states=True)
            kept: dict[Read, torch.Tensor] = {}
            for head in heads:
                for read in head.reads:
                    if read not in kept:
                        kept[read] = _pooled(_at(read.site, run), mask, read.pooling)
                found += _answers(head, {read: kept[read] for read in head.reads}, pairs)
        return tuple(found)


def said(head: Head, scores: torch.Tensor) -> torch.Tensor:
    """What a graph gives of a head's scores [n, outputs]: probabilities of labels or of levels, [n, labels];
    a number, [n]; of words, the scores themselves."""
    if head.task.kind == "ordinal":
        above = (scores - head.get_parameter("thresholds")).sigmoid()
        edges = torch.cat([torch.ones_like(scores), above, torch.zeros_like(scores)], dim=1)
        return edges[:, :-1] - edges[:, 1:]
    if head.task.kind == "multilabel":
        return scores.sigmoid()
    if head.task.kind == "tag" or isinstance(head, EmbedHead):
        return scores
    return scores.softmax(-1) if head.task.labels else scores[:, 0]


def _answers(head: Head, found: dict[Read, torch.Tensor], pairs: torch.Tensor) -> list[torch.Tensor]:
    if isinstance(head, EmbedHead):
        features = head.joined(found)
        return [head.embed(features, side) for side in (0, 1)]
    if len(head.requests) == 2:
        sides = [{read: values[pairs[:, side]] for read, values in found.items()} for side in (0, 1)]
        return [said(head, head(head.gather(sides)))]
    features = head.gather([found])
    if head.task.kind == "tag":
        return [head(features.flatten(0, 1)).unflatten(0, (features.shape[0], features.shape[1]))]
    return [said(head, head(features))]


def _pooled(values: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[rows, tokens, width] → [rows, width], or as it is where words are read: which token is a word's first,
    the caller knows."""
    if pooling == "words":
        return values
    if pooling == "first":
        return values[:, 0]
    if pooling == "last":
        at = (mask.sum(1) - 1).clamp_min(0)
        return values.gather(1, at[:, None, None].expand(-1, 1, values.shape[-1]))[:, 0]
    there = mask[..., None].to(values.dtype)
    if pooling == "mean":
        return (values * there).sum(1) / there.sum(1).clamp_min(1)
    return values.masked_fill(there == 0, torch.finfo(values.dtype).min).amax(1)


def _at(site: str, run: Any) -> torch.Tensor:
    return run.last_hidden_state if site == "output" else run.hidden_states[layer_of(site) + 1]


def _accepted(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor
) -> dict[str, torch.Tensor]:
    given = {"input_ids": ids, "attention_mask": mask}
    return given | {"token_type_ids": segments} if getattr(model.config, "type_vocab_size", 0) else given


def _own(model: Model, task: str) -> Backbone:
    """The backbone that a task's head reads, its edit folded into it."""
    if task not in model.edits:
        return model.backbone_of(task)
    try:
        return branched(model.backbone, model.edits[task].fold(model.backbone, task))
    except ConfigError as error:
        raise ConfigError(f"the task {task!r} cannot be exported: {error}") from None


def _check_reads(head: Head) -> None:
    """Between layers is where transformers hands states out."""
    for read in head.reads:
        inside = read.site.startswith("layers.") and not re.fullmatch(r"layers\.\d+\.output", read.site)
        if inside or read.site == "tokens":
            raise ConfigError(f"the task {head.task.name!r} cannot be exported: it reads {read.site}")
