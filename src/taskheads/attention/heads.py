"""The attention heads of a backbone: how many, how wide, their weights; checked when they are found."""

from __future__ import annotations

from functools import cached_property

import torch

from taskheads.attention.arranging import Arrangement, Part, arrangements, probe_of
from taskheads.attention.factored import Factored
from taskheads.attention.which import AttentionHead, Which, chosen_heads
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.hearing import Heard
from taskheads.edits.maps import weight_of
from taskheads.errors import BackboneError

_TOLERANCE = 1e-4


class AttentionHeads:
    """The attention heads of a backbone, for reading and changing them.

    When it is made it runs a small batch, and refuses (BackboneError) a backbone in which the heads'
    contributions and the bias do not sum to what the output projection gives, in every layer.

    Attributes
    ----------
    counts: heads of each layer. key_counts: under grouped queries, those that have keys and values of their
        own. width: numbers of a head's output.
    """

    def __init__(self, backbone: Backbone) -> None:
        if not backbone.layout.has_attention:
            raise BackboneError(f"the attention heads of {backbone.name!r} cannot be reached")
        self.backbone = backbone
        names = self._projections = [maps.attention_output for maps in backbone.layout.maps]
        if "" in names:
            raise BackboneError(f"layer {names.index('')} of {backbone.name!r} has no output projection")
        sites = {
            part: [f"layers.{n}.attention.{part}" for n in range(len(names))] for part in ("key", "heads")
        }
        heard = Heard(list(dict.fromkeys(names)))
        with torch.inference_mode():
            found = backbone.run(
                probe_of(backbone), [*sites["key"], *sites["heads"], "output"], heard.changes
            )
            outputs = [found[site] for site in sites["heads"]]
            self.counts = tuple(output.shape[1] for output in outputs)
            self.key_counts = tuple(found[site].shape[1] for site in sites["key"])
            self.width = outputs[0].shape[2]
            runs = {name: iter(each) for name, each in heard.outputs.items()}
            for layer, (name, z) in enumerate(zip(names, outputs, strict=True)):
                whole = next(runs[name])
                mine = self.contributions(layer, z).sum(1) + self.output_bias(layer)
                if not (mine - whole).abs().max() <= _TOLERANCE * whole.abs().max():
                    raise BackboneError(
                        f"{backbone.name!r}: what the attention heads of layer {layer} add up to is not what "
                        "their output projection gives"
                    )

    @property
    def n_layers(self) -> int:
        return len(self.counts)

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads of one at most): the shape of a table of all heads."""
        return self.n_layers, max(self.counts)

    def which(self, said: Which = "all") -> tuple[AttentionHead, ...]:
        """The heads that are meant, see `chosen_heads`."""
        return chosen_heads(said, self.counts)

    def key_head(self, layer: int, head: int) -> int:
        """The number of the keys and values that a head looks at."""
        return head * self.key_counts[layer] // self.counts[layer]

    def output_weight(self, layer: int) -> torch.Tensor:
        """What each head's output is multiplied by on its way to the residual stream [heads, width, D]."""
        weight = weight_of(self.backbone, self._projections[layer])
        return weight.T.unflatten(0, (self.counts[layer], self.width))

    def output_bias(self, layer: int) -> torch.Tensor:
        """What is added beside all heads [D]; zeros where there is nothing."""
        module = self.backbone.model.get_submodule(self._projections[layer])
        bias = getattr(module, "bias", None)
        return self.output_weight(layer).new_zeros(self.backbone.width) if bias is None else bias

    def contributions(self, layer: int, z: torch.Tensor, heads: list[int] | None = None) -> torch.Tensor:
        """What each head adds to the residual stream [N, heads, D], from the outputs [N, heads, width] that
        stand at `layers.N.attention.heads`; of some `heads` alone, if given.

        Together with `output_bias` they sum to what the block of attention gives.
        """
        weight = self.output_weight(layer)
        if heads is not None:
            z, weight = z[:, heads], weight[heads]
        return torch.einsum("nhw,hwd->nhd", z, weight)

    def query(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [heads, D, width] and bias [heads, width] which make queries of what attention reads (the
        normed residual stream), before any rotation by position."""
        return self._part(layer, "query")

    def key(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for keys [key heads, D, width]."""
        return self._part(layer, "key")

    def value(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for values [key heads, D, width]."""
        return self._part(layer, "value")

    def place(self, layer: int, part: Part) -> tuple[str, torch.Tensor]:
        """The linear map that makes the queries, keys or values of a layer, by name, and which of its outputs
        are those of each head [heads, width]."""
        return self._arranged[layer].place(part)

    def qk(self, layer: int, head: int) -> Factored:
        """[D, D] whose form x_q M x_k, times the model's scale, is a head's score for what it reads at the
        query and at the key (biases and rotations left out)."""
        return Factored(self.query(layer)[0][head], self.key(layer)[0][self.key_head(layer, head)].T)

    def ov(self, layer: int, head: int) -> Factored:
        """[D, D] from what a head reads at a token that it looks at to what it adds to the stream, x M."""
        value = self.value(layer)[0][self.key_head(layer, head)]
        return Factored(value, self.output_weight(layer)[head])

    @cached_property
    def _arranged(self) -> list[Arrangement]:
        return arrangements(self.backbone, self.counts, self.key_counts, self.width)

    def _part(self, layer: int, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        return self._arranged[layer].weights(self.backbone, part)
