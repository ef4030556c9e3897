"""Greedy generation on a decoder: ragged rows, with the keys and values of earlier tokens kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taskheads.backbone import pretrained
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import BackboneError

# A row's number and its tokens so far to the ids that may come next; None for all, none at all to stop.
Allowed = Callable[[int, Sequence[int]], Collection[int] | None]
_END = -1


class Kept:
    """Keys and values that grow: each pass keeps those of its tokens, as attention receives them, and the
    next pass has them before its own (`taskheads.backbone.changes.Past`).

    Parameters
    ----------
    lengths: tokens of each row in the first pass. more: how many may come after them.

    Attributes
    ----------
    lengths: how many keys and values stand before the tokens of each row of the batch: none at first.
    """

    def __init__(self, lengths: Sequence[int], more: int) -> None:
        self._new, self._more = np.asarray(lengths, np.int64), more
        self._held = np.zeros(len(lengths), np.int64)
        self.lengths: Sequence[int] = self._held.tolist()
        # The rows of the batch by their numbers in the first one; rows that stopped have left.
        self._rows = np.arange(len(lengths))
        self._parts: dict[tuple[int, int], torch.Tensor] = {}  # by layer and 0 (keys) or 1 (values)
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some rows, which have equally many."""
        at = self._rows[rows]
        index = torch.from_numpy(at).to(self._parts[layer, 0].device)
        keys, values = (self._parts[layer, part][index, : self._held[at[0]]] for part in (0, 1))
        return keys, values

    def prompted(self, lengths: Sequence[int]) -> None:
        """Say that so many prompt vectors stand before each row in the pass to come; they are kept too."""
        self._new = self._new + np.asarray(lengths, np.int64)

    def changes(self, layers: int) -> Changes:
        """What a pass through so many layers needs in order to read and to fill this."""
        sites: dict[str, Change] = {}
        for layer in range(layers):
            sites[f"layers.{layer}.attention.key"] = partial(self._keep, (layer, 0))
            sites[f"layers.{layer}.attention.value"] = partial(self._keep, (layer, 1))
        return Changes(sites=sites, past=self)

    def advance(self, going: Sequence[int]) -> None:
        """End a pass: of the rows of its batch only those `going` come again, with one token each."""
        self._held[self._rows] += self._new
        self._rows = self._rows[np.asarray(going, np.int64)]
        self.lengths = self._held[self._rows].tolist()
        self._new, self._places = np.ones(len(self._rows), np.int64), None

    def _keep(self, part: tuple[int, int], tokens: torch.Tensor) -> torch.Tensor:
        if part not in self._parts:
            room = int(self._new.max()) + self._more
            self._parts[part] = tokens.new_zeros(len(self._new), room, *tokens.shape[1:])
        if self._places is None:
            self._places = self._places_of_new(tokens.device)
        self._parts[part][self._places] = tokens
        return tokens

    def _places_of_new(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and position of each token of the pass."""
        before = np.cumsum(self._new) - self._new
        inside = np.arange(self._new.sum()) - np.repeat(before - self._held[self._rows], self._new)
        rows = np.repeat(self._rows, self._new)
        return torch.from_numpy(rows).to(device), torch.from_numpy(inside).to(device)


@torch.inference_mode()
def generate(
    backbone: Backbone,
    language_head: nn.Module,
    batch: RaggedBatch,
    *,
    most: int,
    stop: Collection[int] = (),
    allowed: Allowed | None = None,
) -> list[list[int]]:
    """The likeliest next token, again and again, for every row of a batch: its new tokens.

    The rows go through the model once, and then one token a row and step. A row that stopped leaves the
    batch. With an edited backbone each row is changed as its task says, in every step; an edit which looks
    at other tokens of the same row sees but the new one.

    Parameters
    ----------
    backbone: a decoder. language_head: from its output [n, width] to logits [n, vocabulary].
    most: new tokens of a row at most. stop: ids which end a row; they are no part of the answer.
    allowed: called with a row's place in the batch and its tokens so far, gives the ids of which the next
        one is chosen, or None for all; where it gives none the row ends.

    Raises BackboneError for a backbone that is no decoder, and for a row without a token.
    """
    if not backbone.causal:
        raise BackboneError(f"{backbone.name!r} is no decoder, and cannot go on with a text")
    if 0 in batch.lengths:
        raise BackboneError(f"row {batch.lengths.index(0)} has no token to go on from")
    answers: list[list[int]] = [[] for _ in batch.lengths]
    rows, numbers = list(range(len(answers))), batch.rows
    tasks = [task for task, count in batch.tasks for _ in range(count)]
    kept = Kept(batch.lengths, most)
    for _ in range(most):
        output = backbone.run(batch, ("output",), kept.changes(backbone.n_layers))["output"]
        logits = language_head(output[batch.starts + batch.counts - 1])
        chosen = _chosen(logits, rows, answers, allowed)
        going = [place for place, token in enumerate(chosen) if token != _END and token not in stop]
        if not going:
            break
        kept.advance(going)
        rows = [rows[place] for place in going]
        for row, place in zip(rows, going, strict=True):
            answers[row].append(chosen[place])
        of_task = (
            [(task, len([*some])) for task, some in groupby(tasks[row] for row in rows)] if tasks else ()
        )
        new = [Encoded(np.array(answers[row][-1:])) for row in rows]
        batch = RaggedBatch(new, [numbers[row] for row in rows], of_task)
        batch = batch.to(backbone.device)
    return answers


def _chosen(
    logits: torch.Tensor, rows: Sequence[int], answers: Sequence[list[int]], allowed: Allowed | None
) -> list[int]:
    """The best allowed token of each row, _END where there is none."""
    best = logits.argmax(1).tolist()
    for place, row in enumerate(rows if allowed else ()):
        assert allowed is not None
        ids = allowed(row, tuple(answers[row]))
        if ids is not None:
            index = torch.tensor(sorted(ids), dtype=torch.long, device=logits.device)
            best[place] = int(index[logits[place, index].argmax()]) if len(index) else _END
    return best


def language_model(source: str | Path | nn.Module, tokenizer: Any = None) -> tuple[Backbone, nn.Module]:
    """A decoder with its language head: the backbone, and the map from its output to logits.

    Parameters
    ----------
    source: what `Backbone.load` takes, or a model of transformers for causal language modelling; then with
        its `tokenizer`, or without one where rows come as token ids.

    What a model does to its logits after that map (a scale, a cap) is left out: it changes no choice. Raises
    BackboneError for a model that cannot be loaded, or whose choices are made in another way.
    """
    if isinstance(source, str | Path):
        model, tokenizer = pretrained.language_model(pretrained.source_of(str(source)), str(source))
        name = str(source)
    else:
        model, name = source, type(source).__name__
    plain: Any = model.eval()
    head = plain.get_output_embeddings()
    if head is None or plain.base_model is plain:
        raise BackboneError(f"{name!r} has no language head")
    backbone = Backbone(plain.base_model, tokenizer, name=name)
    ids = torch.arange(3, min(plain.config.vocab_size, 13), device=backbone.device)
    with torch.inference_mode():
        theirs = plain(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
        mine = head(backbone.run(RaggedBatch([Encoded(ids.cpu().numpy())]).to(backbone.device))["output"])
    if not torch.equal(theirs.argmax(1), mine.argmax(1)):
        raise BackboneError(f"the language head of {name!r} is more than a map of the last hidden state")
    return backbone, head
