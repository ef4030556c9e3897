"""The one attention function, registered with transformers under the name `taskheads`.

Outside a run it is transformers' own SDPA with its own masks, so a model that carries it is still a plain
Hugging Face model. Inside a run over a `RaggedBatch` it attends within each row: rows of equal length are
viewed as one dense block, so that there is no padding, and every mask the model defines (causal, sliding
window, ...) is honoured by evaluating the model's own mask function at positions inside the row. In training
rows of similar length are padded to make fewer blocks, in attention alone (`taskheads.backbone.groups`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import create_position_bias_mask, sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from taskheads.backbone.changes import Past
from taskheads.backbone.groups import Group
from taskheads.backbone.patterns import Block, Watcher, patterned
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import BackboneError

NAME = "taskheads"


@dataclass
class Attention:
    """What a run asks of the attention function.

    Attributes
    ----------
    batch: the ragged batch being run; None when the run is padded and transformers' SDPA does the work.
    before: called with (layer, query, key, value), each [..., attention heads, tokens, head width] as the
        model made them; returns the three to be used. None leaves them alone.
    after: called with (layer, output), the attention heads' outputs before the output projection
        [..., tokens, attention heads, head width]; returns the tensor to be used.
    past: keys and values that come before those of the rows' own tokens.
    written_out: the layers whose scores and pattern are wanted; there `scores` and `pattern` are called with
        (layer, tensor), [1 or rows, tokens, attention heads, keys] before and after softmax, and return
        the tensor to be used.
    watched: by layer, who is shown its pattern in pieces.
    overwrites: that nobody hears what linear maps make, so that it may be written over where no gradient
        needs it.
    modules: the modules that called so far; how many there are is the number of the layer that calls next.
    """

    batch: RaggedBatch | None
    before: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], tuple] | None = None
    after: Callable[[int, torch.Tensor], torch.Tensor] | None = None
    past: Past | None = None
    written_out: frozenset[int] = frozenset()
    scores: Callable[[int, torch.Tensor], torch.Tensor] | None = None
    pattern: Callable[[int, torch.Tensor], torch.Tensor] | None = None
    watched: Mapping[int, Watcher] = field(default_factory=dict)
    overwrites: bool = False
    modules: list[torch.nn.Module] = field(default_factory=list)


class _Current(threading.local):
    attention: Attention | None = None


_current = _Current()


@contextmanager
def attending(attention: Attention) -> Iterator[Attention]:
    """Make `attention` the one that this thread's forward passes answer to; restored on any exit."""
    outer = _current.attention
    _current.attention = attention
    try:
        yield attention
    finally:
        _current.attention = outer


def current_attention() -> Attention | None:
    """What the pass of a backbone that this thread is in asks for, if it is in one."""
    return _current.attention


def current_batch() -> RaggedBatch | None:
    """The ragged batch that this thread is running, if any."""
    return None if _current.attention is None else _current.attention.batch


@dataclass(frozen=True)
class RowMask:
    """The model's mask function, kept to be evaluated at positions inside a row once its length is known."""

    allowed: Callable[..., torch.Tensor]
    _dense: dict[tuple[int, int], torch.Tensor | None] = field(default_factory=dict)

    @property
    def causal(self) -> bool:
        return self.allowed is causal_mask_function

    def dense(self, length: int, device: torch.device, past: int = 0) -> torch.Tensor | None:
        """Who may look at whom, bool [length, past + length]; None when everybody may. Kept for a whole
        run."""
        if self.allowed is bidirectional_mask_function:
            return None
        if (length, past) not in self._dense:
            zero = torch.zeros((), dtype=torch.long, device=device)
            at = torch.arange(past + length, device=device)
            mask = self.allowed(zero, zero, at[past:, None], at[None, :]).expand(length, past + length)
            self._dense[length, past] = None if bool(mask.all()) else mask
        return self._dense[length, past]


def _mask(*args: Any, **kwargs: Any) -> Any:
    running = _current.attention
    if running is None or running.batch is None:
        return sdpa_mask(*args, **kwargs)
    return RowMask(kwargs.get("mask_function", causal_mask_function))


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    running = _current.attention
    if running is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    layer = len(running.modules)
    running.modules.append(module)
    if running.before is not None:
        query, key, value = running.before(layer, query, key, value)
    if running.batch is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        if layer in running.written_out or layer in running.watched:
            blocks = [_padded_block(module, query, key, value, attention_mask, scaling, **kwargs)]
            output = _looked_into(output, blocks, None, running, layer)
    else:
        output = _attend_within_rows(
            module, query, key, value, attention_mask, running, layer, scaling, dropout, **kwargs
        )
    if running.after is not None:
        output = running.after(layer, output)
    return output, None


def _attend_within_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | RowMask | None,
    running: Attention,
    layer: int,
    scaling: float | None,
    dropout: float,
    *,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    **ignored: Any,
) -> torch.Tensor:
    """Attention of every token to the tokens of its own row: [1, H, N, d] three times → [1, N, H, d]."""
    batch, past = running.batch, running.past
    assert batch is not None
    if softcap is not None:
        raise BackboneError("attention with a logit soft cap has no ragged form")
    if isinstance(mask, torch.Tensor):
        raise BackboneError(f"{type(module).__name__} builds a mask of its own over all rows")
    if mask is not None:
        is_causal = mask.causal
    elif is_causal is None:
        is_causal = bool(getattr(module, "is_causal", False))
    if past is not None and (position_bias is not None or (mask is None and is_causal)):
        raise BackboneError(f"{type(module).__name__} cannot attend to what comes before a row")
    looked_into = layer in running.written_out or layer in running.watched
    # In training, where each group is run backwards, too, a few more places are cheaper than many groups.
    padded = module.training and past is None and not looked_into
    arranged = batch.padded if padded else batch.arranged(None if past is None else past.lengths)
    # [1, H, N, d] → [N, H, d], so that the rows of a group are one slice, and a slice is one dense block.
    split = (arranged.split(each[0].transpose(0, 1)) for each in (query, key, value))
    blocks = []
    for group, queries, keys, values in zip(arranged.groups, *split, strict=True):
        # Those after a row's own tokens are seen by none of them where nobody sees what comes after.
        causal = is_causal and not group.past
        bias = None if causal else _allowed(mask, group, query.device)
        if position_bias is not None:
            bias = _with_bias(position_bias[:, :, : group.length, : group.length], bias, causal)
        keys, values = _block(keys, group), _block(values, group)
        if group.past:
            assert past is not None
            before = (each.transpose(1, 2).to(keys.dtype) for each in past.of(layer, group.rows))
            keys, values = (torch.cat([old, new], 2) for old, new in zip(before, (keys, values), strict=True))
        blocks.append(Block(_block(queries, group), keys, values, bias, causal, scaling, group))
    outputs = [block.attend(dropout).transpose(1, 2).flatten(0, 1) for block in blocks]
    output = arranged.taken(outputs)
    return _looked_into(output.unsqueeze(0), blocks, arranged.order, running, layer)


def _allowed(mask: RowMask | None, group: Group, device: torch.device) -> torch.Tensor | None:
    """Who of a group may look at whom, bool, [past + length] keys last; None when everybody may."""
    allowed = None if mask is None else mask.dense(group.length, device, group.past)
    if group.filled is None:
        return allowed
    to_filled = group.filled[:, None, None, :]
    if allowed is None:
        return to_filled
    # What stands in padding is not used, and has to look at something to remain a number.
    return torch.where(group.filled[:, None, :, None], allowed & to_filled, to_filled)


def _looked_into(
    output: torch.Tensor, blocks: Sequence[Block], order: torch.Tensor | None, running: Attention, layer: int
) -> torch.Tensor:
    """The output [1, N, H, d], its layer's pattern shown to who watches it and changed by who changes it."""
    if layer in running.written_out:
        assert running.scores is not None
        assert running.pattern is not None
        at_scores, at_pattern = partial(running.scores, layer), partial(running.pattern, layer)
        output = patterned(output, blocks, order, at_scores, at_pattern)
    if (watcher := running.watched.get(layer)) is not None:
        for block in blocks:
            for piece in block.pieces():
                watcher(piece)
    return output


def _padded_block(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **ignored: Any,
) -> Block:
    """All rows as transformers' SDPA takes them."""
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    is_causal = is_causal and mask is None
    if position_bias is not None:
        mask = create_position_bias_mask(position_bias, mask, is_causal, query, key)
    return Block(query, key, value, mask, is_causal, scaling)


def _block(tokens: torch.Tensor, group: Group) -> torch.Tensor:
    """A group's tokens [n, H, d] by row, [rows, H, length, d]; a view."""
    return tokens.view(group.count, group.length, *tokens.shape[1:]).transpose(1, 2)


def _with_bias(bias: torch.Tensor, allowed: torch.Tensor | None, causal: bool) -> torch.Tensor:
    if causal:
        allowed = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    return bias if allowed is None else bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
