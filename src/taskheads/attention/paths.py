"""Path patching: what one attention head does by way of another, and directly."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taskheads.attention.changing import Found, patched, replaced, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.which import Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then


@torch.no_grad()
def head_outputs(heads: AttentionHeads, batch: RaggedBatch, changes: Changes | None = None) -> Found:
    """The outputs of all attention heads in one pass, by site: what `replaced` and paths are patched with."""
    return heads.backbone.run(batch, [site_of(layer) for layer in range(heads.n_layers)], changes)


def direct_path(
    heads: AttentionHeads, senders: Which, donor: Found, clean: Found, held: Sequence[str] = ()
) -> Changes:
    """The changes of a pass in which some heads have the outputs of another run, and all other heads those
    that they have without: what reaches the output does so on no way through another attention head.

    Wang et al. 2023 (arXiv:2211.00593), section 3.1. Feed-forward blocks follow, as there; `held` are further
    sites of `clean` that stay as they were ("layers.5.mlp.hidden").

    donor, clean: by site, both of this batch.
    """
    sending = heads.which(senders)
    others = sorted(set(heads.which()) - set(sending))
    kept = replaced(others, clean)
    still = patched({site: clean[site] for site in held})
    return then(then(kept, still), replaced(sending, donor))


def path_patched(
    heads: AttentionHeads,
    batch: RaggedBatch,
    senders: Which,
    receivers: Which,
    donor: Found,
    clean: Found,
    parts: Sequence[str] = ("query", "key", "value"),
    held: Sequence[str] = (),
) -> Changes:
    """The changes of a pass in which the senders' outputs are the donor's for the receivers alone, on direct
    paths to what makes their queries, keys or values; everything else is as it is. Runs one pass.

    Under grouped queries keys and values of a receiver are its group's.
    """
    receiving = heads.which(receivers)
    layers = sorted({layer for layer, _ in receiving})
    sites = [site_of(layer, part) for layer in layers for part in parts]
    found = heads.backbone.run(batch, sites, direct_path(heads, senders, donor, clean, held))
    changes = Changes()
    for part in parts:
        own = [(n, h if part == "query" else heads.key_head(n, h)) for n, h in receiving]
        changes = then(changes, replaced(sorted(set(own)), found, part=part))
    return changes
