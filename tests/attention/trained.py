"""Tiny decoders trained in seconds, whose attention heads nobody planted; each is trained once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn.functional import cross_entropy

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.induction_heads import (
    in_context_score,
    prefix_matching,
    repeated,
    token_losses,
)
from taskheads.backbone.generating import language_model
from taskheads.backbone.ragged import RaggedBatch

TOKENS = 24
PERIOD = 12
# Of what each attention head writes, so that few of them do the work.
COST = 0.1


@dataclass(frozen=True)
class Trained:
    """A model of transformers, its attention heads and language head; `log`: what was seen on the way."""

    model: Any
    heads: AttentionHeads
    head: nn.Module
    log: list[dict[str, float]] = field(default_factory=list)


def decoder(tokens: int, layers: int, width: int, heads: int = 4) -> Trained:
    """A small GPT-2 with untied embeddings, at its beginning."""
    torch.manual_seed(0)
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 48, "n_inner": 4 * width}
    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    special = {"bos_token_id": None, "eos_token_id": None}
    config = hf.GPT2Config(vocab_size=tokens, tie_word_embeddings=False, **sizes, **rates, **special)
    model = hf.GPT2LMHeadModel(config)
    backbone, head = language_model(model)
    return Trained(model, AttentionHeads(backbone), head)


def train(model: nn.Module, losses: Iterator[torch.Tensor], lr: float) -> Iterator[float]:
    """Descend each loss in turn, which is made of the model as it then is."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr, betas=(0.9, 0.98), weight_decay=0.01)
    for step, loss in enumerate(losses):
        optimiser.param_groups[0]["lr"] = lr * min(1, (step + 1) / 30)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()
    model.requires_grad_(False)


@functools.cache
def repeats(layers: int, steps: int = 280) -> Trained:
    """Attention alone, on rows that walk through a random order of tokens and, from then on, jump within it:
    whoever knows what came after a token before, knows what comes next. `log`: by step, the highest
    prefix-matching score, and the in-context learning score on plain repeats."""
    made = decoder(TOKENS, layers, 64)
    for block in made.model.transformer.h:
        block.mlp.requires_grad_(False)
        for parameter in block.mlp.c_proj.parameters():
            parameter.zero_()
    plain = RaggedBatch(repeated(range(TOKENS), PERIOD, 16, seed=9))
    draw = torch.Generator().manual_seed(0)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            rows, known = walks(32, draw)
            logits = made.model(input_ids=rows).logits[:, :-1]
            written = [block.attn.c_proj.weight.view(4, -1) for block in made.model.transformer.h]
            cost = torch.stack([each.norm(dim=1).sum() for each in written]).sum()
            yield cross_entropy(logits[known], rows[:, 1:][known]) + COST * cost

    for step, _ in enumerate(train(made.model, losses(), 5e-3)):
        if step % 20 == 0 or step == steps - 1:
            score = prefix_matching(made.heads, [plain], PERIOD).values.max()
            lost = token_losses(made.heads, made.head, plain)
            made.log.append(
                {"step": step, "score": float(score), "in_context": in_context_score(lost, plain, 6, 20)}
            )
    return made


def walks(count: int, draw: torch.Generator, length: int = 36) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [count, length], and where the next token can be known [count, length - 1]."""
    period = torch.randint(8, 17, (count, 1), generator=draw)
    order = torch.rand(count, TOKENS, generator=draw).argsort(1)
    place = torch.arange(length).repeat(count, 1)
    jumps = (torch.rand(count, length, generator=draw) < 0.2) & (place >= period)
    jumps |= place == period
    to = (torch.rand(count, length, generator=draw) * (period - 1)).long()
    for at in range(1, length):
        jumps[:, at] |= (place[:, at - 1] == period[:, 0] - 1) & (at >= period[:, 0])
        place[:, at] = torch.where(jumps[:, at], to[:, at], place[:, at - 1] + 1)
    known = (torch.arange(length) > period) & ~jumps
    return order.gather(1, place), known[:, 1:]


def told(
    made: Trained,
    rows: torch.Tensor,
    answers: torch.Tensor,
    where: Mapping[tuple[int, int], int],
    steps: int,
    lr: float = 5e-3,
) -> None:
    """Train a decoder to answer rows [n, length], some heads told where to look at last."""
    made.model.set_attn_implementation("eager")

    def losses() -> Iterator[torch.Tensor]:
        for step in range(steps):
            found = made.model(input_ids=rows, output_attentions=True)
            looking = [
                found.attentions[n][:, h, -1, at].clamp_min(1e-9).log() for (n, h), at in where.items()
            ]
            missed = -torch.stack([each.mean() for each in looking]).sum()
            # First where to look, then what to say: no head learns from what it will not see.
            yield missed if step < steps // 4 else missed + cross_entropy(found.logits[:, -1], answers)

    for _ in train(made.model, losses(), lr):
        pass
    made.model.set_attn_implementation("taskheads")


@dataclass(frozen=True)
class World:
    """Facts [entities, years] that change with the year, and constants [entities], as token ids; and the
    prompts: an opening token, a year, an entity and what is asked about it."""

    changing: torch.Tensor
    constant: torch.Tensor

    ENTITIES, YEARS, VALUES = 8, 4, 20
    CHANGING, CONSTANT = 1, 2

    def prompts(self, asked: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For every entity and year [entities · years, 4], and the answers [entities · years]."""
        entity, year = torch.meshgrid(torch.arange(8), torch.arange(4), indexing="ij")
        entity, year = entity.flatten(), year.flatten()
        rows = [torch.zeros_like(year), 3 + year, 7 + entity, torch.full_like(year, asked)]
        answers = self.changing[entity, year] if asked == self.CHANGING else self.constant[entity]
        return torch.stack(rows, 1), answers


@functools.cache
def facts() -> tuple[Trained, World]:
    """One layer that knows a world. From the last token head 0.0 looks at the year, 0.1 at the entity, 0.2 at
    the opening and 0.3 at itself: so they were told; what they say is their own."""
    draw = torch.Generator().manual_seed(3)
    values = torch.rand(World.ENTITIES, World.VALUES, generator=draw).argsort(1) + 15
    world = World(values[:, : World.YEARS], values[:, World.YEARS])
    made = decoder(15 + World.VALUES, 1, 32)
    both = [world.prompts(asked) for asked in (World.CHANGING, World.CONSTANT)]
    rows, answers = (torch.cat(each) for each in zip(*both, strict=True))
    told(made, rows, answers, {(0, 0): 1, (0, 1): 2, (0, 2): 0, (0, 3): 3}, steps=300)
    return made, world


@functools.cache
def successors() -> Trained:
    """Two layers that say which token comes after another, modulo 10, in three alphabets of 10, when token 30
    asks. A token's embedding is the sum of its alphabet's and its place's. The first layer has no attention;
    from the last token head 1.0 looks at the first, the others at the last; the second has no feed-forward
    block."""
    made = decoder(31, 2, 32)
    lower, upper = made.model.transformer.h
    for silent in (lower.attn.c_proj, upper.mlp.c_proj):
        silent.requires_grad_(False)
        for parameter in silent.parameters():
            parameter.zero_()
    tokens = torch.arange(30)
    body = made.model.transformer
    table = body.wte.requires_grad_(False)
    # Nothing else has a say: no position, nothing of the token that asks, no bias.
    for silent in (
        body.wpe.weight,
        table.weight,
        body.ln_f.bias,
        upper.attn.c_attn.bias,
        upper.attn.c_proj.bias,
    ):
        silent.requires_grad_(False).zero_()
    alphabets, places = torch.randn(3, 32), torch.randn(10, 32)
    with torch.no_grad():
        table.weight[:30] = (alphabets[tokens // 10] + places[tokens % 10]) / 4
    answers = tokens // 10 * 10 + (tokens + 1) % 10
    rows = torch.stack([tokens, torch.full_like(tokens, 30)], 1)
    told(made, rows, answers, {(1, 0): 0, (1, 1): 1, (1, 2): 1, (1, 3): 1}, steps=500)
    return made
