"""AMP: attention heads and feed-forward neurons pruned by how much they write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.neurons import without_neurons
from taskheads.attention.pruning import pruned
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("amp_head_mlp_pruning", family="inspect", paper="arXiv:2504.21174")
@dataclass(frozen=True)
class Amp:
    """Importance of attention heads and neurons from activations on a little text, and the model without the
    least of them: of a head the mean over tokens of ‖h_n W_n‖₁, what it writes to the residual stream; of a
    neuron the mean of |act(x W_gate) · x W_up|.

    Attributes
    ----------
    scores: of heads. neurons: of each layer's feed-forward neurons [hidden], as they stand at
        `layers.N.mlp.hidden`.

    Mugnaini et al. 2025, section 3. LoRA may mend the model afterwards; that is an edit.
    """

    heads: AttentionHeads
    scores: HeadScores
    neurons: tuple[torch.Tensor, ...]

    @classmethod
    @torch.inference_mode()
    def measured(cls, heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> Amp:
        """In one pass over some text (the paper takes 50 rows). Raises ConfigError for none."""
        layers = range(heads.n_layers)
        sites = [*map(site_of, layers), *(f"layers.{layer}.mlp.hidden" for layer in layers)]
        written = torch.zeros(heads.shape, dtype=torch.float64)
        active: list[torch.Tensor] = []
        tokens = 0
        for batch in batches:
            found = heads.backbone.run(batch, sites)
            tokens += len(batch.ids)
            for layer in layers:
                parts = heads.contributions(layer, found[site_of(layer)])
                written[layer, : parts.shape[1]] += parts.abs().sum((0, 2)).double().cpu()
            hidden = [found[site].abs().sum(0).double().cpu() for site in sites[heads.n_layers :]]
            active = [a + b for a, b in zip(active, hidden, strict=True)] if active else hidden
        if not tokens:
            raise ConfigError("importance is measured on some text, and there is none")
        mean = (written / tokens).float()
        for layer, count in enumerate(heads.counts):
            mean[layer, count:] = torch.nan
        backbone = heads.backbone
        about = {"measured": "AMP", "tokens": tokens, "fingerprint": backbone.fingerprint}
        scores = HeadScores.of(mean, model=backbone.name, **about)
        return cls(heads, scores, tuple((each / tokens).float() for each in active))

    def lowest(self, share: float) -> tuple[tuple[AttentionHead, ...], dict[int, list[int]]]:
        """The heads and neurons that go: this share of each layer's, the lowest (rounded down), as the paper
        prunes all layers alike; under grouped queries whole groups, by
        their sum. Raises ConfigError for a share outside 0 to 1."""
        if not 0 <= share < 1:
            raise ConfigError(f"a share of {share} of heads and neurons cannot go: it is from 0 to below 1")
        heads, neurons = [], {}
        for layer, count in enumerate(self.heads.counts):
            group = torch.arange(count) * self.heads.key_counts[layer] // count
            worth = torch.zeros(self.heads.key_counts[layer])
            worth.index_add_(0, group, self.scores.values[layer, :count])
            gone = worth.argsort(stable=True)[: int(share * len(worth))]
            heads += [AttentionHead(layer, head) for head in torch.isin(group, gone).nonzero()[:, 0].tolist()]
            own = self.neurons[layer]
            neurons[layer] = own.argsort(stable=True)[: int(share * len(own))].tolist()
        return tuple(heads), neurons

    def pruned(self, share: float) -> Backbone:
        """A smaller copy of the backbone, without them."""
        heads, neurons = self.lowest(share)
        return without_neurons(pruned(self.heads, heads), neurons)
