"""A backbone that is another one plus stored differences, which are added layer by layer while it runs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import branched, own_tensors, sharing
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.forms import Form, packed, unpacked
from taskheads.backbone.running import Batch
from taskheads.errors import ModelError


class Composed(Backbone):
    """A backbone with the weights of `trunk` plus a difference for some of them, of which there is no copy.

    However many there are on one trunk, its weights are in memory once. While a module of the model runs, its
    own weights are the sums; what was added is let go of when it is done. It answers, and does not learn.

    Parameters
    ----------
    trunk: the backbone that is shared; it stays as it is.
    forms: the differences, by the names of the trunk's parameters.

    Raises ModelError for a name that the trunk has not, and a difference of another shape.
    """

    def __init__(self, trunk: Backbone, forms: Mapping[str, Form]) -> None:
        named = dict(trunk.model.named_parameters())
        for name, form in forms.items():
            if name not in named:
                raise ModelError(f"the backbone has no weight {name!r}, of which a difference is stored")
            if form.value().shape != named[name].shape:
                raise ModelError(f"the stored difference of {name!r} has not the shape of the weight")
        self.trunk, self.forms, self._lock = trunk, dict(forms), threading.RLock()
        tokenizer = None if trunk.tokens is None else trunk.tokens.tokenizer
        super().__init__(
            sharing(trunk.model), tokenizer, name=trunk.name, limit=trunk.limit, precision=trunk.precision
        )
        form_of = {id(named[name]): form for name, form in forms.items()}
        for module in self.model.modules():
            mine = {
                key: (each, form_of[id(each)])
                for key, each in module.named_parameters(recurse=False, remove_duplicate=False)
                if id(each) in form_of
            }
            if mine:
                _composing(module, mine)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self.trunk.fingerprint.encode(), digest_size=16)
        for name, form in sorted(self.forms.items()):
            value = form.value().cpu().contiguous()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def run(
        self,
        batch: Batch,
        read: Sequence[str] = ("output",),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict[str, torch.Tensor]:
        with self._lock:  # two passes at once would take each other's weights away
            return super().run(batch, read, changes)


def _composing(module: nn.Module, weights: Mapping[str, tuple[nn.Parameter, Form]]) -> None:
    @torch.no_grad()
    def add(*_: Any) -> None:
        for key, (shared, form) in weights.items():
            value = shared + form.value().to(shared.device, shared.dtype)
            module._parameters[key] = nn.Parameter(value, requires_grad=False)

    def take_away(*_: Any) -> None:
        for key, (shared, _form) in weights.items():
            module._parameters[key] = shared

    module.register_forward_pre_hook(add)
    module.register_forward_hook(take_away, always_call=True)


def stored_branch(branch: Backbone, trunk: Backbone) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What a branch has that its trunk has not, as the tensors of a file, and what to note of them."""
    if isinstance(branch, Composed):
        tensors, kinds = packed(branch.forms)
        return tensors, {"forms": kinds}
    return own_tensors(branch, trunk), {}


def restored_branch(
    trunk: Backbone, tensors: Mapping[str, torch.Tensor], kinds: Mapping[str, str] | None
) -> Backbone:
    """A branch from `stored_branch`'s tensors, and the kinds that it noted. Masks are over the differences of
    the trunk. Raises ModelError where they do not fit together."""
    if kinds is None:
        return branched(trunk, tensors)
    if not isinstance(trunk, Composed):
        return Composed(trunk, unpacked(tensors, kinds))
    over = {name: form.value() for name, form in trunk.forms.items()}
    return Composed(trunk.trunk, unpacked(tensors, kinds, over))
