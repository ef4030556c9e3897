"""Direct logit attribution: what each attention head, feed-forward block and embedding gives to a logit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.arranging import probe_of
from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.hearing import Heard
from taskheads.backbone.running import Batch
from taskheads.backbone.sites import is_map
from taskheads.edits.composing import then
from taskheads.errors import BackboneError

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Direct:
    """The parts of k numbers at each of n tokens, the final norm's statistics being what they were.

    Attributes
    ----------
    heads: [n, layers, attention heads, k]. biases: of the output projections [n, layers, k]. mlp: of the
        feed-forward blocks [n, layers, k]. embeddings: [n, k]. constant: from the final norm's bias [n, k].
    """

    heads: torch.Tensor
    biases: torch.Tensor
    mlp: torch.Tensor
    embeddings: torch.Tensor
    constant: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """The numbers themselves [n, k]."""
        parts = self.heads.sum((1, 2)) + self.biases.sum(1) + self.mlp.sum(1)
        return parts + self.embeddings + self.constant


class DirectLogits:
    """Direct logit attribution in a backbone whose residual stream is a plain sum (no norm after adding).

    When it is made it checks that on a small batch, and that the final norm is the one it takes it for; it
    raises BackboneError for a backbone of another kind (BERT's norms stand after each sum).
    """

    def __init__(self, heads: AttentionHeads) -> None:
        self.heads, self.backbone = heads, heads.backbone
        layout = self.backbone.layout
        self._outputs = ["embeddings", *(f"layers.{n}.output" for n in range(heads.n_layers))]
        self._projections = [maps.attention_output for maps in layout.maps]
        if len(set(self._projections)) < len(self._projections):
            raise BackboneError(f"the layers of {self.backbone.name!r} share their weights")
        if not all(maps.mlp for maps in layout.maps):
            raise BackboneError(f"{self.backbone.name!r} has a layer without a feed-forward block")
        heard = Heard(self._projections)
        silent = Changes(maps={maps.mlp[-1]: lambda _, made: torch.zeros_like(made) for maps in layout.maps})
        with torch.inference_mode():
            batch = probe_of(self.backbone)
            quiet = self.backbone.run(batch, [*self._outputs, "output"], then(heard.changes, silent))
            for layer, name in enumerate(self._projections):
                before, after = quiet[self._outputs[layer]], quiet[self._outputs[layer + 1]]
                gap = (before + heard.outputs[name][0] - after).abs().max()
                if not gap <= _TOLERANCE * after.abs().max():
                    raise BackboneError(
                        f"the residual stream of {self.backbone.name!r} is no plain sum of its blocks"
                    )
            self.norm = final_norm(self.backbone, quiet[self._outputs[-1]], quiet["output"])

    def __call__(self, batch: Batch, directions: torch.Tensor, tokens: torch.Tensor) -> Direct:
        """The parts of what `directions` read off the backbone's output.

        directions: [k, D], such as rows of a language head's weight or differences of two; or [n, k, D].
        tokens: bool [N], the n tokens they are read at.
        """
        heads = self.heads
        sites = [site_of(n) for n in range(heads.n_layers)]
        heard = Heard(self._projections)
        found = self.backbone.run(batch, [*sites, *self._outputs, "output"], heard.changes)
        streams = [found[site][tokens] for site in self._outputs]
        directions = directions.expand(len(streams[0]), -1, -1)
        read, constant = through_norm(self.norm, streams[-1], directions)
        of_heads, biases, mlp = [], [], []
        for layer, name in enumerate(self._projections):
            towards = torch.einsum("hwd,nkd->nhwk", heads.output_weight(layer), read)
            of_heads.append(torch.einsum("nhw,nhwk->nhk", found[sites[layer]][tokens], towards))
            biases.append(read @ heads.output_bias(layer))
            rest = streams[layer + 1] - streams[layer] - heard.outputs[name][0][tokens]
            mlp.append(torch.einsum("nd,nkd->nk", rest, read))
        most = max(heads.counts)
        padded = [nn.functional.pad(each, (0, 0, 0, most - each.shape[1])) for each in of_heads]
        embeddings = torch.einsum("nd,nkd->nk", streams[0], read)
        return Direct(
            torch.stack(padded, 1), torch.stack(biases, 1), torch.stack(mlp, 1), embeddings, constant
        )


def final_norm(backbone: Backbone, last: torch.Tensor, output: torch.Tensor) -> nn.Module:
    """The norm between the last layer and the backbone's output: that which makes `output` of `last`, both
    [N, D]; nothing at all (`nn.Identity`) where they are the same. BackboneError for anything else."""
    norms = [
        module
        for name, module in backbone.model.named_modules()
        if is_map(module) and name not in backbone.layout.modules and type(module).__name__.endswith("Norm")
    ]
    for norm in [nn.Identity(), *norms]:
        if _close(norm(last), output) and _close(_linear(norm, last), output):
            return norm
    raise BackboneError(f"what {backbone.name!r} does after its last layer is no norm of a known kind")


def through_norm(
    norm: nn.Module, x: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions [n, k, D] at the output of a norm, as directions [n, k, D] at its input, the norm's
    statistics being those of x [n, D]; and what its bias adds to each [n, k]."""
    gain, bias, size, centred = _affine(norm, x)
    read = directions * gain / size[..., None, None]
    if centred:
        read = read - read.mean(-1, keepdim=True)
    return read, directions @ bias


def _affine(norm: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """Gain [D], bias [D], the size [n] that x [n, D] is divided by, and whether its mean is taken off."""
    one = x.new_ones(x.shape[-1])
    if isinstance(norm, nn.Identity):
        return one, 0 * one, x.new_ones(len(x)), False
    if isinstance(norm, nn.LayerNorm):
        size = (x.var(-1, correction=0) + norm.eps).sqrt()
        bias = 0 * one if norm.bias is None else norm.bias
        return norm.weight, bias, size, True
    eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))
    # Some RMS norms keep their gain less 1: what they make of ones shows it.
    return norm(one) * (1 + eps) ** 0.5, 0 * one, (x.square().mean(-1) + eps).sqrt(), False


def _linear(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gain, bias, size, centred = _affine(norm, x)
    return (x - x.mean(-1, keepdim=True) * centred) / size[:, None] * gain + bias


def _close(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((mine - theirs).abs().max() <= _TOLERANCE * theirs.abs().max())
