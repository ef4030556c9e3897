"""Compacter: bottleneck adapters whose matrices are sums of Kronecker products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from transformers.activations import ACT2FN

from taskheads.backbone.backbone import Backbone
from taskheads.edits.adapters.affine import Affine
from taskheads.edits.adapters.bottleneck import feed_forward_output
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import by_name, key, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


class KroneckerSum(nn.Module):
    """The matrix W = Σᵢ Aᵢ ⊗ (sᵢ tᵢ) [inputs, outputs] over n terms, applied as x W without being made.

    The rule A [n, n, n] belongs to many such matrices and is handed in; s [n, inputs/n, rank] and
    t [n, rank, outputs/n] are this one's own: rank · (inputs + outputs) numbers.
    """

    def __init__(self, inputs: int, outputs: int, n: int, rank: int, *, zero: bool) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(n, inputs // n, rank))
        self.right = nn.Parameter(torch.zeros(n, rank, outputs // n))
        for factor in (self.left,) if zero else (self.left, self.right):
            for term in factor.data:
                nn.init.xavier_normal_(term)

    def forward(self, rule: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x W [N, outputs] for x [N, inputs]."""
        parts = x.unflatten(-1, self.left.shape[:2])
        inner = torch.einsum("nap,ipr->nair", parts, self.left)
        mixed = torch.einsum("nair,iab->nbir", inner, rule)
        return torch.einsum("nbir,irq->nbq", mixed, self.right).flatten(-2)

    def weight(self, rule: torch.Tensor) -> torch.Tensor:
        """W itself, [inputs, outputs]."""
        products = (torch.kron(a, s @ t) for a, s, t in zip(rule, self.left, self.right, strict=True))
        return torch.stack([*products]).sum(0)


class KroneckerBottleneck(nn.Module):
    """y + f(y D + b) U + c, where D and U are sums of Kronecker products; U and c begin at zero."""

    def __init__(self, width: int, inner: int, n: int, rank: int, activation: Callable) -> None:
        super().__init__()
        self.down = KroneckerSum(width, inner, n, rank, zero=False)
        self.up = KroneckerSum(inner, width, n, rank, zero=True)
        self.inner_bias = nn.Parameter(torch.zeros(inner))
        self.bias = nn.Parameter(torch.zeros(width))
        self.activation = activation

    def forward(self, rule: torch.Tensor, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output y [N, width] of a map, with the adapter's part added."""
        inner = self.activation(self.down(rule, y) + self.inner_bias)
        return y + self.up(rule, inner) + self.bias


@method("compacter", family="edits", paper="arXiv:2106.04647")
class Compacter(Edit):
    """Compacter: bottleneck adapters whose matrices are sums of n Kronecker products, one factor of each
    shared by all adapters of the task (slow weights), the other of low rank (fast weights).

    Mahabadi et al. 2021, section 3: adapters stand as Houlsby's do, and the layers' norms learn with them.
    Trained: n³ numbers once, and rank · (width + inner) a matrix, besides biases and norms. The rule begins
    normal with variance 1/n, so that a matrix begins as large as its factors (the authors begin it smaller);
    the up projection begins at zero.

    Parameters
    ----------
    inner: width of the bottleneck. n: the number of terms, a divisor of the backbone's width and of `inner`;
        by default the largest one up to 4, the paper's.
    rank: of each term's own factor. activation: the bottleneck's nonlinearity, a name of transformers'.
    after_attention: whether adapters stand after attention too; without them it is Compacter++.
    norms: whether the layers' norms learn. layers: of these alone; all by default.
    """

    lr = 3e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        inner: int = 24,
        n: int | None = None,
        rank: int = 1,
        activation: str = "gelu",
        after_attention: bool = True,
        norms: bool = True,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if activation not in ACT2FN:
            raise ConfigError(f"compacter: there is no activation {activation!r}")
        common = math.gcd(backbone.width, inner)
        if n is None:
            n = max(divisor for divisor in (1, 2, 3, 4) if common % divisor == 0)
        if n < 1 or common % n:
            raise ConfigError(
                f"compacter: n = {n} must divide the backbone's width {backbone.width} and inner = {inner}"
            )
        self.rule = nn.Parameter(torch.randn(n, n, n) / math.sqrt(n))
        self.adapters, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for layer in chosen_layers(backbone, layers):
            maps = backbone.layout.maps[layer]
            places = [maps.attention_output] if after_attention and maps.attention_output else []
            for name in [*places, *feed_forward_output(backbone, layer)]:
                width = widths(backbone, name)[1]
                self.adapters[key(name)] = KroneckerBottleneck(width, inner, n, rank, ACT2FN[activation])
            for name in maps.norms if norms else ():
                norm = backbone.model.get_submodule(name)
                shift = getattr(norm, "bias", None) is not None
                self.norms[key(name)] = Affine(len(norm.weight), shift=shift)
        if not self.adapters:
            raise ConfigError("compacter has no place in this backbone")

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        adapters = {name: partial(each, self.rule) for name, each in by_name(self.adapters).items()}
        return Own(maps=adapters | by_name(self.norms))
