"""GELU in one pass over memory and, when answering, over its own input."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers.activations import ACT2FN

from taskheads.backbone.attention import current_attention

# transformers' modules of GELU, of which torch computes two forms, exact or by tanh, without the intermediate
# tensors of a formula.
_FORMS = {
    type(ACT2FN[name]): form
    for name, form in {
        "gelu": "none",
        "gelu_new": "tanh",
        "gelu_fast": "tanh",
        "gelu_accurate": "tanh",
        "gelu_pytorch_tanh": "tanh",
    }.items()
}


class Gelu(nn.Module):
    """In a pass of a backbone `torch.nn.functional.gelu`, and where nothing but the layer has seen its input,
    over that: a layer's widest tensor then takes its room in the caches once. Outside of a pass, `own`.

    approximate: "none" for the exact function, "tanh" (Hendrycks and Gimpel 2016, section 2, gives both).
    """

    def __init__(self, own: nn.Module, approximate: str) -> None:
        super().__init__()
        self.own, self.approximate = own, approximate

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        running = current_attention()
        if running is None:
            return self.own(values)
        if running.overwrites and torch.is_inference_mode_enabled():
            return torch.ops.aten.gelu_(values, approximate=self.approximate)
        return gelu(values, approximate=self.approximate)


def put_gelu(model: nn.Module) -> None:
    """Put `Gelu` in the place of each of transformers' modules that computes the same."""
    for module in list(model.modules()):
        if not isinstance(module, Gelu):
            for name, child in module.named_children():
                if (form := _FORMS.get(type(child))) is not None:
                    setattr(module, name, Gelu(child, form))
