"""Edits written as the adapter folders of PEFT."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit
from taskheads.edits.files.peft_reading import CONFIG, WEIGHTS, Weights
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.dora import Decomposed
from taskheads.edits.low_rank.lora import Lora
from taskheads.edits.maps import by_name
from taskheads.edits.prompts.tuning import Prefix, PromptTuning
from taskheads.edits.weights.ia3_maps import Ia3Maps, entrances
from taskheads.edits.weights.scales import Ia3
from taskheads.errors import ConfigError

_ADAPTED = re.compile(r"base_model\.model\.(.*)\.(lora_A\.weight|ia3_l)")


def write_adapter(
    edit: Edit,
    backbone: Backbone,
    folder: str | Path,
    *,
    task_type: str = "FEATURE_EXTRACTION",
    beside: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write an edit as a folder which `PeftModel.from_pretrained(model, folder)` reads.

    Parameters
    ----------
    edit: lora, rslora, lora_plus (as LoRA), dora, ia3, ia3_maps, prompt_tuning or prefix.
    task_type: PEFT's name for what the model is that it will be put on: the bare backbone, or a task model
        ("SEQ_CLS", "CAUSAL_LM", …) that holds the backbone under transformers' usual name.
    beside: further weights, as `read_adapter` gives them for a folder of the same kind.

    Raises ConfigError for an edit that PEFT has no format for.
    """
    if edit.method not in _WRITERS:
        raise ConfigError(f"PEFT has no format for {edit.method}; it has for {', '.join(_WRITERS)}")
    inside = "" if task_type == "FEATURE_EXTRACTION" else f"{backbone.model.base_model_prefix}."
    options, weights = _WRITERS[edit.method](edit, backbone, inside)
    config = options | {"task_type": task_type, "inference_mode": True, "revision": None}
    config["base_model_name_or_path"] = backbone.name
    wrapper = "base_model." if "prompt_embeddings" in weights else "base_model.model."
    weights |= {wrapper + name: each for name, each in (beside or {}).items()}
    if adapted := [match[1] for name in weights if (match := _ADAPTED.fullmatch(name))]:
        config["target_modules"] = adapted
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: each.detach().cpu().clone().contiguous() for name, each in weights.items()}
    # The config comes last: without it there is no adapter to be read.
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))
    _replace(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=2, sort_keys=True)))


def _write_lora(edit: Edit, backbone: Backbone, inside: str) -> tuple[dict[str, Any], Weights]:
    assert isinstance(edit, Lora)
    weights: Weights = {}
    maps = by_name(edit.maps)
    for name, each in maps.items():
        delta: LowRank = each.delta if isinstance(each, Decomposed) else each
        place = f"base_model.model.{inside}{name}"
        weights[f"{place}.lora_A.weight"], weights[f"{place}.lora_B.weight"] = delta.down, delta.up.T
        if isinstance(each, Decomposed):
            weights[f"{place}.lora_magnitude_vector"] = each.magnitude
    rank, stabilised = delta.rank, edit.method == "rslora"
    alpha = delta.scale * (math.sqrt(rank) if stabilised else rank)
    options = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none"}
    options |= {"use_rslora": stabilised, "use_dora": edit.method == "dora"}
    return options | _stored(backbone, maps), weights


def _write_ia3(edit: Edit, backbone: Backbone, inside: str) -> tuple[dict[str, Any], Weights]:
    assert isinstance(edit, Ia3 | Ia3Maps)
    if isinstance(edit, Ia3Maps):
        outputs, inputs = by_name(edit.outputs), by_name(edit.inputs)
    else:
        outputs, hidden = by_name(edit.scales), by_name(edit.hidden)
        inputs = {}
        for name, sites in entrances(backbone).items():
            if any(site in hidden for site in sites):
                if len(sites) > 1:
                    raise ConfigError(f"{name} is shared by several layers, and PEFT has one scale for it")
                inputs[name] = hidden[sites[0]]
    weights = {f"base_model.model.{inside}{name}.ia3_l": each[:, None] for name, each in outputs.items()}
    weights |= {f"base_model.model.{inside}{name}.ia3_l": each[None] for name, each in inputs.items()}
    if twice := [name for name in outputs if name in inputs]:
        raise ConfigError(f"PEFT scales the output of a map or its input, and not both, as of {twice[0]}")
    options = {"peft_type": "IA3", "feedforward_modules": [inside + name for name in inputs]}
    return options | _stored(backbone, outputs | inputs), weights


def _write_prompt(edit: Edit, backbone: Backbone, inside: str) -> tuple[dict[str, Any], Weights]:
    assert isinstance(edit, PromptTuning)
    length, width = edit.prompt.shape
    options = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": length, "token_dim": width}
    return options | {"num_transformer_submodules": 1}, {"prompt_embeddings": edit.prompt}


def _write_prefix(edit: Edit, backbone: Backbone, inside: str) -> tuple[dict[str, Any], Weights]:
    assert isinstance(edit, Prefix)
    both = torch.stack([edit.keys, edit.values], 2).transpose(0, 1)  # [length, layers, 2, heads, width]
    options = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": len(both), "prefix_projection": False}
    options |= {"num_layers": both.shape[1], "num_attention_heads": both.shape[3]}
    options |= {"token_dim": both.shape[3] * both.shape[4], "encoder_hidden_size": backbone.width}
    return options | {"num_transformer_submodules": 1}, {"prompt_embeddings": both.flatten(1)}


def _stored(backbone: Backbone, names: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the model keeps its weights as [in, out]."""
    return {"fan_in_fan_out": any(isinstance(backbone.model.get_submodule(name), Conv1D) for name in names)}


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file in one step: it is there whole, or as it was."""
    begun = path.with_name(path.name + ".partial")
    try:
        write(begun)
        os.replace(begun, path)
    finally:
        begun.unlink(missing_ok=True)


_WRITERS: dict[str, Callable[[Edit, Backbone, str], tuple[dict[str, Any], Weights]]] = {
    **dict.fromkeys(("lora", "rslora", "lora_plus", "dora"), _write_lora),
    **dict.fromkeys(("ia3", "ia3_maps"), _write_ia3),
    "prompt_tuning": _write_prompt,
    "prefix": _write_prefix,
}
