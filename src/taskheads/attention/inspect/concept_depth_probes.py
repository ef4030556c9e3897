"""Concept depth: the layer from which on a linear probe can tell what a text is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class ConceptDepth:
    """How well a concept is told from each depth.

    Attributes
    ----------
    accuracy, error: [depths], the mean over the folds and its standard error.
    """

    accuracy: np.ndarray
    error: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Each accuracy over the one a layer below [depths - 1]."""
        return self.accuracy[1:] / self.accuracy[:-1]

    def jump(self, rate: float = 1.1) -> int | None:
        """The first depth at which the accuracy is so many times that of the depth below; None without."""
        places = np.flatnonzero(self.rates >= rate)
        return int(places[0]) + 1 if len(places) else None

    def converging(self, within: float = 0.03) -> int:
        """The first depth after which no rate is farther from 1 than this."""
        places = np.flatnonzero(np.abs(self.rates - 1) >= within)
        return int(places[-1]) + 1 if len(places) else 0

    def share(self, depth: int) -> float:
        """A depth as a share of the deepest one: to compare models of different size by."""
        return depth / (len(self.accuracy) - 1)


@method("concept_depth_probes", family="inspect", paper="arXiv:2404.07066")
def concept_depth_probes(
    features: Sequence[torch.Tensor], labels: Sequence, *, penalty: float = 1.0, folds: int = 5, seed: int = 0
) -> ConceptDepth:
    """The accuracy, on rows held out, of an L2-penalised logistic probe of a concept at every depth, with
    the depth where it jumps and that from which on it stays.

    Parameters
    ----------
    features: for each depth [n, D], as `depths` reads them; each column is brought to mean 0 and size 1.
    labels: the concept, one for each row. penalty: the inverse of scikit-learn's C. folds: of the
        cross-validation, stratified, the same for all depths.

    Jin et al. 2024: compare the shares of depth (`ConceptDepth.share`) between concepts, models,
    noise in the input (other rows) and lowered precision (`Backbone(..., precision="int8")`). Raises
    ConfigError where the labels do not fit the rows, or a label stands in fewer rows than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, known = np.unique(np.asarray(labels), return_inverse=True)
    if any(len(each) != len(known) for each in features):
        raise ConfigError(f"{len(known)} labels for features of {len(features[0])} rows")
    counts = np.bincount(known)
    if len(names) < 2 or counts.min() < folds:
        raise ConfigError(
            f"label {names[counts.argmin()]} stands in {counts.min()} of {len(known)} rows: "
            f"a probe in {folds} folds needs two labels, each in as many rows"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = np.array([cross_val_score(probe, each.cpu().numpy(), known, cv=split) for each in features])
    return ConceptDepth(scores.mean(1), scores.std(1, ddof=1) / folds**0.5)


@torch.inference_mode()
def depths(
    backbone: Backbone, batches: Iterable[RaggedBatch], pooling: Pooling = "last"
) -> list[torch.Tensor]:
    """The rows' vectors [n, D] below the first layer and after each, in the caller's order of rows."""
    sites = ["embeddings", *(f"layers.{layer}.output" for layer in range(backbone.n_layers))]
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    rows: list[int] = []
    for batch in batches:
        rows += batch.rows
        for site, stream in backbone.run(batch, sites).items():
            found[site].append(pool(stream, batch, pooling))
    order = torch.from_numpy(np.argsort(rows))
    return [torch.cat(each)[order.to(each[0].device)] for each in found.values()]
