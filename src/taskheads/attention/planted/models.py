"""GPT-2, Llama and BERT as transformers has them, with planted attention heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import transformers as hf
from torch import nn

from taskheads.attention.planted import wiring
from taskheads.attention.planted.wiring import BLOCK, LONGEST, N_BLOCKS, N_TOKENS, WIDTH, Wiring
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import language_model
from taskheads.errors import ConfigError

Architecture = Literal["gpt2", "llama", "bert"]
N_LAYERS, N_HEADS, N_KEY_HEADS = 3, 8, 4
# Where a job's head stands by default. Under grouped queries heads 2n and 2n + 1 share keys and values.
PLACES = {
    "previous": (0, 1),
    "induction": (1, 2),
    "copy": (1, 5),
    "successor": (2, 0),
    "context": (2, 3),
    "retrieval": (2, 5),
    "memory": (2, 6),
}
# What the norm of a plain token's stream is multiplied by on its way into a head.
_GAIN = WIDTH**0.5 / 3**0.5
_LOUD = 1.5


@dataclass(frozen=True)
class Planted:
    """A model with planted attention heads.

    Attributes
    ----------
    model: of transformers: GPT2LMHeadModel, LlamaForCausalLM or BertModel.
    backbone: what runs it. head: from its output [n, 256] to logits [n, 30].
    heads: by job, (layer, head).
    """

    model: Any
    backbone: Backbone
    head: nn.Module
    heads: Mapping[str, tuple[int, int]]


def plant(
    architecture: Architecture,
    jobs: Sequence[str] | Mapping[str, tuple[int, int]],
    *,
    noise: float = 0.05,
    seed: int = 0,
) -> Planted:
    """A model of 3 layers with 8 attention heads each, some of which have a job; what it answers to
    `prompts(job, ...)` comes from these alone.

    Parameters
    ----------
    jobs: of `wiring.JOBS` (previous, copy, successor, memory, induction, retrieval, context), or a mapping
        from them to (layer, head). Those that look at what came after something bring `previous` with them.
    noise: how large, beside a token's embedding, is what each other head writes, where nobody reads it. Their
        patterns are diffuse. 0: they write nothing.

    Raises ConfigError for an unknown job or architecture, a place that is not there or taken (heads of one
    group of queries share their keys), and for induction in an encoder, where tokens see what comes after.
    """
    if architecture not in get_args(Architecture):
        raise ConfigError(
            f"nothing is planted in {architecture!r}: only in {', '.join(get_args(Architecture))}"
        )
    heads = _placed(jobs, architecture)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model: Any = _MAKERS[architecture]().eval()
        for name, parameter in model.named_parameters():
            parameter.fill_(1 if _is_gain(name) else 0)
        for layer, weights in enumerate(_maps(model)):
            mine = {
                head: wiring.JOBS[job](architecture == "llama")
                for job, (of, head) in heads.items()
                if of == layer
            }
            for weight, value in zip(weights, _layer(mine, architecture, noise, draw), strict=True):
                weight.copy_(value)
        _embed(model)
        head = nn.Linear(WIDTH, N_TOKENS, bias=False) if architecture == "bert" else model.lm_head
        head.weight.copy_(_LOUD * wiring.place(wiring.ANSWER, wiring.one_hots()))
    if architecture == "bert":
        return Planted(model, Backbone(model, name="planted"), head, heads)
    return Planted(model, language_model(model)[0], head, heads)


def _placed(
    jobs: Sequence[str] | Mapping[str, tuple[int, int]], architecture: str
) -> dict[str, tuple[int, int]]:
    for job in jobs:
        if job not in wiring.JOBS:
            raise ConfigError(f"no head is planted for {job!r}: there are {', '.join(wiring.JOBS)}")
    if architecture == "bert" and "induction" in jobs:
        raise ConfigError("an encoder has no induction: its tokens see what comes after them")
    heads = dict(jobs) if isinstance(jobs, Mapping) else {job: PLACES[job] for job in jobs}
    if set(heads) & set(wiring.AFTER_PREVIOUS):
        heads.setdefault("previous", PLACES["previous"])
    size = N_HEADS // N_KEY_HEADS if architecture == "llama" else 1
    taken: dict[tuple[int, int], str] = {}
    for job, (layer, head) in heads.items():
        if not (0 <= layer < N_LAYERS and 0 <= head < N_HEADS):
            raise ConfigError(f"{job}: there is no attention head ({layer}, {head})")
        if (other := taken.setdefault((layer, head // size), job)) != job:
            raise ConfigError(f"{job}: the place of ({layer}, {head}) is taken by {other}")
        if job in wiring.AFTER_PREVIOUS and layer <= heads["previous"][0]:
            raise ConfigError(f"{job} must stand in a layer above that of previous")
    return heads


def _layer(
    mine: Mapping[int, Wiring], architecture: str, noise: float, draw: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Queries [256, heads · 32], keys and values [256, key heads · 32], output [heads · 32, 256] of a layer
    with these heads, all others random."""
    groups = N_KEY_HEADS if architecture == "llama" else N_HEADS
    group_of = torch.arange(N_HEADS) // (N_HEADS // groups)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw) / WIDTH**0.5

    query, key, value = (random(WIDTH, count, BLOCK) for count in (N_HEADS, groups, groups))
    scratch = random(N_HEADS, BLOCK, BLOCK)
    output = torch.zeros(N_HEADS, BLOCK, N_BLOCKS, BLOCK)
    output[:, :, wiring.SCRATCH] = noise * (scratch - scratch.mean(-1, keepdim=True)) * 3
    output = output.flatten(2)
    for head, wired in mine.items():
        query[:, head], key[:, group_of[head]], value[:, group_of[head]] = wired.query, wired.key, wired.value
        output[head] = wired.output
    # Where a norm comes after the sum, the stream itself is as large as what heads read.
    scale = 1 if architecture == "bert" else 1 / _GAIN
    return query.flatten(1), key.flatten(1), value.flatten(1), output.flatten(0, 1) * scale


def _embed(model: Any) -> None:
    tokens = wiring.place(wiring.TOKEN, wiring.one_hots()) + wiring.constant()
    model.get_input_embeddings().weight.copy_(tokens)
    table = {hf.GPT2LMHeadModel: "transformer.wpe", hf.BertModel: "embeddings.position_embeddings"}
    if type(model) in table:
        places = wiring.place(wiring.POSITION, wiring.positions())
        model.get_submodule(table[type(model)]).weight.copy_(places)


def _is_gain(name: str) -> bool:
    return name.endswith("weight") and any(part in name for part in ("norm.", "Norm.", "ln_"))


def _maps(model: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    """For each layer the weights of queries, keys, values and output, as views [in, out]."""
    body: Any = model.base_model
    if type(model) is hf.GPT2LMHeadModel:
        for block in body.h:
            yield *block.attn.c_attn.weight.split(WIDTH, 1), block.attn.c_proj.weight
    elif type(model) is hf.LlamaForCausalLM:
        for layer in body.layers:
            at = layer.self_attn
            yield tuple(each.weight.T for each in (at.q_proj, at.k_proj, at.v_proj, at.o_proj))
    else:
        for layer in body.encoder.layer:
            at, out = layer.attention.self, layer.attention.output.dense
            yield tuple(each.weight.T for each in (at.query, at.key, at.value, out))


def _gpt2() -> nn.Module:
    sizes: dict[str, Any] = {
        "n_embd": WIDTH,
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_positions": LONGEST,
        "n_inner": 8,
    }
    config = hf.GPT2Config(
        vocab_size=N_TOKENS,
        **sizes,
        tie_word_embeddings=False,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
        bos_token_id=wiring.OPENING,
        eos_token_id=wiring.OPENING,
    )
    return hf.GPT2LMHeadModel(config)


_COMMON: dict[str, Any] = {
    "vocab_size": N_TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "intermediate_size": 8,
    "max_position_embeddings": LONGEST,
}


def _llama() -> nn.Module:
    config = hf.LlamaConfig(
        **_COMMON,
        num_key_value_heads=N_KEY_HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": wiring.ROTARY_BASE},
        tie_word_embeddings=False,
        bos_token_id=wiring.OPENING,
        eos_token_id=None,
        pad_token_id=None,
    )
    return hf.LlamaForCausalLM(config)


def _bert() -> nn.Module:
    dropouts: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return hf.BertModel(hf.BertConfig(**_COMMON, **dropouts, pad_token_id=None), add_pooling_layer=False)


_MAKERS = {"gpt2": _gpt2, "llama": _llama, "bert": _bert}
