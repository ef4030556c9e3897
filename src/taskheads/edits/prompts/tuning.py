"""Learned vectors beside a row's own: prompts at the embeddings, prefixes as keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, KeysValues, Own
from taskheads.errors import ConfigError
from taskheads.methods import method


def first_prompt(backbone: Backbone, length: int) -> torch.Tensor:
    """The embeddings of `length` evenly spaced tokens of the vocabulary, to begin a prompt with."""
    words = backbone.layout.words
    if not isinstance(words, nn.Embedding):
        raise ConfigError("this backbone has no token embeddings for prompts to stand beside")
    table = words.weight.detach()
    at = torch.linspace(0, len(table) - 1, length + 2, device=table.device).long()[1:-1]
    return table[at].float().clone()


@method("prompt_tuning", family="edits", paper="arXiv:2104.08691")
class PromptTuning(Edit):
    """Prompt tuning: `length` learned vectors stand before each row's token embeddings.

    Lester et al. 2021, section 2. They begin as embeddings of tokens (section 3.2: better than random), so
    that this edit, unlike others, changes answers from the first. Heads read the row's own tokens alone.
    """

    lr = 3e-3

    def __init__(self, backbone: Backbone, tasks: Sequence[str], *, length: int = 8) -> None:
        super().__init__(tasks)
        self.prompt = nn.Parameter(first_prompt(backbone, length))

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(prompt=self.prompt)


@method("prefix", family="edits", paper="arXiv:2101.00190")
class Prefix(Edit):
    """Prefix tuning: in every layer, `length` learned keys and values stand before those of each row.

    Li and Liang 2021, section 4. Trained directly; the authors' reparametrisation by an MLP is a help for
    training that leaves the same keys and values. Values begin at zero and keys small, which takes a little
    attention away from the row at first and adds nothing.

    Parameters
    ----------
    length: keys and values of each layer.
    """

    lr = 1e-2

    def __init__(self, backbone: Backbone, tasks: Sequence[str], *, length: int = 8) -> None:
        super().__init__(tasks)
        shape = kv_shape(backbone)
        self.keys = nn.Parameter(0.02 * torch.randn(backbone.n_layers, length, *shape))
        self.values = nn.Parameter(torch.zeros(backbone.n_layers, length, *shape))

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        past: dict[int, KeysValues] = {
            layer: (self.keys[layer], self.values[layer]) for layer in range(len(self.keys))
        }
        return Own(past=past)


def kv_shape(backbone: Backbone) -> tuple[int, int]:
    """(key heads, head width) of the attention. Raises ConfigError where there is no site to put keys at."""
    if not backbone.layout.has_attention or not backbone.ragged:
        raise ConfigError(f"the attention of {backbone.name!r} takes no further keys and values")
    config = backbone.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, backbone.width_of("layers.0.attention.key") // heads
