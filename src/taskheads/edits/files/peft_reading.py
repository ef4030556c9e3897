"""PEFT's adapter folders, read as edits: LoRA, IA³, prompt tuning and prefix tuning.

    adapter_config.json         the method and its options
    adapter_model.safetensors   the weights, under the names that the maps have in the wrapped model

A map in such a file is called after PEFT's wrapper and the task model's ("base_model.model.bert.encoder…"),
one here after the backbone alone ("encoder…"); they are matched by the end of the name. What the names and
shapes of the weights say (targets, layers, ranks) is read there and not from the options.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, made
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.lora import Lora
from taskheads.edits.maps import by_name, widths
from taskheads.edits.prompts.tuning import Prefix, PromptTuning, kv_shape
from taskheads.edits.weights.ia3_maps import Ia3Maps, entrances
from taskheads.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Weights = dict[str, torch.Tensor]
_POOLER = re.compile(r"(^|\.)pooler\.")

# Options that change nothing when an adapter is applied, or which the weights say already.
_ABOUT = {"peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"}
_ABOUT |= {"inference_mode", "modules_to_save", "target_modules", "exclude_modules", "fan_in_fan_out"}
_INERT = {
    "LORA": {"r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"}
    | {"layers_to_transform", "layers_pattern", "lora_dropout", "megatron_core", "qalora_group_size"}
    | {"eva_config", "ensure_weight_tying"},
    "IA3": {"feedforward_modules", "init_ia3_weights"},
    "PROMPT_TUNING": {"num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"}
    | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"},
    "PREFIX_TUNING": {"num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"}
    | {"encoder_hidden_size", "prefix_projection", "init_weights"},
}
# Options of which some values are understood; other ways to begin a LoRA change the backbone's own weights.
_UNDERSTOOD: dict[str, tuple] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "num_transformer_submodules": (None, 1),
}


@dataclass(frozen=True)
class Adapter:
    """What an adapter folder holds: an edit for the backbone, and the weights `beside` it by name: those of
    the task model's own head (and of its pooler), which no edit of a backbone can be."""

    edit: Edit
    beside: Weights = field(default_factory=dict)


def read_adapter(folder: str | Path, backbone: Backbone, task: str) -> Adapter:
    """A folder that PEFT wrote, as an edit of `backbone` for `task`.

    Read: LoRA (rsLoRA, DoRA, `rank_pattern` and `alpha_pattern` included), IA³, prompt tuning, prefix tuning.
    Raises ConfigError for a folder that is not whole, an option that would change the outputs and is not
    supported (by its name and value), and weights that do not fit this backbone.
    """
    folder = Path(folder)
    config = _config(folder)
    kind = config.get("peft_type")
    if kind not in _INERT:
        raise ConfigError(f"{folder / CONFIG}: peft_type {kind!r} is not supported: {', '.join(_INERT)} are")
    for name, value in config.items():
        if name in _UNDERSTOOD:
            fine = value in _UNDERSTOOD[name]
        else:
            fine = name in _ABOUT or name in _INERT[kind] or not value
        if not fine:
            raise ConfigError(f"{folder / CONFIG}: {name} {value!r} is not supported")
    if not (folder / WEIGHTS).exists():
        raise ConfigError(f"{folder} has no {WEIGHTS}; files of other formats are not read")
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ConfigError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    file = _File(folder / WEIGHTS, config, {_unwrapped(name): each for name, each in weights.items()})
    edit = _READERS[kind](file, backbone, task)
    own = dict(backbone.model.named_parameters())
    for name in file.weights:
        place, _ = _place(name, own)
        if place and not _POOLER.search(place):
            raise ConfigError(f"{folder / CONFIG}: modules_to_save is not supported for {place!r}")
        if re.search(r"\.(lora|ia3)_", name) and not _POOLER.search(name):
            raise ConfigError(f"{folder / WEIGHTS}: {name!r} is not supported")
    return Adapter(edit, file.weights)


@dataclass
class _File:
    """One file of weights under the names of the wrapped model; a reader takes out what it understands."""

    path: Path
    config: Mapping[str, Any]
    weights: Weights

    def adapted(self, backbone: Backbone, *ends: str) -> dict[str, tuple[str, list[torch.Tensor]]]:
        """The maps of the backbone which have weights with these `ends`, each with its name in the wrapped
        model and the weights, in the order of `ends`."""
        found, wrappers = {}, set()
        for name in [each for each in self.weights if each.endswith(ends[0])]:
            module = name.removesuffix(ends[0])
            place, wrapper = _place(module, backbone.layout.modules)
            if not place:
                if _POOLER.search(module):
                    continue  # no site is above it
                raise ConfigError(f"{self.path}: {module!r} is no linear map in a layer of this backbone")
            if missing := [end for end in ends if module + end not in self.weights]:
                raise ConfigError(f"{self.path} lacks {module + missing[0]!r}")
            found[place] = module, [self.weights.pop(module + end) for end in ends]
            wrappers.add(wrapper)
        if len(wrappers) > 1:
            raise ConfigError(f"{self.path} adapts more than one model: {', '.join(sorted(wrappers))}")
        if not found:
            raise ConfigError(f"{self.path} adapts no linear map of this backbone")
        return found

    def prompt(self) -> torch.Tensor:
        if "prompt_embeddings" not in self.weights:
            raise ConfigError(f"{self.path} lacks 'prompt_embeddings'")
        return self.weights.pop("prompt_embeddings").float()

    def check(self, name: str, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
        if tuple(weight.shape) != shape:
            raise ConfigError(
                f"{self.path}: {name!r} has shape {tuple(weight.shape)}, and this backbone needs {shape}"
            )


def _read_lora(file: _File, backbone: Backbone, task: str) -> Edit:
    config = file.config
    decomposed, alpha = bool(config.get("use_dora")), config.get("lora_alpha", 8)
    adapted = file.adapted(
        backbone,
        *(".lora_A.weight", ".lora_B.weight"),
        *([".lora_magnitude_vector"] if decomposed else []),
    )
    stabilised = bool(config.get("use_rslora"))
    kind = "dora" if decomposed else "rslora" if stabilised else "lora"
    rank = max(len(down) for _, (down, *_) in adapted.values())
    edit = made(kind, backbone, [task], {"targets": [*adapted], "rank": rank, "alpha": float(alpha)})
    assert isinstance(edit, Lora)
    with torch.no_grad():
        for place, each in by_name(edit.maps).items():
            module, (down, up, *magnitude) = adapted[place]
            inputs, outputs = widths(backbone, place)
            own = len(down)
            file.check(f"{module}.lora_A.weight", down, (own, inputs))
            file.check(f"{module}.lora_B.weight", up, (outputs, own))
            if magnitude:
                file.check(f"{module}.lora_magnitude_vector", magnitude[0], (outputs,))
                each.magnitude.copy_(magnitude[0])
            delta: LowRank = each.delta if magnitude else each
            scale = _patterned(config.get("alpha_pattern"), module, alpha)
            scale /= math.sqrt(own) if stabilised else own
            # A lower rank is the highest with zeros, and another scale a multiple of B.
            for factor in (delta.down, delta.up):
                factor.zero_()
            delta.down[:own] = down
            delta.up[:own] = up.T * (scale / delta.scale)
    return edit


def _read_ia3(file: _File, backbone: Backbone, task: str) -> Edit:
    adapted = file.adapted(backbone, ".ia3_l")
    inputs = [place for place, (_, (scale,)) in adapted.items() if len(scale) == 1]
    known = entrances(backbone)
    for place in inputs:
        if place not in known:
            modules = file.config.get("feedforward_modules")
            raise ConfigError(
                f"{file.path}: feedforward_modules {modules!r} is not supported for {place!r}: its input is "
                "no site of this backbone"
            )
    options = {"outputs": [place for place in adapted if place not in inputs], "inputs": inputs}
    edit = made("ia3_maps", backbone, [task], options)
    assert isinstance(edit, Ia3Maps)
    for place, scale in {**by_name(edit.outputs), **by_name(edit.inputs)}.items():
        module, (given,) = adapted[place]
        file.check(f"{module}.ia3_l", given.flatten(), tuple(scale.shape))
        scale.data.copy_(given.flatten())
    return edit


def _read_prompt(file: _File, backbone: Backbone, task: str) -> Edit:
    prompt = file.prompt()
    edit = made("prompt_tuning", backbone, [task], {"length": len(prompt)})
    assert isinstance(edit, PromptTuning)
    file.check("prompt_embeddings", prompt, tuple(edit.prompt.shape))
    edit.prompt.data.copy_(prompt)
    return edit


def _read_prefix(file: _File, backbone: Backbone, task: str) -> Edit:
    prefix, (heads, width) = file.prompt(), kv_shape(backbone)
    file.check("prompt_embeddings", prefix, (len(prefix), 2 * backbone.n_layers * heads * width))
    edit = made("prefix", backbone, [task], {"length": len(prefix)})
    assert isinstance(edit, Prefix)
    both = prefix.view(len(prefix), backbone.n_layers, 2, heads, width).transpose(0, 1)
    edit.keys.data.copy_(both[:, :, 0])
    edit.values.data.copy_(both[:, :, 1])
    return edit


def _patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that the end of a module's name matches whole."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _unwrapped(name: str) -> str:
    return re.sub(r"^base_model\.(model\.)?", "", name)


def _place(name: str, known: Mapping[str, Any]) -> tuple[str, str]:
    """The longest end of a dotted name that is known, and what stands before it; ("", name) if none is."""
    parts = name.split(".")
    for start in range(len(parts)):
        if (end := ".".join(parts[start:])) in known:
            return end, ".".join(parts[:start])
    return "", name


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no adapter folder: it has no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / CONFIG} holds no options")
    return config


_READERS: dict[str, Callable[[_File, Backbone, str], Edit]] = {
    "LORA": _read_lora,
    "IA3": _read_ia3,
    "PROMPT_TUNING": _read_prompt,
    "PREFIX_TUNING": _read_prefix,
}
