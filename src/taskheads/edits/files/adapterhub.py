"""Bottleneck adapters as the library `adapters` saves them and AdapterHub keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.activations import ACT2FN

from taskheads.backbone.backbone import Backbone
from taskheads.edits.adapters.bottleneck import feed_forward_output
from taskheads.edits.adapters.seq_bn import ends_of_layers
from taskheads.edits.edit import Edit, made
from taskheads.edits.maps import key
from taskheads.errors import ModelError

# What a configuration has to say, or leave unsaid, to be one of those in METHODS.
STANDARD: dict[str, Any] = {
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "ln_before": False,
    "ln_after": False,
    "is_parallel": False,
    "scaling": 1.0,
    "use_gating": False,
    "inv_adapter": None,
    "invertible_adapter": None,
    "cross_adapter": False,
    "phm_layer": False,
}
# By mh_adapter, output_adapter, original_ln_before: what AdapterHub calls seq_bn, double_seq_bn, and the
# second half of the latter.
METHODS = {
    (False, True, True): "seq_bn",
    (True, True, False): "houlsby",
    (False, True, False): "pfeiffer",
}
# In files without a version "gelu" is the approximation by tanh.
OLD_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
# What the adapters of a layer are kept in, across architectures, and what they stand after. Not among them
# is ALBERT's "attention.attention_adapters": that one works on attention's residual, unlike all others.
KEPT_IN = {
    "attention.output": "attention",
    "attention_adapters": "attention",
    "output": "output",
    "output_adapters": "output",
    "output.output_adapters": "output",
}
_WEIGHT = re.compile(
    r"(?:.*\.)?(?P<layer>\d+)\.(?P<path>[a-z_]+(?:\.[a-z_]+)?)\."
    r"(?:adapters|(?:attention|layer)_text_(?:task|lang)_adapters)\..+\."
    r"adapter_(?P<part>down\.0|up)\.(?P<kind>weight|bias)"
)


def read_adapterhub(folder: str | Path, backbone: Backbone, task: str) -> Edit:
    """The adapter in a folder of `adapters` (adapter_config.json with adapter.safetensors or
    pytorch_adapter.bin) as an edit for `task`: a `seq_bn`, a `houlsby` or a `pfeiffer`.

    Read are the configurations "seq_bn" and "double_seq_bn" (Pfeiffer's and Houlsby's), with any
    nonlinearity, any reduction factor that all layers share, and `leave_out`. Dropout inside the adapter is
    not kept, and a head in the folder is not read.

    Raises ModelError for a folder that cannot be read, for another method or configuration, which it names,
    and for an adapter that does not fit the backbone.
    """
    folder = Path(folder)
    about = f"the adapter {str(folder)!r}"
    saved = _saved_config(folder, about)
    if (width := saved.get("hidden_size", backbone.width)) != backbone.width:
        raise ModelError(f"{about} is for a width of {width}; this backbone's is {backbone.width}")
    method = _method_of(saved["config"], about)
    edit = made(method, backbone, [task], _options_of(saved, backbone, about))
    state = _renamed(_weights_in(folder, about), _places_of(backbone, method), about)
    shapes = {name: tuple(tensor.shape) for name, tensor in edit.state_dict().items()}
    for name in sorted(shapes.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "nothing"
        if found != shapes.get(name, "nothing"):
            raise ModelError(
                f"{about} does not fit this backbone: {name} is {found} and should be "
                f"{shapes.get(name, 'nothing')}"
            )
    edit.load_state_dict(state)
    return edit


def _saved_config(folder: Path, about: str) -> dict[str, Any]:
    try:
        saved = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{about} cannot be read: {error}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise ModelError(f"{about} cannot be read: its adapter_config.json holds no `config`")
    return saved


def _method_of(config: Mapping[str, Any], about: str) -> str:
    if architecture := config.get("architecture"):
        raise ModelError(f"{about} is of the method {architecture!r}; bottleneck adapters are read")
    for name, standard in STANDARD.items():
        if config.get(name, standard) != standard:
            raise ModelError(
                f"{about} has {name} = {config[name]!r}, which is not read: only {standard!r} is"
            )
    asked = ("mh_adapter", "output_adapter", "original_ln_before")
    if (how := tuple(bool(config.get(name)) for name in asked)) not in METHODS:
        said = ", ".join(f"{name} = {value}" for name, value in zip(asked, how, strict=True))
        raise ModelError(f"{about} has {said}, which is neither seq_bn nor double_seq_bn")
    return METHODS[how]


def _options_of(saved: Mapping[str, Any], backbone: Backbone, about: str) -> dict[str, Any]:
    config = saved["config"]
    factor = config.get("reduction_factor")
    if not isinstance(factor, int | float) or factor <= 0:
        raise ModelError(f"{about} has reduction_factor = {factor!r}: one number for all layers is read")
    activation = str(config.get("non_linearity")).lower()
    if "version" not in saved:
        activation = OLD_ACTIVATIONS.get(activation, activation)
    activation = {"leakyrelu": "leaky_relu"}.get(activation, activation)
    if activation not in ACT2FN:
        raise ModelError(f"{about} has non_linearity = {activation!r}, which transformers does not know")
    return {
        "inner": max(1, int(backbone.width // factor)),
        "activation": activation,
        "layers": [n for n in range(backbone.n_layers) if n not in config.get("leave_out", ())],
    }


def _weights_in(folder: Path, about: str) -> dict[str, torch.Tensor]:
    safe, older = folder / "adapter.safetensors", folder / "pytorch_adapter.bin"
    try:
        return load_file(safe) if safe.exists() else _tensors_of(older)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{about} cannot be read: {str(error).splitlines()[0]}") from error


def _tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """What a file of torch's own holds, by its reader of tensors alone, which runs nothing that stands in it.

    Raises ValueError for a file that holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # that reader's errors share no base class
        raise ValueError(f"{path.name} is no file of tensors: {str(error).splitlines()[0]}") from error


def _places_of(backbone: Backbone, method: str) -> dict[tuple[int, str], str]:
    """The place of each adapter in the edit, by its layer and by what it stands after there."""
    if method == "seq_bn":
        return {(layer, "output"): place for layer, place in enumerate(ends_of_layers(backbone))}
    found = {}
    for layer, maps in enumerate(backbone.layout.maps):
        found[layer, "attention"] = maps.attention_output
        found[layer, "output"] = "".join(feed_forward_output(backbone, layer))
    return found


def _renamed(
    weights: Mapping[str, torch.Tensor], places: Mapping[tuple[int, str], str], about: str
) -> dict[str, torch.Tensor]:
    """The weights of a file by the names that they have in the edit."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        match = _WEIGHT.fullmatch(name)
        after = (int(match["layer"]), KEPT_IN.get(match["path"], "")) if match else (-1, "")
        if match is None or not (place := places.get(after)):
            raise ModelError(f"{about} has a weight {name!r}, for which there is no place in this backbone")
        own = f"adapters.{key(place)}.{match['part'].partition('.')[0]}.{match['kind']}"
        if own in state:
            raise ModelError(f"{about} has two weights for one place in this backbone, {name!r} among them")
        state[own] = tensor
    return state
