"""The exact effect of changing every attention head on its own, in far less than a pass for each.

What lies below a head's layer is computed once for all; the heads of a layer are changed side by side, in
copies of the rows that make one batch; and of the last layer nothing is computed that no answer needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from taskheads.attention.changing import Found, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.which import Which, by_layer
from taskheads.backbone.changes import Attended, Change, Changes, Lower
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from taskheads.backbone.standing_in import standing_in

# Tokens of a pass at most: more would not be computed at a better rate, and would need more memory.
_AT_ONCE = 1024


@torch.inference_mode()
def effects(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    *,
    by: Found | None = None,
    which: Which = "all",
    pooling: Pooling = "last",
) -> torch.Tensor:
    """How much changing one attention head alone changes the measure of each row [rows, layers, heads]; NaN
    for heads that were not asked for.

    Parameters
    ----------
    by: what a head's output is replaced by, by site: [N, heads, width] of another run of rows of the same
        lengths (patching, resampling) or [heads, width] (means). Nothing (zero ablation) by default.
    pooling: how a row's vector is read off the output, before the measure is taken.

    Equal to a pass for each head, to rounding.
    """
    kind = _Ends if _ends_are_enough(heads, batch, pooling) else _Suffixes
    suffixes = kind(heads, batch, pooling)
    plain = measure(suffixes.plain)
    found = plain.new_full((len(batch), *heads.shape), torch.nan)
    for layer, some in by_layer(heads.which(which)).items():
        for chosen in _portions(some, len(batch.ids)):
            other = None if by is None else by[site_of(layer)]
            made = suffixes.changed(layer, chosen, other).unflatten(0, (len(chosen), -1))
            found[:, layer, chosen] = (measure(made) - plain).T
    return found


class _Suffixes:
    """What comes of a batch above each layer, in as many copies as heads are changed there.

    plain: the rows' vectors [rows, D] with nothing changed.
    """

    def __init__(self, heads: AttentionHeads, batch: RaggedBatch, pooling: Pooling) -> None:
        self.heads, self.backbone = heads, heads.backbone
        self.batch, self.pooling = batch, pooling
        self.top = heads.n_layers - 1
        layout = self.backbone.layout
        heard = Heard(list(dict.fromkeys(maps.attention_output for maps in layout.maps)))
        given: list[Any] = []
        first: list[Any] = []

        read = [f"layers.{layer}.output" for layer in range(self.top)]
        read += [*(site_of(layer) for layer in range(heads.n_layers)), *self.more, "output"]
        with standing_in(layout.attention, _kept(given)), standing_in(layout.layers[:1], _kept(first)):
            self.base = self.backbone.run(batch, read, heard.changes)
        self.blocks = _blocks(given, [each for some in heard.outputs.values() for each in some])
        self.form = first[0]
        self.plain = pool(self.base["output"], batch, pooling)

    @property
    def more(self) -> list[str]:
        """What is read beside the streams below all layers."""
        return []

    def changed(self, layer: int, heads: list[int], by: torch.Tensor | None) -> torch.Tensor:
        """The rows' vectors [heads · rows, D], each copy with one of the heads replaced."""
        copies, found = self.above(layer, heads, by, ["output"])
        return pool(found["output"], copies, self.pooling)

    def above(
        self, layer: int, heads: list[int], by: torch.Tensor | None, read: list[str]
    ) -> tuple[RaggedBatch, Found]:
        """The copies, and these sites of theirs."""
        copies, site = self.batch.repeated(len(heads)), site_of(layer)
        if self.blocks is None:
            changes = Changes(sites={site: _one_each(heads, by)})
        else:
            changes = Changes(attended=Attended(layer, self._block_each(layer, heads, by)))
        if layer:
            stream = self.base[f"layers.{layer - 1}.output"].repeat(len(heads), 1)
            changes = replace(changes, lower=Lower(layer, self.as_given(stream)))
        return copies, self.backbone.run(copies, read, changes)

    def _block_each(self, layer: int, heads: list[int], by: torch.Tensor | None) -> torch.Tensor:
        """What the layer's attention gives [heads · N, D] in copies with one of the heads replaced."""
        assert self.blocks is not None
        z, weight = self.base[site_of(layer)], self.heads.output_weight(layer)
        copies = self.blocks[layer].repeat(len(heads), 1, 1)
        for copy, head in zip(copies, heads, strict=True):
            copy += ((0 if by is None else by[..., head, :]) - z[:, head]) @ weight[head]
        return copies.flatten(0, 1)

    def as_given(self, stream: torch.Tensor) -> Any:
        """A residual stream [N, D] in the form in which a layer gives its output."""
        whole = stream[None]
        return (whole, *self.form[1:]) if isinstance(self.form, tuple) else whole


class _Ends(_Suffixes):
    """The same of a decoder whose answer stands at the last token: in the last layer that is computed alone,
    with the keys and values of the tokens before it."""

    @property
    def more(self) -> list[str]:
        return [site_of(self.top, "key"), site_of(self.top, "value")]

    def changed(self, layer: int, heads: list[int], by: torch.Tensor | None) -> torch.Tensor:
        below, (keys, values) = f"layers.{self.top - 1}.output", self.more
        if layer < self.top:
            copies, found = self.above(layer, heads, by, [below, keys, values])
            ends, at = copies.ends()
            sites: dict[str, Change] = {}
        else:
            copies = self.batch.repeated(len(heads))
            found = {
                site: self.base[site].repeat(len(heads), *[1] * (self.base[site].dim() - 1))
                for site in (below, *self.more)
            }
            ends, at = copies.ends()
            here = by if by is None or by.dim() == 2 else by[self.batch.ends()[1]]
            sites = {site_of(layer): _one_each(heads, here)}
        before = _Before(copies, found[keys], found[values])
        lower = Lower(self.top, self.as_given(found[below][at]))
        return self.backbone.run(ends, ["output"], Changes(sites=sites, past=before, lower=lower))["output"]


class _Before:
    """The keys and values [N, key heads, width] of all tokens of a batch but the last of each row
    (`taskheads.backbone.changes.Past`)."""

    def __init__(self, batch: RaggedBatch, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.starts, self.keys, self.values = batch.starts, keys, values
        self.lengths: Sequence[int] = [length - 1 for length in batch.lengths]

    def of(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some rows, which have equally many."""
        starts = self.starts[torch.from_numpy(rows).to(self.starts.device)]
        at = starts[:, None] + torch.arange(self.lengths[rows[0]], device=starts.device)
        return self.keys[at], self.values[at]


def _kept(given: list[Any]) -> Callable:
    """Runs a module as ever, and keeps what it gives."""

    def run(forward: Callable, *args: Any, **kwargs: Any) -> Any:
        given.append(forward(*args, **kwargs))
        return given[-1]

    return run


def _blocks(given: Sequence[Any], projected: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """For each layer what its output projection gave [N, D], if its module of attention gives that and
    nothing else: then attention need not run again to have a head replaced."""
    if len(given) != len(projected):
        return None
    for block, output in zip(given, projected, strict=True):
        alone = isinstance(block, tuple) and len(block) == 2 and block[1] is None
        if not (
            alone and block[0].numel() == output.numel() and torch.equal(block[0].view_as(output), output)
        ):
            return None
    return list(projected)


def _ends_are_enough(heads: AttentionHeads, batch: RaggedBatch, pooling: Pooling) -> bool:
    backbone = heads.backbone
    decoder = backbone.causal and backbone.ragged
    return decoder and pooling == "last" and heads.n_layers > 1 and 0 not in batch.lengths


def _one_each(heads: list[int], by: torch.Tensor | None) -> Change:
    """In copy i of the rows, which follow one another, the head heads[i] is replaced."""

    def change(z: torch.Tensor) -> torch.Tensor:
        copies = z.unflatten(0, (len(heads), -1)).clone()
        for copy, head in zip(copies, heads, strict=True):
            copy[:, head] = 0 if by is None else by[..., head, :]
        return copies.flatten(0, 1)

    return change


def _portions(heads: list[int], tokens: int) -> Iterator[list[int]]:
    step = max(1, _AT_ONCE // max(1, tokens))
    for start in range(0, len(heads), step):
        yield heads[start : start + step]
