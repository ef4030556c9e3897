"""DVPT: prompts that each row makes for itself out of its own features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from transformers.activations import ACT2FN

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.errors import ConfigError
from taskheads.methods import method


class DynamicPrompts(nn.Module):
    """h + attend(z, P') U for the tokens h [N, width] of some rows, where z = f(h D + b) is narrow and
    P' = attend(P, z) are the learned prompts P [prompts, inner] filled from the tokens of each row.

    attend(q, k) = softmax(q kᵀ / √inner) k. U begins at zero, so that h passes unchanged.
    """

    def __init__(self, width: int, inner: int, prompts: int, activation: Callable) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.prompts = nn.Parameter(torch.randn(prompts, inner))
        self.up = nn.Linear(inner, width, bias=False)
        self.activation = activation
        nn.init.zeros_(self.up.weight)

    def narrow(self, h: torch.Tensor) -> torch.Tensor:
        """z [N, inner]: what the prompts are made from, and what reads them."""
        return self.activation(self.down(h))

    def prompts_of(self, z: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """P' [rows, prompts, inner]: a softmax over each row's own tokens, of which there are `counts`."""
        scores = z @ self.prompts.T / math.sqrt(z.shape[1])
        top = torch.segment_reduce(scores.detach(), "max", lengths=counts)
        weights = (scores - top.repeat_interleave(counts, 0)).exp()
        whole = torch.segment_reduce(weights, "sum", lengths=counts)
        weights = weights / whole.repeat_interleave(counts, 0)
        return torch.segment_reduce(weights[:, :, None] * z[:, None, :], "sum", lengths=counts)

    def forward(self, h: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """The changed tokens of rows with so many tokens each, end to end."""
        counts = torch.tensor(lengths, device=h.device)
        z = self.narrow(h)
        prompts = self.prompts_of(z, counts).repeat_interleave(counts, 0)
        scores = torch.einsum("nr,nmr->nm", z, prompts) / math.sqrt(z.shape[1])
        return h + self.up(torch.einsum("nm,nmr->nr", scores.softmax(-1), prompts))


@method("dvpt", family="edits", paper="arXiv:2307.09787")
class Dvpt(Edit):
    """Dynamic visual prompt tuning: after each layer a few learned queries gather what they look for among
    the row's own tokens, through a bottleneck, and the tokens read the prompts that come of it.

    He et al. 2023: features are narrowed, attended to by the prompts, widened again and added to the frozen
    ones, and one module may serve all layers. That the tokens read the prompts by the same attention, and
    that a module stands on a layer's output, is our reading. Rows are images or texts. A token sees the
    whole row, later tokens too, so that a decoder with it can answer but not generate.

    Parameters
    ----------
    inner: width of the bottleneck. prompts: how many queries. activation: a name of transformers'.
    one_for_all: whether one module serves all layers. layers: of these alone; all by default.
    """

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        inner: int = 32,
        prompts: int = 8,
        activation: str = "gelu",
        one_for_all: bool = False,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if activation not in ACT2FN:
            raise ConfigError(f"dvpt: there is no activation {activation!r}")
        self.layers = chosen_layers(backbone, layers)
        made = 1 if one_for_all else len(self.layers)
        self.blocks = nn.ModuleList(
            DynamicPrompts(backbone.width, inner, prompts, ACT2FN[activation]) for _ in range(made)
        )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        blocks = self.blocks if len(self.blocks) > 1 else [*self.blocks] * len(self.layers)
        sites = {
            f"layers.{layer}.output": partial(block, lengths=lengths)
            for layer, block in zip(self.layers, blocks, strict=True)
        }
        return Own(sites=sites)
