"""Gradient balancers by name, over all shared parameters or at the last shared representation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from taskheads.errors import ConfigError
from taskheads.methods import method
from taskheads.sharing.balancer import Balancer
from taskheads.sharing.conflicts import CAGrad, ConFIG, DualProj, GradVac, PCGrad, UPGrad
from taskheads.sharing.fairness import IMTLG, MGDA, AlignedMTL, FairGrad, NashMTL
from taskheads.sharing.graddrop import GradDrop
from taskheads.sharing.gradnorm import GradNorm
from taskheads.tasks.suggest import did_you_mean, listed

AT_REPRESENTATION = "_at_representation"
_EXACT: dict[str, type[Balancer]] = {
    "pcgrad": PCGrad,
    "gradvac": GradVac,
    "cagrad": CAGrad,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "config": ConFIG,
    "mgda": MGDA,
    "imtl_g": IMTLG,
    "aligned_mtl": AlignedMTL,
    "fairgrad": FairGrad,
    "nash_mtl": NashMTL,
    "graddrop": GradDrop,
    "gradnorm": GradNorm,
}
# GradDrop decides weight by weight, and so has nothing to decide at the representation.
BALANCERS = (*_EXACT, *(name + AT_REPRESENTATION for name in _EXACT if name != "graddrop"))


def balancer(name: str, n_tasks: int, **options: Any) -> Balancer:
    """The balancer of that name, one of `BALANCERS`; `options` are its own parameters.

    A name that ends in "_at_representation" decides by `representation_gradients`, which is cheaper: the
    object's `at_representation` says so. Raises ConfigError for a name or an option that does not exist, and
    where torchjd is not installed.
    """
    if name not in BALANCERS:
        choices = f"choose from {listed(_EXACT, 99)}, or one of them with {AT_REPRESENTATION!r} after it"
        raise ConfigError(
            f"there is no gradient balancing {name!r}{did_you_mean(name, BALANCERS)}: {choices}"
        )
    try:
        made = _EXACT[name.removesuffix(AT_REPRESENTATION)](n_tasks, **options)
    except TypeError as error:
        raise ConfigError(f"gradient balancing {name!r} has no such option: {error}") from error
    made.at_representation = name.endswith(AT_REPRESENTATION)
    return made


@method("balancing_at_representation", family="sharing", paper="arXiv:1810.04650")
def representation_gradients(
    losses: Sequence[torch.Tensor], representation: torch.Tensor, sizes: Sequence[int]
) -> torch.Tensor:
    """Gradients of the tasks' losses at the last shared representation, in place of those of all parameters.

    `representation` [N, width] is what the heads have read: sorted by task, task t has its next `sizes[t]`
    rows. Its gradient there is that of an offset added to all its vectors: the sum over its rows, [T, width].
    A balancer's weights for the Gramian of these rows are the factors of the losses in one ordinary backward
    pass (after Sener and Koltun 2018, section 3.3, MGDA-UB, who keep each row's gradient apart). The graph
    is kept for that pass.
    """
    (found,) = torch.autograd.grad(torch.stack([*losses]).sum(), representation, retain_graph=True)
    return torch.stack([part.sum(0) for part in found.split(list(sizes))])
