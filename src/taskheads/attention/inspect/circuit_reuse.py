"""Circuits of attention heads by path patching, what two tasks share of them, and how to mend one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import hypergeom

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import Found, edited
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.paths import direct_path, head_outputs, path_patched
from taskheads.attention.which import AttentionHead, Which, by_layer
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method

# By what a head is heard: the output itself, or what a later head of the circuit asks, is found by, or reads.
Way = Literal["output", "query", "key", "value"]


@dataclass(frozen=True)
class Circuit:
    """The heads that a task is done by.

    Attributes
    ----------
    ways: for each head, from the last layer down as they were found, by what it is heard. In the paper's
        words those heard by the output are movers, by a mover's query they inhibit, and those heard by the
        keys or values of other heads are duplicate-token, induction and previous-token heads.
    effects: for each head and way, the mean change of the measure that patching it makes.
    """

    ways: Mapping[AttentionHead, frozenset[Way]]
    effects: Mapping[tuple[AttentionHead, Way], float]

    @property
    def heads(self) -> tuple[AttentionHead, ...]:
        return tuple(sorted(self.ways))


@method("circuit_reuse", family="inspect", paper="arXiv:2310.08744")
@torch.no_grad()
def circuit_reuse(
    heads: AttentionHeads, batch: RaggedBatch, other: RaggedBatch, measure: Measure, *, least: float
) -> Circuit:
    """The circuit of a task: the heads whose direct path to the output, patched with their outputs on
    corrupted rows, changes the measure; then those whose paths to the queries, keys or values of the ones
    just found do; and so on.

    Parameters
    ----------
    batch, other: rows, and corrupted rows of the same lengths.
    measure: of a row, at its last token, such as the logit difference of two answers. least: the mean change
        of it, either way, from which on a head belongs to the circuit.

    Merullo, Eickhoff and Pavlick 2023, with the path patching of Wang et al. (arXiv:2211.00593): find the
    circuits of two tasks and compare them with `overlap`; `attending` mends one. Raises ConfigError where
    the two batches do not fit.
    """
    if batch.lengths != other.lengths:
        raise ConfigError("corrupted rows must have the lengths of the rows they stand for")
    clean, donor = head_outputs(heads, batch), head_outputs(heads, other)
    ways: dict[AttentionHead, set[Way]] = {}
    effects: dict[tuple[AttentionHead, Way], float] = {}

    def keep(found: torch.Tensor, way: Way) -> set[AttentionHead]:
        mean = found.mean(0)
        some = {AttentionHead(*pair) for pair in (mean.abs() >= least).nonzero().tolist()}
        for head in sorted(some):
            ways.setdefault(head, set()).add(way)
            effects[head, way] = float(mean[head])
        return some

    new = keep(to_output(heads, batch, measure, donor, clean), "output")
    asked = set(new)
    while new:
        receivers, new = sorted(new), set()
        parts: tuple[Way, ...] = ("query", "key", "value")
        for part in parts:
            new |= keep(through(heads, batch, measure, donor, clean, receivers, (part,)), part)
        new -= asked
        asked |= new
    return Circuit({head: frozenset(some) for head, some in ways.items()}, effects)


@torch.no_grad()
def to_output(
    heads: AttentionHeads, batch: RaggedBatch, measure: Measure, donor: Found, clean: Found
) -> torch.Tensor:
    """How much the measure of each row changes when one head's direct path to the output has the donor's
    values [rows, layers, heads]. donor, clean: heads' outputs, as `head_outputs` gives them."""
    return _each(heads, batch, measure, heads.which(), lambda one: direct_path(heads, one, donor, clean))


@torch.no_grad()
def through(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    donor: Found,
    clean: Found,
    receivers: Sequence[tuple[int, int]],
    parts: Sequence[str],
) -> torch.Tensor:
    """The same of its direct paths to these parts of some later heads [rows, layers, heads]; NaN for heads
    that no receiver comes after."""
    highest = max(layer for layer, _ in receivers)
    senders = [head for head in heads.which() if head.layer < highest]
    return _each(
        heads,
        batch,
        measure,
        senders,
        lambda one: path_patched(heads, batch, one, receivers, donor, clean, parts),
    )


def _each(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    senders: Iterable[AttentionHead],
    patched: Callable[[Which], Changes],
) -> torch.Tensor:
    plain = measure(last_vectors(heads.backbone, batch))
    found = plain.new_full((len(batch), *heads.shape), torch.nan)
    for sender in senders:
        changed = measure(last_vectors(heads.backbone, batch, patched([sender])))
        found[:, sender.layer, sender.head] = changed - plain
    return found


@dataclass(frozen=True)
class Overlap:
    """What one circuit has of another: the share of its heads, the share by chance, and how often random
    circuits of the two sizes have as many in common (p)."""

    share: float
    chance: float
    p: float


def overlap(first: Circuit, second: Circuit, heads: AttentionHeads) -> Overlap:
    """|A and B| / |A|, beside random sets of as many heads of the model (their exact distribution). Raises
    ConfigError for an empty circuit."""
    mine, theirs = set(first.heads), set(second.heads)
    if not mine or not theirs:
        raise ConfigError("a circuit without a head has nothing in common with another")
    total, both = sum(heads.counts), len(mine & theirs)
    p = float(hypergeom.sf(both - 1, total, len(theirs), len(mine)))
    return Overlap(both / len(mine), len(theirs) / total, p)


def attending(which: Iterable[tuple[int, int]], edges: torch.Tensor) -> Changes:
    """The changes of a pass in which heads look where they are told: for the tokens that have some `edges`,
    bool [N, longest row], all weight is on these, evenly. The paper's repair: inhibition heads that attend
    to the wrong candidates make the movers above turn to the right one."""
    tokens = edges.any(1)
    weights = edges[tokens] / edges[tokens].sum(1, keepdim=True)
    told = weights[:, None]
    some = [(layer, head) for layer, numbers in by_layer(which).items() for head in numbers]
    return edited(some, lambda _, pattern: told.to(pattern).expand_as(pattern), part="pattern", tokens=tokens)
