"""One forward pass of the real model, reading sites and changing them on the way."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from taskheads.backbone.attention import Attention, attending, current_batch
from taskheads.backbone.changes import Changes, MapChange, Past
from taskheads.backbone.lower_layers import given_attention, lower_layers
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.sites import Layout, layer_of


class ImageBatch:
    """Images of one size, `pixels` [images, channels, height, width]: rows of equally many patches; `tasks`
    as in a `RaggedBatch`."""

    def __init__(self, pixels: torch.Tensor, tasks: Sequence[tuple[str, int]] = ()) -> None:
        self.pixels, self.tasks = pixels, tuple(tasks)

    def __len__(self) -> int:
        return len(self.pixels)


Batch = RaggedBatch | ImageBatch


class _Deepest(Exception):
    """Raised by the last hook that is needed, so that the layers above it are not computed."""


class Pass:
    """One forward pass: which sites are read, what is changed, and how the batch is laid out.

    Tensors at a site are handed to changes and to the reader as [N, ...], N counting the tokens of all rows
    end to end, whether the pass is ragged or padded. Passes of one model may run in several threads at once.
    """

    def __init__(self, layout: Layout, read: Sequence[str], changes: Changes, *, ragged: bool) -> None:
        layout.check(read)
        changes.check(layout, ragged=ragged)
        self.layout, self.changes, self.ragged = layout, changes, ragged
        self.wanted = frozenset(read)
        self.found: dict[str, torch.Tensor] = {}
        self.kept: torch.Tensor | None = None
        self._thread = threading.get_ident()
        self._last = max([*map(layer_of, read), *changes.watched], default=10**9)
        # Where in the last layer the pass may end: with the last thing that is wanted of it.
        last = {site.rpartition(".")[2] for site in read if layer_of(site) == self._last}
        if any(layout.modules[name] == self._last for name in changes.maps):
            last.add("output")
        before = last <= {"query", "key", "value"} and self._last not in changes.watched
        self._ends_before_attention = bool(last) and before
        self._ends_in_attention = self._last < 10**9 and not last & {"hidden", "output"}

    def run(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Every site of `read` as [N, ...], prompts left out. Hooks are gone again when this returns or
        raises."""
        changes, own, room = self.changes, None, None
        if changes.prompts is not None:
            assert isinstance(batch, RaggedBatch)
            batch, own = batch.with_room(changes.prompts.lengths)
            taken = torch.ones(len(batch.ids), dtype=torch.bool, device=own.device)
            room = taken.index_fill(0, own, False).nonzero()[:, 0]
        inputs, self.kept = _inputs(model, batch, self.ragged, changes.past)
        attention = Attention(batch if self.ragged and isinstance(batch, RaggedBatch) else None)
        attention.past = changes.past
        attention.overwrites = not changes.maps
        touched = self.wanted | set(changes.sites)
        if any(".attention." in site for site in touched) or changes.watched:
            attention.before, attention.after = self._before, self._after
            attention.scores, attention.pattern = self._scores, self._pattern
            written = (site for site in touched if site.endswith((".attention.scores", ".attention.pattern")))
            attention.written_out = frozenset(map(layer_of, written))
            attention.watched = changes.watched
        with ExitStack() as stack:
            stack.enter_context(attending(attention))
            if self.ragged:
                stack.enter_context(_ShortBias.of(self.layout.attention))
            stack.enter_context(lower_layers(self.layout.layers, changes.lower, attention))
            stack.enter_context(given_attention(self.layout.attention, changes.attended, attention))
            for handle in [*self._words(touched, room), *self._hooks(touched)]:
                stack.callback(handle.remove)
            for name, change in changes.maps.items():
                hook = self._mine(self._at_map(change))
                stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
            try:
                output = model(**inputs)
                self._visit("output", output[0])
            except _Deepest:
                pass
        return self.found if own is None else {site: each[own] for site, each in self.found.items()}

    def _words(self, touched: frozenset[str], room: torch.Tensor | None) -> Iterator[Any]:
        """Prompts into the room that was made for them, among the token embeddings."""
        if room is None and "tokens" not in touched:
            return
        assert self.layout.words is not None

        def hook(_module: nn.Module, _args: tuple, output: torch.Tensor) -> torch.Tensor:
            output = self._visit("tokens", output)
            if room is None:
                return output
            assert self.changes.prompts is not None
            vectors = self.changes.prompts.vectors.to(output.dtype)
            return self._put(output, self._flat(output).index_copy(0, room, vectors))

        yield self.layout.words.register_forward_hook(self._mine(hook))

    def _hooks(self, touched: frozenset[str]) -> Iterator[Any]:
        numbers: dict[nn.Module, list[int]] = {}
        for number, layer in enumerate(self.layout.layers):
            numbers.setdefault(layer, []).append(number)
        for layer, shared in numbers.items():
            hidden = any(f"layers.{number}.mlp.hidden" in touched for number in shared)
            output = any(f"layers.{number}.output" in touched or number == self._last for number in shared)
            entrance = 0 in shared and "embeddings" in touched
            if not (hidden or output or entrance):
                continue
            # A module which stands for several layers is told apart by how often it was called.
            at = _Counter(shared)
            yield layer.register_forward_pre_hook(self._mine(at.next), with_kwargs=True)
            if entrance:
                yield layer.register_forward_pre_hook(self._mine(self._at_input(at)), with_kwargs=True)
            projection = self.layout.projections[shared[0]]
            if hidden and projection is not None:
                yield projection.register_forward_pre_hook(self._mine(self._at_hidden(at)))
            if output:
                yield layer.register_forward_hook(self._mine(self._at_output(at)))

    def _mine(self, hook: Callable) -> Callable:
        """The hook, blind to passes which other threads run through the same modules."""
        return lambda *args: hook(*args) if threading.get_ident() == self._thread else None

    def _at_input(self, at: _Counter) -> Callable:
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if at.layer != 0:
                return None
            if args:
                return (self._visit("embeddings", args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": self._visit("embeddings", kwargs["hidden_states"])}

        return hook

    def _at_hidden(self, at: _Counter) -> Callable:
        return lambda _module, args: (self._visit(f"layers.{at.layer}.mlp.hidden", args[0]), *args[1:])

    def _at_output(self, at: _Counter) -> Callable:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            site = f"layers.{at.layer}.output"
            if isinstance(output, tuple):
                output = (self._visit(site, output[0]), *output[1:])
            else:
                output = self._visit(site, output)
            if at.layer == self._last:
                raise _Deepest
            return output

        return hook

    def _at_map(self, change: MapChange) -> Callable:
        def hook(_module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            return self._put(output, change(self._flat(args[0]), self._flat(output)))

        return hook

    def _before(self, layer: int, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        names = (f"layers.{layer}.attention.{part}" for part in ("query", "key", "value"))
        found = tuple(
            self._visit(name, part.transpose(1, 2)).transpose(1, 2)
            for name, part in zip(names, parts, strict=True)
        )
        if layer == self._last and self._ends_before_attention:
            raise _Deepest
        return found

    def _scores(self, layer: int, scores: torch.Tensor) -> torch.Tensor:
        return self._visit(f"layers.{layer}.attention.scores", scores)

    def _pattern(self, layer: int, weights: torch.Tensor) -> torch.Tensor:
        return self._visit(f"layers.{layer}.attention.pattern", weights)

    def _after(self, layer: int, output: torch.Tensor) -> torch.Tensor:
        output = self._visit(f"layers.{layer}.attention.heads", output)
        if layer == self._last and self._ends_in_attention:
            raise _Deepest
        return output

    def _visit(self, site: str, tensor: torch.Tensor) -> torch.Tensor:
        """Apply the change of `site` to [batch, tokens, ...] and keep what is read there."""
        change = self.changes.sites.get(site)
        if change is None and site not in self.wanted:
            return tensor
        flat = self._flat(tensor)
        if change is not None:
            flat = change(flat)
            tensor = self._put(tensor, flat)
        if site in self.wanted:
            self.found[site] = flat
        return tensor

    def _flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tokens of all rows end to end, of [batch, tokens, ...]."""
        return tensor.flatten(0, 1) if self.kept is None else tensor[self.kept]

    def _put(self, tensor: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """`tensor` with these tokens in place of its own."""
        if self.kept is None:
            return flat.view_as(tensor)
        return tensor.clone().index_put((self.kept,), flat)


class _Counter:
    """Which of the layers that share a module is running."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._rest = iter(layers)
        self.layer = -1

    def next(self, _module: nn.Module, _args: tuple, _kwargs: dict) -> None:
        self.layer = next(self._rest)


def _inputs(
    model: Any, batch: Batch, ragged: bool, past: Past | None
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """The model's arguments for a batch, and which of the padded positions are tokens (None: all are)."""
    if isinstance(batch, ImageBatch):
        return {"pixel_values": batch.pixels}, None
    accepted = _parameters(type(model).forward)
    inputs: dict[str, Any] = {}
    kept: torch.Tensor | None = None
    if ragged:
        inputs["input_ids"] = batch.ids[None]
        inputs["position_ids"] = batch.positions[None] + first_position(model)
        if past is not None:
            before = torch.as_tensor(past.lengths, device=batch.ids.device)
            inputs["position_ids"] = inputs["position_ids"] + before[batch.row_of_token]
        # An explicit mask of ones keeps transformers from guessing packed rows out of the positions.
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    else:
        shape = (len(batch), max(batch.lengths))
        kept = torch.zeros(shape, dtype=torch.bool, device=batch.ids.device)
        kept[batch.row_of_token, batch.positions] = True
        padding = getattr(model.config, "pad_token_id", None) or 0
        inputs["input_ids"] = batch.ids.new_full(shape, padding).masked_scatter(kept, batch.ids)
        inputs["attention_mask"] = kept.long()
    # GPT-2 accepts segments too, but adds the embedding of the token with that number: no segments for it.
    if getattr(model.config, "type_vocab_size", 0):
        segments = torch.zeros_like(batch.ids) if batch.segments is None else batch.segments
        if kept is None:
            inputs["token_type_ids"] = segments[None]
        else:
            inputs["token_type_ids"] = segments.new_zeros(kept.shape).masked_scatter(kept, segments)
    inputs["use_cache"] = False
    return {name: value for name, value in inputs.items() if name in accepted}, kept


@cache
def _parameters(forward: Callable) -> frozenset[str]:
    """The names of a forward method's parameters; reading a signature takes as long as a small layer."""
    return frozenset(inspect.signature(forward).parameters)


def first_position(model: Any) -> int:
    """The position id of a row's first token: 0, but RoBERTa and its kin count on from the padding id."""
    embeddings: Any = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


class _ShortBias:
    """T5's relative-position bias, computed for the longest row and not for all rows end to end.

    The bias depends on distances inside a row alone, so the top left corner serves every row. It stands in
    for a module's `compute_bias` while any thread runs a ragged batch, and looks up its own thread's.
    """

    _lock = threading.Lock()

    def __init__(self, whole: Callable) -> None:
        self.whole = whole
        self.users = 0

    def __call__(self, query_length: int, key_length: int, **how: Any) -> torch.Tensor:
        batch = current_batch()
        if batch is not None:
            query_length = key_length = max(batch.lengths)
        return self.whole(query_length, key_length, **how)

    @classmethod
    @contextmanager
    def of(cls, attending: Iterable[nn.Module]) -> Iterator[None]:
        biased: list[Any] = [module for module in attending if hasattr(module, "compute_bias")]
        with cls._lock:
            for module in biased:
                if not isinstance(module.compute_bias, cls):
                    module.compute_bias = cls(module.compute_bias)
                module.compute_bias.users += 1
        try:
            yield
        finally:
            with cls._lock:
                for module in biased:
                    module.compute_bias.users -= 1
                    if not module.compute_bias.users:
                        del module.compute_bias
