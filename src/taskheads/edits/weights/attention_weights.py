"""ALPS: which attention heads a task moves, and differences to the weights of those alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.maps import as_stored, by_name, key, weight_of, widths
from taskheads.edits.weights.attention_heads import head_counts
from taskheads.errors import ConfigError
from taskheads.methods import method

Heads = list[tuple[int, int]]


def wasserstein(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The Wasserstein-1 distance [...] of distributions [..., n] over n points evenly spaced from 0 to 1.

    On a line it is the area between the two cumulative distributions.
    """
    between = (first - second).cumsum(-1)[..., :-1].abs().sum(-1)
    return between / max(1, first.shape[-1] - 1)


def head_shifts(base: Backbone, tuned: Backbone) -> torch.Tensor:
    """How far fine-tuning moved each attention head, [layers, attention heads]; 0 exactly where it did not,
    NaN for an attention head that is not there.

    Chen et al. 2025, section 3.1: a head's rows of the queries', keys' and values' weights are laid end to
    end and made a distribution by softmax; the score is the Wasserstein-1 distance between that of `base` and
    that of `tuned`, two backbones of one architecture (`Backbone.load` reads a checkpoint's folder). No data
    are needed. Under grouped-query attention a head has the keys and values of its group.

    Raises ConfigError where the weights of queries, keys and values are not three maps, or differ in shape.
    """
    scores = []
    for layer, heads in enumerate(head_counts(base)[0]):
        names = query_key_value(base, layer)
        if names != query_key_value(tuned, layer):
            raise ConfigError("the two backbones are not of one architecture")
        weights = [
            [weight_of(backbone, name).detach().double() for name in names] for backbone in (base, tuned)
        ]
        scores.append(shifts(weights[0], weights[1], heads))
    return _table(scores)


def shifts(base: Sequence[torch.Tensor], tuned: Sequence[torch.Tensor], heads: int) -> torch.Tensor:
    """The scores [heads] of one layer from the weights [out, in] of its queries, keys and values."""
    if [each.shape for each in base] != [each.shape for each in tuned]:
        raise ConfigError("the two backbones are not of one architecture")
    first, second = (
        torch.cat([_by_head(each.double(), base[0].shape[0] // heads, heads) for each in some], 1).softmax(1)
        for some in (base, tuned)
    )
    return wasserstein(first, second)


def strongest(scores: torch.Tensor, share: float) -> Heads:
    """The `share` of all heads with the highest scores [layers, heads], one at least: pairs (layer, head)."""
    count = max(1, round(share * int((~scores.isnan()).sum())))
    best = scores.nan_to_num(-torch.inf).flatten().argsort(descending=True, stable=True)[:count]
    return sorted(divmod(place, scores.shape[1]) for place in best.tolist())


def query_key_value(backbone: Backbone, layer: int) -> tuple[str, ...]:
    """The names of the three maps. Raises ConfigError where they are not three."""
    names = backbone.layout.maps[layer].attention
    if len(names) != 3:
        raise ConfigError(
            f"alps_head_localization needs maps of their own for queries, keys and values: layer {layer} has "
            f"{', '.join(names) or 'none'}"
        )
    return names


class RowDifference(nn.Module):
    """A difference to some rows of a map's weight [out, in], zero at first."""

    rows: torch.Tensor

    def __init__(self, rows: Sequence[int], inputs: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.long), persistent=False)
        self.difference = nn.Parameter(torch.zeros(len(rows), inputs))

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        return output.index_add(1, self.rows, (x @ self.difference.to(x.dtype).T).to(output.dtype))

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The map's weight [out, in] with the difference."""
        return weight.index_add(0, self.rows, self.difference.to(weight.dtype))


@method("alps_head_localization", family="edits", paper="arXiv:2505.18799")
class Alps(Edit):
    """ALPS: find the attention heads whose weights a task moves most, then fine-tune the queries, keys and
    values of those heads alone.

    Chen et al. 2025, section 3. Stage one learns differences to the weights of all queries, keys and values
    and scores each head by `head_shifts`; stage two begins anew and learns those of the best `share`. The
    authors score any pair of a base and a task's checkpoint: `head_shifts` and `strongest` do that, and their
    heads go into `heads`. Under grouped-query attention the keys and values of a chosen head are its group's.

    Parameters
    ----------
    share: of all heads, those that are kept; 0.1 as in the paper.
    heads: pairs (layer, head) that are kept, chosen already: then there is no first stage.
    """

    lr = 3e-4
    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        share: float = 0.1,
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.share, self.localised = share, heads is not None
        self.counts, width = head_counts(backbone)
        every = [(layer, head) for layer, count in enumerate(self.counts) for head in range(count)]
        chosen = every if heads is None else [(int(layer), int(head)) for layer, head in heads]
        if unknown := sorted(set(chosen) - set(every)):
            raise ConfigError(f"this backbone has no attention head {unknown[0]}")
        rows: dict[str, set[int]] = {}  # by map, which several layers may share
        for layer, head in chosen:
            for name in query_key_value(backbone, layer):
                groups = widths(backbone, name)[1] // width
                first = width * (head * groups // self.counts[layer])
                rows.setdefault(name, set()).update(range(first, first + width))
        self.maps = nn.ModuleDict(
            {key(name): RowDifference(sorted(some), widths(backbone, name)[0]) for name, some in rows.items()}
        )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=by_name(self.maps))

    def scores(self, backbone: Backbone) -> torch.Tensor:
        """How far each attention head has moved, [layers, attention heads], as `head_shifts` has it."""
        maps, scores = by_name(self.maps), []
        for layer, heads in enumerate(self.counts):
            names = query_key_value(backbone, layer)
            base = [weight_of(backbone, name).detach() for name in names]
            tuned = [
                maps[name].added_to(weight).detach() if name in maps else weight
                for name, weight in zip(names, base, strict=True)
            ]
            scores.append(shifts(base, tuned, heads))
        return _table(scores)

    def following(self, backbone: Backbone) -> Edit | None:
        if self.localised:
            return None
        options = self.options | {"heads": strongest(self.scores(backbone), self.share)}
        second = Alps(backbone, self.tasks, **options)
        second.options = options
        return second.to(self.device)

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": as_stored(backbone, name, delta.added_to(weight_of(backbone, name)))
            for name, delta in by_name(self.maps).items()
        }


def _table(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Those of each layer [heads] as [layers, most heads], NaN beyond."""
    return nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=torch.nan)


def _by_head(weight: torch.Tensor, width: int, heads: int) -> torch.Tensor:
    """Each head's rows of a weight [out, in], laid end to end: [heads, width · in]; a group's for each head
    of the group."""
    groups = weight.unflatten(0, (-1, width)).flatten(1)
    return groups.repeat_interleave(heads // len(groups), 0)
