"""The sides of `attention_heads.py`: the model, the product, TransformerLens and plain hooks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "gpt2": {},
    "small": {
        "n_layer": 3,
        "n_head": 4,
        "n_embd": 64,
        "vocab_size": 500,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
PEER = "TransformerLens" if find_spec("transformer_lens") else "hooks on the plain model"


def model(size: str) -> Any:
    """GPT-2 of this size, with random weights: what is timed does not depend on them."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(hf.GPT2Config(**SIZES[size])).eval()


def tokens(plain: Any, rows: int, length: int) -> np.ndarray:
    """Random token ids [rows, length]."""
    return np.random.default_rng(0).integers(3, plain.config.vocab_size, (rows, length))


class Mine:
    """The product's side, on the very model it is given."""

    def __init__(self, plain: Any, ids: np.ndarray) -> None:
        from taskheads.attention.heads import AttentionHeads
        from taskheads.attention.measures import logit_difference
        from taskheads.backbone.generating import language_model
        from taskheads.backbone.ragged import Encoded, RaggedBatch

        self.backbone, self.head = language_model(plain)
        self.heads = AttentionHeads(self.backbone)
        self.batch = RaggedBatch([Encoded(row) for row in ids])
        self.measure = logit_difference(self.head, [5] * len(ids), [9] * len(ids))

    def forward(self) -> Any:
        """Logits of every token, as the plain model gives them."""
        return self.head(self.backbone.run(self.batch)["output"])

    def read(self) -> Any:
        """All heads' outputs and the logits of every token."""
        sites = [f"layers.{layer}.attention.heads" for layer in range(self.heads.n_layers)]
        found = self.backbone.run(self.batch, [*sites, "output"])
        return self.head(found["output"]), found

    def sweep(self, which: Any = "all") -> Any:
        """[layers, heads]: what silencing a head alone changes, the mean over rows."""
        from taskheads.attention.scanning import effects

        return effects(self.heads, self.batch, self.measure, which=which).mean(0)

    def estimated(self) -> Any:
        from taskheads.attention.estimating import attributed

        return attributed(self.heads, self.batch, self.measure).mean(0)

    def edges(self) -> Any:
        from taskheads.attention.edges import EdgeAttribution

        return EdgeAttribution(self.heads)(self.batch, self.measure).values


class Peer:
    """A pass of its own for every head, without gradients: of TransformerLens where it is installed, else of
    the plain model with a hook on the output projection. On a copy, since TransformerLens changes how the
    model attends."""

    def __init__(self, plain: Any, ids: np.ndarray, *, hooks_alone: bool = False) -> None:
        import torch

        self.ids, self.plain = torch.from_numpy(ids), copy.deepcopy(plain)
        bridged = find_spec("transformer_lens") and not hooks_alone
        self.bridge = _bridge(self.plain) if bridged else None
        self.width = plain.config.n_embd // plain.config.n_head

    def forward(self) -> Any:
        return self.plain(input_ids=self.ids).logits if self.bridge is None else self.bridge(self.ids)

    def without(self, layer: int, head: int) -> Any:
        """Logits with one head silent."""
        import torch

        with torch.inference_mode():
            return self._without(layer, head)

    def _without(self, layer: int, head: int) -> Any:
        if self.bridge is not None:

            def silence(z: Any, hook: Any) -> Any:
                z[:, :, head] = 0
                return z

            return self.bridge.run_with_hooks(self.ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])
        span = slice(head * self.width, (head + 1) * self.width)

        def hook(_module: Any, args: tuple) -> tuple:
            z = args[0].clone()
            z[..., span] = 0
            return (z, *args[1:])

        handle = self.plain.transformer.h[layer].attn.c_proj.register_forward_pre_hook(hook)
        try:
            return self.forward()
        finally:
            handle.remove()

    def effect(self, layer: int, head: int) -> float:
        """What silencing a head changes, the mean over rows."""
        import torch

        with torch.inference_mode():
            changed, plain = self.without(layer, head)[:, -1], self.forward()[:, -1]
        return float(((changed[:, 5] - changed[:, 9]) - (plain[:, 5] - plain[:, 9])).mean())


def _bridge(plain: Any) -> Any:
    import tokenizers
    import transformers as hf
    from transformer_lens.model_bridge import TransformerBridge

    # It reads a tokenizer from a folder, whether or not one is used.
    end = "<|endoftext|>"
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({end: 0}, unk_token=end))
    with tempfile.TemporaryDirectory() as folder:
        made = hf.PreTrainedTokenizerFast(tokenizer_object=words, bos_token=end, eos_token=end, pad_token=end)
        made.save_pretrained(folder)
        plain.config.architectures = ["GPT2LMHeadModel"]
        plain.config.save_pretrained(Path(folder))
        tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=plain, tokenizer=tokenizer)


def mine_statistics(plain: Any, ids: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Six statistics of the patterns of layer 0, piece by piece; and a plain pass through the same layer."""
    from taskheads.attention import statistics as of
    from taskheads.backbone.changes import Changes

    mine = Mine(plain, ids)
    wanted = {
        "previous": of.to_offset(-1),
        "first": of.to_first,
        "entropy": of.entropy,
        "distance": of.distance,
        "alike": of.to_alike,
        "class": of.to_tokens(range(0, plain.config.vocab_size, 7)),
    }

    def work() -> Any:
        found = of.statistics(mine.heads, [mine.batch], wanted, layers=[0])
        return {name: scores.values[0] for name, scores in found.items()}

    return work, lambda: mine.backbone.run(mine.batch, ["layers.0.attention.heads"], Changes())


def eager_statistics(plain: Any, ids: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same from the whole pattern, as eager attention makes it; and the same pass without them."""
    import torch

    eager = copy.deepcopy(plain.transformer)
    del eager.h[1:]
    eager.config.num_hidden_layers = 1
    eager.set_attn_implementation("eager")
    whole = copy.deepcopy(eager)
    whole.set_attn_implementation("sdpa")
    rows = torch.from_numpy(ids)

    def statistics() -> Any:
        pattern = eager(input_ids=rows, output_attentions=True).attentions[0][0]
        at = torch.arange(pattern.shape[-1])
        alike = (rows[0][:, None] == rows[0]) & (at[:, None] > at)
        return {
            "previous": pattern.diagonal(-1, 1, 2).mean(1),
            "first": pattern[:, 1:, 0].mean(1),
            "entropy": -torch.special.xlogy(pattern, pattern).sum(2).mean(1),
            "distance": (pattern * (at[:, None] - at).abs()).sum(2).mean(1),
            "alike": (pattern * alike).sum(2)[:, alike.any(1)].mean(1),
            "class": pattern[:, :, rows[0] % 7 == 0].sum(2).mean(1),
        }

    return statistics, lambda: whole(input_ids=rows)
