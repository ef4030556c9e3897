"""Attention heads taken out for good: smaller matrices, the same answers as with those heads silent."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from taskheads.attention.arranging import PARTS, probe_of
from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cutting import KEY, Cut, Cuts
from taskheads.errors import BackboneError, ConfigError

_TOLERANCE = 1e-4
# What a module that attends may call the number of its heads, and what follows from it.
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "num_key_value_heads")
_KEY_HEADS = ("num_key_value_heads",)
_GROUPS = ("num_key_value_groups",)
_WIDTHS = ("split_size", "all_head_size", "inner_dim")


def pruned(heads: AttentionHeads, which: Which) -> Backbone:
    """A backbone of its own without these attention heads: their queries, outputs, and keys and values that
    nobody else looks at are cut from the weights. Its output is that of the whole with these heads silent.

    Of a layer that would lose all, the first stays and is silenced. `save` writes a folder that
    `Backbone.load` reads. Where the model's configuration can say how many heads are left (it names the width
    of a head, as Llama's does, and every layer keeps as many), `AutoModel.from_pretrained` reads it, too. Any
    other is written as `taskheads.backbone.cutting` says: the configurations of GPT-2 and BERT have one
    number of heads for all layers, and take the width of a head for the model's divided by it.

    Raises ConfigError where the heads left under grouped queries are not equally many for each key head, and
    BackboneError for a backbone that cannot be cut so: layers that share weights, weights that are lowered.
    """
    check_prunable(heads)
    backbone, gone = heads.backbone, set(heads.which(which))
    names = [maps.attention_output for maps in backbone.layout.maps]
    model = copy.deepcopy(backbone.model)
    cuts = _cuts(heads, gone)
    cuts.apply(model)
    with torch.no_grad():
        for layer, name in enumerate(names):  # a layer that lost all
            if all(AttentionHead(layer, head) in gone for head in range(heads.counts[layer])):
                model.get_submodule(name).weight.zero_()
    tokenizer = None if backbone.tokens is None else backbone.tokens.tokenizer
    made = Backbone(model, tokenizer, name=backbone.name, limit=backbone.limit)
    _check(made, heads, gone)
    _say_plainly(made, AttentionHeads(made))
    return made


def check_prunable(heads: AttentionHeads) -> None:
    """Raise BackboneError, in one sentence, for a backbone that `pruned` cannot cut."""
    backbone = heads.backbone
    if backbone.precision != "float32":
        raise BackboneError(f"attention heads are pruned in float32, not in {backbone.precision}")
    names = [maps.attention_output for maps in backbone.layout.maps]
    if len(set(names)) < len(names):
        raise BackboneError(f"the layers of {backbone.name!r} share their weights: no head is of one alone")


def weakest(heads: AttentionHeads, scores: HeadScores, keep: float) -> tuple[AttentionHead, ...]:
    """The heads to prune so that a share `keep` of all is left, those of the highest scores; under grouped
    queries a key head goes with all that look at it, by their sum."""
    if not 0 < keep <= 1:
        raise ConfigError(f"the share of attention heads to keep is above 0 and at most 1, not {keep}")
    values = scores.values.mean(0) if scores.tasks else scores.values
    groups: dict[tuple[int, int], list[AttentionHead]] = {}
    for head in heads.which():
        groups.setdefault((head.layer, heads.key_head(*head)), []).append(head)
    worth = {group: float(values[tuple(zip(*some, strict=True))].sum()) for group, some in groups.items()}
    order = sorted(groups, key=lambda group: (worth[group], group))
    gone = order[: len(order) - max(1, round(keep * len(order)))]
    return tuple(sorted(head for group in gone for head in groups[group]))


def _cuts(heads: AttentionHeads, gone: Iterable[AttentionHead]) -> Cuts:
    maps: dict[str, Cut] = {}
    numbers: dict[str, dict[str, int]] = {}
    gone = set(gone)
    names = {module: name for name, module in heads.backbone.model.named_modules()}
    for layer, count in enumerate(heads.counts):
        left = [head for head in range(count) if AttentionHead(layer, head) not in gone] or [0]
        if len(left) == count:
            continue
        looked_at = [heads.key_head(layer, head) for head in left]
        keys = sorted(set(looked_at))
        if len({looked_at.count(key) for key in keys}) > 1:
            raise ConfigError(
                f"layer {layer} would be left with {', '.join(str(looked_at.count(key)) for key in keys)} "
                "attention heads for its key heads: prune equally many of each group, or whole groups"
            )
        kept: dict[str, list[int]] = {}
        for part in PARTS:
            name, at = heads.place(layer, part)
            kept.setdefault(name, []).extend(at[left if part == "query" else keys].flatten().tolist())
        for name, outputs in kept.items():
            maps[name] = Cut(outputs=sorted(outputs))
        columns = torch.arange(count * heads.width).view(count, -1)[left].flatten().tolist()
        maps[heads.backbone.layout.maps[layer].attention_output] = Cut(inputs=columns)
        module = heads.backbone.layout.attention[layer]
        numbers[names[module]] = {
            **{a: len(left) for a in _HEADS if hasattr(module, a)},
            **{a: len(keys) for a in _KEY_HEADS if hasattr(module, a)},
            **{a: len(left) // len(keys) for a in _GROUPS if hasattr(module, a)},
            **{a: len(left) * heads.width for a in _WIDTHS if hasattr(module, a)},
        }
    return Cuts(maps, numbers)


def _say_plainly(made: Backbone, left: AttentionHeads) -> None:
    """Where the configuration can say what is left, let it say so, and nothing beside it."""
    model = made.model
    if len(set(left.counts)) > 1 or len(set(left.key_counts)) > 1:
        return
    config = copy.deepcopy(model.config)
    delattr(config, KEY)
    said = {"num_attention_heads": left.counts[0], "num_key_value_heads": left.key_counts[0]}
    said = {name: number for name, number in said.items() if hasattr(config, name)}
    config.update(said)
    try:
        with torch.device("meta"):
            other = type(model)(config)
    except ValueError:  # heads that do not divide the width
        return
    shapes = ({n: each.shape for n, each in some.state_dict().items()} for some in (model, other))
    if next(shapes) == next(shapes) and getattr(config, "head_dim", None) == left.width:
        delattr(model.config, KEY)
        model.config.update(said)


def _check(made: Backbone, heads: AttentionHeads, gone: set[AttentionHead]) -> None:
    with torch.inference_mode():
        batch = probe_of(made)
        mine = made.run(batch)["output"]
        theirs = heads.backbone.run(batch, changes=scaled(sorted(gone), 0.0))["output"]
    if not (mine - theirs).abs().max() <= _TOLERANCE * theirs.abs().max():
        raise BackboneError(f"{made.name!r} does not answer as with these attention heads silent, once cut")
