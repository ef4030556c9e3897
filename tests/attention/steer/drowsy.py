"""A planted retrieval head that half of the time looks at a row's first token, beside one that guesses."""

from __future__ import annotations

import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import Planted, plant
from taskheads.attention.planted.wiring import LETTERS
from taskheads.edits.maps import weight_of


def drowsy() -> tuple[Planted, AttentionHeads, tuple[int, int]]:
    """The model, its heads and the retrieval head.

    The guess is the last token itself, one letter louder than the other: the answer is right where retrieval
    gives the right token more than a letter's share of its weight, from 0.3 to 0.8.
    """
    planted = plant("gpt2", ["retrieval", "copy"])
    heads = AttentionHeads(planted.backbone)
    layer, head = planted.heads["retrieval"]
    with torch.no_grad():
        maps = planted.model.transformer.h[layer].attn.c_attn
        mine = slice(head * heads.width, (head + 1) * heads.width)
        weight_of(planted.backbone, f"h.{layer}.attn.c_attn")[mine] *= 0.12
        stream = planted.model.transformer.wte.weight[0]
        key = torch.nn.functional.layer_norm(stream, stream.shape) @ heads.key(layer)[0][head]
        maps.bias[mine] += 9.0 * heads.width**0.5 * key / key.square().sum()
        copies, copy = planted.heads["copy"]
        heads.output_weight(copies)[copy, list(LETTERS)] *= torch.linspace(0.3, 0.8, len(LETTERS))[:, None]
    return planted, heads, (layer, head)
