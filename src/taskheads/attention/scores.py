"""A number for every attention head, with its error and where it is from: what finding, explaining, steering
and pruning hand to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.stats import rankdata

from taskheads.attention.which import AttentionHead
from taskheads.errors import ModelError

SCHEMA = 1


@dataclass(frozen=True)
class HeadScores:
    """Scores of attention heads.

    Attributes
    ----------
    values: [layers, heads], or [tasks, layers, heads]; NaN for a head that is not there or was not looked at.
    error: the standard error of each, of the same shape; zeros where there is none to speak of.
    manifest: where they are from: what was measured, the model's fingerprint, data, seed, n. Plain JSON.
    tasks: whose scores they are, where there is a dimension for tasks.
    """

    values: torch.Tensor
    error: torch.Tensor
    manifest: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.shape != self.error.shape or self.values.dim() != 2 + bool(self.tasks):
            raise ValueError(f"scores {list(self.values.shape)}, errors {list(self.error.shape)}")

    @classmethod
    def of(cls, values: torch.Tensor, **manifest: Any) -> HeadScores:
        """Exact ones [layers, heads], without an error."""
        return cls(values, torch.zeros_like(values), manifest)

    @classmethod
    def stacked(cls, by_task: Mapping[str, HeadScores], **manifest: Any) -> HeadScores:
        """Those of several tasks as one."""
        values = torch.stack([each.values for each in by_task.values()])
        error = torch.stack([each.error for each in by_task.values()])
        of = {task: dict(each.manifest) for task, each in by_task.items()}
        return cls(values, error, {**manifest, "tasks": of}, tuple(by_task))

    def of_task(self, task: str) -> HeadScores:
        """One task's [layers, heads]."""
        at = self.tasks.index(task)
        manifest = self.manifest.get("tasks", {}).get(task, self.manifest)
        return HeadScores(self.values[at], self.error[at], manifest)

    def about(self, **manifest: Any) -> HeadScores:
        """The same with more in its manifest."""
        return replace(self, manifest={**self.manifest, **manifest})

    def top(self, count: int, *, smallest: bool = False) -> tuple[AttentionHead, ...]:
        """The heads with the highest (or lowest) scores, best first, of equal ones the lower first.

        Over tasks, by their mean."""
        values = self.values.mean(0) if self.tasks else self.values
        order = np.argsort((values if smallest else -values).flatten().double().cpu().numpy(), kind="stable")
        known = [place for place in order.tolist() if not values.flatten()[place].isnan()]
        return tuple(AttentionHead(*divmod(place, values.shape[1])) for place in known[:count])

    def above(self, threshold: float) -> tuple[AttentionHead, ...]:
        """The heads whose score is higher than this, best first."""
        values = self.values.mean(0) if self.tasks else self.values
        return self.top(int((values > threshold).sum()))

    def rank_correlation(self, other: HeadScores) -> float:
        """Spearman's, over the heads that both have."""
        both = ~(self.values.isnan() | other.values.isnan())
        ranks = [rankdata(each.values[both].double().cpu().numpy()) for each in (self, other)]
        return float(np.corrcoef(ranks)[0, 1])

    def save(self, path: str | Path) -> None:
        """Write them as one safetensors file, with the manifest as JSON in its metadata."""
        about = {"schema": SCHEMA, "tasks": list(self.tasks), "manifest": dict(self.manifest)}
        tensors = {"values": self.values.contiguous(), "error": self.error.contiguous()}
        save_file(tensors, path, {"head_scores": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Read what `save` wrote. Raises ModelError for a file that is no such thing."""
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["head_scores"])
                if about["schema"] != SCHEMA:
                    raise ModelError(f"{path}: head scores of schema {about['schema']}, not {SCHEMA}")
                values, error = file.get_tensor("values"), file.get_tensor("error")
        except (OSError, SafetensorError, KeyError, ValueError) as problem:
            raise ModelError(f"{path} holds no scores of attention heads") from problem
        return cls(values, error, about["manifest"], tuple(about["tasks"]))


class Mean:
    """Mean and standard error over rows that come batch by batch, for each head; NaN does not count."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.count = torch.zeros(*shape, dtype=torch.float64)
        self.mean = torch.zeros_like(self.count)
        self._spread = torch.zeros_like(self.count)

    def add(self, rows: torch.Tensor) -> None:
        """A number of each head for each row [rows, layers, heads]."""
        rows = rows.detach().double().cpu()
        here = (~rows.isnan()).sum(0)
        mean = rows.nanmean(0).nan_to_num()
        spread = (rows - mean).square().nansum(0)
        total = (self.count + here).clamp_min(1)
        off = mean - self.mean
        # Chan, Golub and LeVeque: two means and two spreads as one, without the cancelling of plain sums.
        self._spread += spread + off.square() * self.count * here / total
        self.mean += off * here / total
        self.count += here

    def scores(self, manifest: Mapping[str, Any] | None = None) -> HeadScores:
        """The means, and their standard errors where there are two rows at least (0 else)."""
        error = (self._spread / (self.count - 1) / self.count).clamp_min(0).sqrt()
        error = torch.where(self.count > 1, error, 0.0)
        mean = torch.where(self.count > 0, self.mean, torch.nan)
        return HeadScores(mean.float(), error.float(), {"n": int(self.count.max()), **(manifest or {})})
