"""A backbone cut up among processes while it trains: each holds its part of every weight, of its gradient and
of what the optimiser keeps of it.

It is torch's fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277): the weights of a layer are
whole only while that layer runs, forwards or backwards, and its gradients are summed and cut up at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.workers import Workers


def check_shard(recipe: Recipe, backbone: Backbone, edited: Iterable[str], workers: Workers) -> None:
    """Raise ConfigError where the recipe asks for a backbone cut up that cannot be: in one process, for the
    tasks `edited`, which leave it as it is, and where layers share their weights."""
    if not recipe.shard:
        return
    if workers.count < 2:
        raise ConfigError(
            "training, shard = true: a backbone is cut up among several processes, and this is one; "
            "start them by torchrun --nproc-per-node 2 -m taskheads fit …"
        )
    if name := next(iter(edited), None):
        raise ConfigError(
            f"training, shard = true cuts up the backbone that learns, and task {name!r} asks for an edit, "
            "which leaves the backbone as it is: say only one of the two"
        )
    if len(set(backbone.layout.layers)) < backbone.n_layers:
        raise ConfigError(
            f"training, shard = true: the layers of {backbone.name!r} share their weights, and such layers "
            "cannot be cut up"
        )


def cut_up(backbone: Backbone, heads: Iterable[nn.Module], workers: Workers) -> Backbone:
    """The backbone with the same weights, of which each of the processes holds a part: on its own GPU where
    it has one, else in memory; the heads follow it whole. All processes must run the same passes in the same
    order.

    Until `put_together`, `backbone` is without those of its weights that learn, to leave the memory to their
    parts.
    """
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (workers.count,))
    tokenizer = None if backbone.tokens is None else backbone.tokens.tokenizer
    parts = Backbone(copy.deepcopy(backbone.model), tokenizer, name=backbone.name, limit=backbone.limit)
    parts.one_at_a_time = True
    for module in [*parts.layout.layers, parts.model]:
        cut = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # Gradients are summed and not averaged: each process has its part of every loss.
        cut.set_gradient_divide_factor(1.0)
        cut.set_force_sum_reduction_for_comms(True)
    for weight in _learning(backbone).values():
        weight.data = weight.new_empty(0)
    for head in heads:
        head.to(parts.device)
    return parts


@torch.no_grad()
def put_together(parts: Backbone, backbone: Backbone, heads: Iterable[nn.Module]) -> None:
    """Give `backbone` the weights of its `parts`, one after the other, and take the heads along."""
    learned = dict(parts.model.named_parameters())
    for name, weight in _learning(backbone).items():
        weight.data = weight.new_empty(learned[name].shape)
        weight.copy_(whole(learned[name]))
    for head in heads:
        head.to(backbone.device)


def is_cut(tensor: torch.Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return isinstance(tensor, DTensor)


def held(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of it, the very same numbers."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of it; of what is cut up on the CPU, once all processes ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, if `other`, of the same shape, is cut up."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def clip_gradients(weights: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradients down to this norm of all of them together, where it is larger; as torch's own
    `clip_grad_norm_` does, of weights of which some are cut up."""
    gradients = [each.grad for each in weights if each.grad is not None]
    norm = nn.utils.get_total_norm([each for each in gradients if not is_cut(each)])
    if parts := [held(each) for each in gradients if is_cut(each)]:
        squares = nn.utils.get_total_norm(parts).square()
        torch.distributed.all_reduce(squares)
        norm = (norm.to(squares).square() + squares).sqrt()
    torch._foreach_mul_([held(each) for each in gradients], (largest / (norm + 1e-6)).clamp(max=1.0))


def _learning(backbone: Backbone) -> Mapping[str, nn.Parameter]:
    return {name: each for name, each in backbone.model.named_parameters() if each.requires_grad}
