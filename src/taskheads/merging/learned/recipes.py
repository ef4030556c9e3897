"""What can be said of the merges that learn from data; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How long and from what a merge learns.

    Parameters
    ----------
    steps, rate: of Adam. rows: of each task, a step. seed: of the rows that are drawn, and of masks.
    """

    steps: int = 100
    rate: float = 1e-2
    rows: int = 16
    seed: int = 0


@dataclass(frozen=True)
class FromStart(Recipe):
    """`start`: all coefficients at first."""

    start: float = 0.3


@dataclass(frozen=True)
class FromBase(Recipe):
    """`start`: all coefficients at first; 0 is the base."""

    start: float = 0.0


@dataclass(frozen=True)
class Masking(Recipe):
    """`scale`: the factor of the masked task vectors."""

    rate: float = 1e-1
    scale: float = 0.3


RECIPES: dict[str, type[Recipe]] = {
    "adamerging": FromStart,
    "atlas_anisotropic_task_vectors": FromBase,
    "self_positioning": Recipe,
    "concrete_subspace_merging": Masking,
}
