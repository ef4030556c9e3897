"""Head Pursuit: which tokens an attention head writes, and which heads write a given kind of token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.where import At
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class Pursuit:
    """Signals [n, d] as sums of a few atoms.

    Attributes
    ----------
    atoms: the rows of the dictionary that were chosen, in the order of choice.
    coefficients: [n, chosen]. residual: what they leave of the signals [n, d].
    explained: after each step, the share of the signals' squares that the atoms account for [chosen].
    """

    atoms: tuple[int, ...]
    coefficients: torch.Tensor
    residual: torch.Tensor
    explained: torch.Tensor


@torch.no_grad()
def pursued(signals: torch.Tensor, dictionary: torch.Tensor, steps: int) -> Pursuit:
    """Simultaneous Orthogonal Matching Pursuit: again and again the atom whose products with what is left of
    all signals are largest in sum of absolute values, and then the best coefficients for all atoms so far.

    signals: [n, d]; dictionary: [atoms, d], compared as they are: of one signal, one step over unembedding
    vectors is the logit lens. steps: atoms to choose; fewer come back where the dictionary has no more.
    """
    atoms: list[int] = []
    explained = []
    residual, coefficients = signals, signals.new_zeros(len(signals), 0)
    energy = signals.square().sum()
    for _ in range(min(steps, len(dictionary))):
        products = (residual @ dictionary.T).abs().sum(0)
        products[atoms] = -1
        atoms.append(int(products.argmax()))
        coefficients = signals @ torch.linalg.pinv(dictionary[atoms])
        residual = signals - coefficients @ dictionary[atoms]
        # A head that writes nothing explains nothing.
        left = residual.square().sum()
        explained.append((energy - left) / energy.clamp_min(torch.finfo(energy.dtype).tiny))
    return Pursuit(tuple(atoms), coefficients, residual, torch.stack(explained))


@method("head_pursuit", family="inspect", paper="arXiv:2510.21518")
@torch.no_grad()
def head_pursuit(
    heads: AttentionHeads,
    batches: Iterable[RaggedBatch],
    concept: torch.Tensor,
    *,
    steps: int = 10,
    where: At | None = None,
) -> HeadScores:
    """For every attention head, how much of what it adds to the residual stream over many samples is made of
    a few unembedding vectors of one concept: 0 for none of its squares, 1 for all.

    Parameters
    ----------
    concept: [tokens, D], the rows of the unembedding that name it (`vocabulary.unembedding`).
    steps: of the pursuit, so that at most as many tokens are used.
    where: the tokens that are samples, by default the last of each row.

    Basile et al. 2025: heads are ranked by the variance that a dictionary restricted to the concept explains,
    and the first 1 % of them scaled (`changing.scaled`) by a negative factor or one above 1. Raises
    ConfigError where the concept is empty or there is no step.
    """
    if not len(concept) or steps < 1:
        raise ConfigError(f"head pursuit over {len(concept)} tokens of a concept, in {steps} steps")
    samples = _samples(heads, batches, At([-1]) if where is None else where)
    values = torch.full(heads.shape, torch.nan)
    for layer, z in enumerate(samples):
        for head, signals in enumerate(heads.contributions(layer, z).unbind(1)):
            values[layer, head] = pursued(signals, concept, steps).explained[-1]
    backbone = heads.backbone
    return HeadScores.of(
        values, model=backbone.name, fingerprint=backbone.fingerprint, n=len(samples[0]), steps=steps
    )


@torch.inference_mode()
def _samples(heads: AttentionHeads, batches: Iterable[RaggedBatch], where: At) -> list[torch.Tensor]:
    """For each layer the heads' outputs at some tokens [n, heads, width]."""
    sites = [site_of(layer) for layer in range(heads.n_layers)]
    found: list[dict[str, torch.Tensor]] = []
    for batch in batches:
        tokens = where.tokens(batch)
        run = heads.backbone.run(batch, sites)
        found.append({site: z[tokens] for site, z in run.items()})
    return [torch.cat([each[site] for each in found]) for site in sites]
