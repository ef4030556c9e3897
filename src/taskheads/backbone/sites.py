"""Named places in a transformer where a tensor can be read or changed, found on the model as it is.

    tokens                    what the table of token embeddings gives             [N, embedding width]
    embeddings                what enters the first layer                          [N, width]
    layers.3.attention.query  per attention head, as attention receives it         [N, heads, head width]
    layers.3.attention.key    (fewer heads under grouped-query attention)          [N, key heads, head width]
    layers.3.attention.value                                                       [N, key heads, head width]
    layers.3.attention.scores  of a token for the positions in its row, before softmax; -inf where it may
                              not look, and beyond its row                   [N, heads, longest row]
    layers.3.attention.pattern  the weights that they become                   [N, heads, longest row]
    layers.3.attention.heads  each attention head's output, before the projection  [N, heads, head width]
    layers.3.mlp.hidden       what enters the last projection of the feed-forward  [N, hidden width]
    layers.3.output           the residual stream after layer 3                    [N, width]
    output                    the last hidden state, after any final norm          [N, width]

N counts the tokens of all rows of the batch, laid end to end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn
from transformers.pytorch_utils import Conv1D

from taskheads.errors import BackboneError

ATTENTION_PARTS = ("query", "key", "value", "scores", "pattern", "heads")
_SITE = re.compile(
    r"tokens|embeddings|output|layers\.(\d+)\.(output|mlp\.hidden|attention\.(query|key|value|scores|pattern|heads))"
)


@dataclass(frozen=True)
class LayerMaps:
    """The linear maps and norms of one layer, by their names in the model, in order of execution.

    attention: those whose output attention works on (queries, keys and values, apart or fused).
    attention_output: the one that its output goes through; "" where attention is not seen.
    mlp: all that come after. norms: the norms.
    """

    attention: tuple[str, ...] = ()
    attention_output: str = ""
    mlp: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()

    @property
    def linear(self) -> tuple[str, ...]:
        """Every linear map of the layer."""
        return (*self.attention, *([self.attention_output] if self.attention_output else []), *self.mlp)


@dataclass(frozen=True)
class Layout:
    """Where the layers of one model are.

    Attributes
    ----------
    layers: the module of each layer, in order of execution; one module stands several times when the model
        shares its parameters between layers (ALBERT).
    projections: for each layer, the last linear map of its feed-forward block, or None where there is none
        (mixtures of experts keep theirs in stacked parameters).
    has_attention: whether attention goes through the registered function, so that its sites exist.
    words: the table of token embeddings; None where rows are images.
    maps: for each layer, its linear maps and norms.
    modules: the (lowest) layer of each linear map and norm in a layer, by name.
    attention: for each layer, the module that calls attention.
    """

    layers: tuple[nn.Module, ...]
    projections: tuple[nn.Module | None, ...]
    has_attention: bool
    words: nn.Module | None = None
    maps: tuple[LayerMaps, ...] = ()
    modules: Mapping[str, int] = field(default_factory=dict)
    attention: tuple[nn.Module, ...] = ()

    @cached_property
    def names(self) -> list[str]:
        """Every site of the model, from bottom to top."""
        names = ["embeddings"] if self.words is None else ["tokens", "embeddings"]
        for number, projection in enumerate(self.projections):
            if self.has_attention:
                names += [f"layers.{number}.attention.{part}" for part in ATTENTION_PARTS]
            if projection is not None:
                names.append(f"layers.{number}.mlp.hidden")
            names.append(f"layers.{number}.output")
        return [*names, "output"]

    def check(self, sites: Iterable[str]) -> None:
        """Raise `BackboneError` naming the first of `sites` which this model does not have."""
        known = set(self.names)
        for site in sites:
            if site not in known:
                deepest = len(self.layers) - 1
                raise BackboneError(
                    f"this backbone has no site {site!r}; sites are embeddings, output, "
                    f"layers.0.output to layers.{deepest}.output, and inside a layer "
                    + ", ".join(n.removeprefix("layers.0.") for n in self.names if n.startswith("layers.0."))
                )


def layer_of(site: str) -> int:
    """The layer a site stands in; -2 for `tokens`, -1 for `embeddings`, a number past every layer for
    `output`."""
    match = _SITE.fullmatch(site)
    if match is None:
        raise BackboneError(f"{site!r} is not the name of a site")
    if match[1] is not None:
        return int(match[1])
    return {"tokens": -2, "embeddings": -1}.get(site, 10**9)


def find_layout(model: nn.Module, called: Sequence[nn.Module], n_layers: int, width: int) -> Layout:
    """The layers of `model`, from the modules that one forward pass `called`, in order: linear maps, norms,
    and those modules that attend, each where it called the registered attention function.

    A layer is the outermost element of a `ModuleList` that holds an attention module. A model whose
    attention does not go through the registered function has its layers found as the `ModuleList` of
    `n_layers` elements.

    Raises BackboneError when neither shows a stack of layers.
    """
    names = {module: name for name, module in model.named_modules()}
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    attending = [module for module in called if not is_map(module)]
    if attending:
        found = [_outermost_element(model, names[module], lists) for module in attending]
        layers = [layer for layer in found if layer is not None]
    else:
        stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
        layers = list(stacks[0]) if stacks else []
    if not layers or len(layers) < len(attending):
        raise BackboneError(f"no stack of layers was found in {type(model).__name__}")
    inside = {part for module in attending for part in module.modules()}
    maps = tuple(_maps_of(layer, called, names) for layer in layers)
    place: dict[str, int] = {}
    for number, each in enumerate(maps):
        for name in (*each.linear, *each.norms):
            place.setdefault(name, number)
    return Layout(
        tuple(layers),
        tuple(_last_projection(layer, width, inside) for layer in layers),
        bool(attending),
        _words_of(model),
        maps,
        place,
        tuple(attending),
    )


def is_map(module: nn.Module) -> bool:
    """Whether a module is a linear map or a norm."""
    return _shape(module) != (0, 0) or _is_norm(module)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None


def _words_of(model: nn.Module) -> nn.Module | None:
    words = model.get_input_embeddings()  # type: ignore[operator]
    return words if isinstance(words, nn.Embedding) else None


def _maps_of(layer: nn.Module, called: Sequence[nn.Module], names: Mapping[nn.Module, str]) -> LayerMaps:
    # A layer that runs several times calls the same modules in the same order each time.
    order = list(dict.fromkeys(module for module in called if module in set(layer.modules())))
    at = next((place for place, module in enumerate(order) if not is_map(module)), None)
    linear = [(place, names[module]) for place, module in enumerate(order) if _shape(module) != (0, 0)]
    norms = tuple(names[module] for module in order if _is_norm(module))
    if at is None:
        return LayerMaps(mlp=tuple(name for _, name in linear), norms=norms)
    after = [name for place, name in linear if place > at]
    before = tuple(name for place, name in linear if place < at)
    return LayerMaps(before, after[0] if after else "", tuple(after[1:]), norms)


def _outermost_element(model: nn.Module, name: str, lists: set[str]) -> nn.Module | None:
    parts = name.split(".")
    for end in range(len(parts) - 1):
        if ".".join(parts[: end + 1]) in lists:
            return model.get_submodule(".".join(parts[: end + 2]))
    return None


def _last_projection(layer: nn.Module, width: int, inside_attention: set[nn.Module]) -> nn.Module | None:
    linear = [
        module
        for module in layer.modules()
        if module not in inside_attention and _shape(module)[1] == width and _shape(module)[0] != width
    ]
    return linear[-1] if linear else None


def _shape(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear map; (0, 0) of anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return 0, 0
