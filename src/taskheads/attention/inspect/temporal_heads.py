"""Temporal heads: attention heads that recall what was true at a time, and nothing that is always true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from taskheads.attention.changing import moved, replaced, site_of
from taskheads.attention.estimating import integrated
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure, averaged
from taskheads.attention.paths import head_outputs
from taskheads.attention.scores import HeadScores
from taskheads.attention.where import At
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class Facts:
    """Prompts of facts, each answered at its last token.

    Attributes
    ----------
    batch: the prompts. measure: how well each is answered, such as `logit_difference`. corrupted: the same
        prompts, token by token, with another subject or time, at which head outputs come to count as
        missing; None: they count from 0.
    """

    batch: RaggedBatch
    measure: Measure
    corrupted: RaggedBatch | None = None


@method("temporal_heads", family="inspect", paper="arXiv:2502.14258", applies_to=("generate",))
@dataclass(frozen=True)
class TemporalHeads:
    """Attention heads in the circuits of facts that change with time, at every time, and in none of those of
    facts that do not.

    Attributes
    ----------
    scores: by times and kinds of facts, as tasks, what each head gives to the answers. heads: the temporal
        ones, best first.

    Park et al. 2025, section 3. Circuits are of attention heads here, where the paper's have edges: of those
    which, by integrated gradients, give at least a share of what the best one gives.
    """

    scores: HeadScores
    heads: tuple[AttentionHead, ...]

    @classmethod
    def found(
        cls,
        heads: AttentionHeads,
        temporal: Mapping[str, Facts],
        invariant: Mapping[str, Facts],
        *,
        share: float = 0.2,
        steps: int = 8,
    ) -> TemporalHeads:
        """Compare circuits.

        Parameters
        ----------
        temporal: by time, facts about the same subjects. invariant: by kind, facts that no time changes.
        share: of the best head's part, from which on a head is in a circuit. steps: of the gradients' path.

        Raises ConfigError where either kind is missing.
        """
        if not temporal or not invariant:
            raise ConfigError("temporal heads are those of facts that change, against facts that do not")
        given = {
            name: averaged(heads, [facts.batch], partial(_given, heads, facts, steps))
            for name, facts in {**temporal, **invariant}.items()
        }
        circuits = {
            name: set(scores.above(share * float(scores.values.nan_to_num().max())))
            for name, scores in given.items()
        }
        always = set.intersection(*(circuits[name] for name in temporal))
        only = always.difference(*(circuits[name] for name in invariant))
        stacked = HeadScores.stacked(given, measured="integrated gradients", steps=steps)
        mean = HeadScores.of(torch.stack([given[name].values for name in temporal]).mean(0))
        return cls(stacked, tuple(head for head in mean.top(mean.values.numel()) if head in only))


def at_another_time(
    heads: AttentionHeads, which: Which, batch: RaggedBatch, then: RaggedBatch, *, factor: float | None = None
) -> Changes:
    """The changes of a pass over prompts in which some heads say at the last token what they say when asked
    about another time, so that its fact is recalled (section 5).

    then: the same prompts with the other time, token by token. factor: what they say there is added, so many
    times; None: it takes the place of what they say.
    """
    other, last, some = head_outputs(heads, then), At([-1]).tokens(batch), heads.which(which)
    sites = {site_of(layer) for layer, _ in some}
    by = {site: each for site, each in other.items() if site in sites}
    return replaced(some, by, tokens=last) if factor is None else moved(some, by, factor, tokens=last)


def _given(heads: AttentionHeads, facts: Facts, steps: int, batch: RaggedBatch) -> torch.Tensor:
    """What each head gives to the answers [rows, layers, heads]."""
    by = None if facts.corrupted is None else head_outputs(heads, facts.corrupted)
    return -integrated(heads, batch, facts.measure, by=by, steps=steps)
