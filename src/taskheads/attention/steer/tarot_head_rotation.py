"""Attention heads' outputs rotated, by angles found without gradients: TaRot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taskheads.attention.asked import Asked, answered
from taskheads.attention.changing import edited
from taskheads.attention.folding import folded
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.which import AttentionHead, Which, by_layer
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("tarot_head_rotation", family="steer", paper="arXiv:2410.04277")
@dataclass(frozen=True)
class HeadRotation:
    """TaRot: the outputs of attention heads in the lower half of the layers are rotated before the output
    projection, z ← z R(θ), R made of a rotation for each pair of neighbouring numbers.

    Singh, Dutta and Chakraborty 2024, with their block-diagonal R. The angles are found by Bayesian
    optimisation, from a few labelled prompts, and nothing has a gradient.

    Attributes
    ----------
    angles: θ of each head in radians [width / 2]; zeros change nothing.
    """

    angles: Mapping[AttentionHead, torch.Tensor]

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        turns = {
            layer: torch.stack([rotation(self.angles[AttentionHead(layer, head)]) for head in some])
            for layer, some in by_layer(self.angles).items()
        }
        return edited(self.angles, lambda layer, z: torch.einsum("nhw,hwv->nhv", z, turns[layer].to(z)))

    def fold(self, heads: AttentionHeads) -> dict[str, torch.Tensor]:
        """The weights, by name, that do the same."""
        return folded(heads, {head: rotation(angles) for head, angles in self.angles.items()})

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        asked: Asked,
        *,
        which: Which | None = None,
        trials: int = 124,
        limit: float = math.pi / 6,
        seed: int = 0,
    ) -> HeadRotation:
        """The angles under which the mean measure of some rows is highest; no worse than without.

        asked: 6 to 20 labelled prompts with the probability of their answers, say. which: heads that are
        rotated; by default all of the lower half of the layers. trials: how often the rows are run, as often
        as the authors do. limit: no angle is larger; theirs are π/6 to π/3. The surrogate is a Gaussian
        process with a Matérn kernel (optuna's; theirs has that of a wide network).

        Raises ConfigError for heads of odd width, and where optuna is not installed.
        """
        if heads.width % 2:
            raise ConfigError(
                f"tarot_head_rotation: heads of width {heads.width} have a number without a pair"
            )
        lower = [head for head in heads.which() if head.layer < (heads.n_layers + 1) // 2]
        chosen = tuple(lower) if which is None else heads.which(which)
        shape = (len(chosen), heads.width // 2)

        def made(flat: Sequence[float]) -> HeadRotation:
            return cls(dict(zip(chosen, torch.tensor(flat).view(shape), strict=True)))

        names = [f"{head}:{pair}" for head in chosen for pair in range(shape[1])]

        def objective(trial: Any) -> float:
            flat = [trial.suggest_float(name, -limit, limit) for name in names]
            with torch.inference_mode():
                return float(answered(heads.backbone, asked, made(flat)).mean())

        study = _study(seed)
        study.enqueue_trial(dict.fromkeys(names, 0.0))
        study.optimize(objective, n_trials=trials)
        return made([study.best_params[name] for name in names])


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """R [2 n, 2 n] for angles [n]: numbers 2 i and 2 i + 1 of a row vector z R are those of z, turned."""
    turn = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], -1)
    return torch.block_diag(*turn.view(-1, 2, 2))


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("to find angles, install optuna: pip install 'taskheads[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.GPSampler(seed=seed))
