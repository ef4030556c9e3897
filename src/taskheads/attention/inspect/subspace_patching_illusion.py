"""Patching along a direction, and whether what it shows is the direction's own doing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from taskheads.attention.asked import last_vectors
from taskheads.attention.measures import Measure
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method

# Singular values below this share of the largest are zeros.
_RANK = 1e-5


def along(hidden: torch.Tensor, source: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """h + ((h' - h) · v) v / |v|²: what stands there [..., D], with another run's component along a direction
    [D]. A direction of zeros changes nothing."""
    size = direction.square().sum()
    if not size:
        return hidden
    return hidden + ((source - hidden) @ direction / size)[..., None] * direction


def halves(direction: torch.Tensor, downstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A direction [D] as a part that a linear map [D, out] does not see and a part that it does: v_null, in
    the map's kernel, and v_row, at right angles to that kernel."""
    left, sizes, _ = torch.linalg.svd(downstream, full_matrices=False)
    basis = left[:, sizes > _RANK * sizes.max()]
    seen = basis @ (basis.T @ direction)
    # What rounding leaves of a part that is not there would otherwise be a direction of its own.
    seen, hidden = (part * (part.norm() > _RANK * direction.norm()) for part in (seen, direction - seen))
    return hidden, seen


@dataclass(frozen=True)
class Illusion:
    """How much patching changes the measure of each row [rows]: along the whole direction, and along its
    part in the row space and its part in the null space of what comes next.

    A faithful direction keeps its effect in `row`; in an illusion neither part alone has the effect of the
    whole, which writes what `null` knows into what `row` does.
    """

    whole: torch.Tensor
    row: torch.Tensor
    null: torch.Tensor

    @property
    def kept(self) -> float:
        """The share of the effect that the row space has alone: 1 for a faithful direction, 0 for an
        illusion; NaN where patching does nothing."""
        return float(self.row.sum() / self.whole.sum())


@method("subspace_patching_illusion", family="inspect", paper="arXiv:2311.17030")
@torch.no_grad()
def subspace_patching_illusion(
    backbone: Backbone,
    batch: RaggedBatch,
    other: RaggedBatch,
    measure: Measure,
    *,
    site: str,
    direction: torch.Tensor,
    downstream: torch.Tensor,
    tokens: torch.Tensor | None = None,
) -> Illusion:
    """Patches a site along a direction with another run's values, and again along the two halves of that
    direction which the linear map behind the site does not see and does: an illusion loses its effect.

    Parameters
    ----------
    batch, other: rows, and rows of the same lengths whose values are put in.
    site: what stands before a linear map, such as "layers.3.mlp.hidden"; direction: [D] there.
    downstream: that map [D, out] (`edits.maps.weight_of(...).T`).
    tokens: bool [N], those that are patched; all by default. Rows are read at their last token.

    Makelov, Lange and Nanda 2023.
    """
    source = backbone.run(other, [site])[site]
    plain = measure(last_vectors(backbone, batch))

    def effect(part: torch.Tensor) -> torch.Tensor:
        def patch(hidden: torch.Tensor) -> torch.Tensor:
            made = along(hidden, source, part)
            return made if tokens is None else torch.where(tokens[:, None], made, hidden)

        return measure(last_vectors(backbone, batch, Changes(sites={site: patch}))) - plain

    unseen, seen = halves(direction, downstream)
    return Illusion(effect(direction), effect(seen), effect(unseen))
