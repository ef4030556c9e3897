"""Edits of single attention heads: LoFiT."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import Edit, Own
from taskheads.edits.maps import bias_name, weight_of
from taskheads.errors import ConfigError
from taskheads.methods import method


def head_site(layer: int) -> str:
    """The outputs of a layer's attention heads, before the output projection."""
    return f"layers.{layer}.attention.heads"


@method("lofit", family="edits", paper="arXiv:2406.01563")
class LoFit(Edit):
    """LoFiT: find the few attention heads that matter to a task, then learn an offset to the output of each.

    Yin et al. 2024, section 3. Stage one learns a scale A for every attention head's output z, z ← (1 + A) z,
    with the penalty λ |A|₁; heads are ranked by ‖A‖. Stage two drops the scales and learns z ← z + v for the
    best `share` of the heads.

    Parameters
    ----------
    share: of all heads, those that are kept. sparsity: λ, the weight of the L1 penalty.
    heads: pairs (layer, head) that are kept, chosen already: then there is no first stage.
    """

    lr = 5e-3
    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        share: float = 0.1,
        sparsity: float = 5e-4,
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.counts, width = head_counts(backbone)
        self.share, self.sparsity = share, sparsity
        self.heads = None if heads is None else [(int(layer), int(head)) for layer, head in heads]
        if self.heads is None:
            self.scales = nn.Parameter(torch.zeros(backbone.n_layers, max(self.counts), width))
        else:
            self.offsets = nn.Parameter(torch.zeros(len(self.heads), width))
            for layer, head in self.heads:
                if not (0 <= layer < backbone.n_layers and 0 <= head < self.counts[layer]):
                    raise ConfigError(f"this backbone has no attention head ({layer}, {head})")

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        if self.heads is None:
            each = zip(self.scales, self.counts, strict=True)
            return Own({head_site(layer): _scaled(mine[:count]) for layer, (mine, count) in enumerate(each)})
        return Own({head_site(layer): _moved(at, v) for layer, (at, v) in self._by_layer().items()})

    def penalty(self) -> torch.Tensor | None:
        return self.sparsity * self.scales.abs().sum() if self.heads is None else None

    def ranked(self) -> list[tuple[int, int]]:
        """All heads, (layer, head), by falling ‖A‖."""
        norms = self.scales.detach().norm(dim=-1)
        order = norms.flatten().argsort(descending=True, stable=True).tolist()
        pairs = [divmod(place, norms.shape[1]) for place in order]
        return [(layer, head) for layer, head in pairs if head < self.counts[layer]]

    def following(self, backbone: Backbone) -> Edit | None:
        if self.heads is not None:
            return None
        kept = self.ranked()[: max(1, round(self.share * sum(self.counts)))]
        options = self.options | {"heads": sorted(kept)}
        second = LoFit(backbone, self.tasks, **options)
        second.options = options
        return second.to(self.device)

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        if self.heads is None:
            raise ConfigError("lofit can be folded after its second stage, when it is a set of offsets")
        weights, found = dict(backbone.model.named_parameters()), {}
        for layer, (heads, offsets) in self._by_layer().items():
            name = backbone.layout.maps[layer].attention_output
            weight = weight_of(backbone, name).unflatten(1, (-1, offsets.shape[1]))  # [out, heads, width]
            place = bias_name(backbone, name)
            found[place] = weights[place] + torch.einsum("ohw,hw->o", weight[:, heads], offsets)
        return found

    def _by_layer(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """For each layer, the numbers of the heads that are kept, and their offsets [heads, width]."""
        assert self.heads is not None
        found = {}
        for layer in dict.fromkeys(layer for layer, _ in self.heads):
            places = [place for place, (of, _) in enumerate(self.heads) if of == layer]
            numbers = torch.tensor([self.heads[place][1] for place in places], device=self.offsets.device)
            found[layer] = numbers, self.offsets[places]
        return found


def head_counts(backbone: Backbone) -> tuple[list[int], int]:
    """(Attention heads of each layer, width of one's output): of a pruned backbone, those that are left.

    Raises ConfigError where attention is not seen."""
    if not backbone.layout.has_attention:
        raise ConfigError(f"the attention heads of {backbone.name!r} cannot be reached")
    probe, sites = backbone.probe(), [head_site(layer) for layer in range(backbone.n_layers)]
    with torch.inference_mode():
        if isinstance(probe, RaggedBatch):
            probe = probe.to(backbone.device)
        found = backbone.run(probe, sites)
    return [found[site].shape[1] for site in sites], found[sites[0]].shape[2]


def _scaled(scale: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda z: z * (1 + scale)


def _moved(heads: torch.Tensor, offsets: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(z: torch.Tensor) -> torch.Tensor:
        return z.index_add(1, heads, offsets.to(z.dtype).expand(len(z), -1, -1))

    return change
