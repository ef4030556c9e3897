"""Attention Lens: a linear map, learned for one attention head, from what it writes to tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.where import At
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("attention_lens", family="inspect", paper="arXiv:2310.16270", applies_to=("generate",))
@dataclass(frozen=True)
class AttentionLens:
    """From what one attention head adds to the residual stream at a row's last token to logits of the token
    that the whole model says next: the linear map with the least KL(model || lens) over some text.

    Attributes
    ----------
    head: whose. weight: [V, D], 0 for directions that the head never writes. bias: [V].
    divergence: the mean KL over the rows that it was fitted to, in nats; that of the language head in its
        place (the logit lens): `logit_lens`.
    """

    head: tuple[int, int]
    weight: torch.Tensor
    bias: torch.Tensor
    divergence: float
    logit_lens: float

    def __call__(self, contributions: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of what the head adds [..., D], without its layer's bias."""
        return contributions @ self.weight.T + self.bias

    @classmethod
    @torch.enable_grad()
    def fit(
        cls,
        heads: AttentionHeads,
        language_head: nn.Module,
        batches: Iterable[RaggedBatch],
        head: tuple[int, int],
        *,
        steps: int = 300,
    ) -> AttentionLens:
        """Fit a lens to the last tokens of rows.

        The problem is convex, and solved (L-BFGS on all rows at once) in the head's own width, from the
        logit lens on: it is never worse. steps: of L-BFGS at most. Raises ConfigError where there is no row.
        """
        layer, number = head
        given, said = _seen(heads, language_head, batches, head)
        output = heads.output_weight(layer)[number].detach()
        unembedded: Any = language_head.weight
        unembedded = unembedded.detach()
        plain = getattr(language_head, "bias", None)
        start = given.new_zeros(len(unembedded)) if plain is None else plain.detach().clone()
        inner = (output @ unembedded.T).clone().requires_grad_()
        bias = start.requires_grad_()
        entropy = -torch.special.xlogy(said, said).sum(-1).mean()

        def divergence() -> torch.Tensor:
            return cross_entropy(given @ inner + bias, said) - entropy

        logit_lens = divergence().item()
        best = torch.optim.LBFGS(
            [inner, bias],
            max_iter=steps,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            best.zero_grad()
            loss = divergence()
            loss.backward()
            return loss

        best.step(closure)
        weight = (torch.linalg.pinv(output) @ inner.detach()).T
        return cls(head, weight, bias.detach(), divergence().item(), logit_lens)


@torch.no_grad()
def _seen(
    heads: AttentionHeads, language_head: nn.Module, batches: Iterable[RaggedBatch], head: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The head's output at the last token of each row [rows, width], and what the model says [rows, V]."""
    site, given, said = site_of(head[0]), [], []
    for batch in batches:
        found = heads.backbone.run(batch, [site, "output"])
        last = At([-1]).tokens(batch)
        given.append(found[site][last][:, head[1]])
        said.append(language_head(found["output"][last]).softmax(-1))
    if not given:
        raise ConfigError("a lens is fitted to some rows, and there is none")
    return torch.cat(given), torch.cat(said)
