"""The depth at which a concept can be read is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.inspect.concept_depth_probes import ConceptDepth, concept_depth_probes, depths
from taskheads.attention.planted import plant, prompts
from taskheads.attention.planted.wiring import LETTERS
from taskheads.errors import ConfigError

PLANTED = 3


def activations(labels: np.ndarray) -> list[torch.Tensor]:
    """Of 7 depths, the labels a linear function of them from the planted one on."""
    torch.manual_seed(0)
    direction = torch.randn(12)
    sign = torch.from_numpy(2.0 * labels - 1).float()[:, None]
    return [torch.randn(len(labels), 12) + (depth >= PLANTED) * 2 * sign * direction for depth in range(7)]


@pytest.mark.method("concept_depth_probes")
def test_the_jump_is_where_the_label_becomes_linear() -> None:
    labels = np.random.default_rng(0).random(400) < 0.5
    found = concept_depth_probes(activations(labels), labels)
    assert found.jump() == found.converging() == PLANTED
    assert found.share(PLANTED) == 0.5
    assert found.accuracy[PLANTED:].min() > 0.99
    assert np.abs(found.accuracy[:PLANTED] - 0.5).max() < 0.1


@pytest.mark.method("concept_depth_probes")
def test_shuffled_labels_stay_at_the_majority_rate() -> None:
    draw = np.random.default_rng(0)
    labels = draw.random(1200) < 0.7
    found = concept_depth_probes(activations(labels), draw.permutation(labels))
    assert np.abs(found.accuracy - labels.mean()).max() < 0.03
    assert found.jump() is None
    assert found.converging() == 0


@pytest.mark.method("concept_depth_probes")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize(("job", "depth"), [("previous", 1), ("retrieval", 3)])
def test_a_concept_is_known_above_the_head_that_fetches_it(architecture: str, job: str, depth: int) -> None:
    planted = plant(architecture, [job])  # type: ignore[arg-type]
    asked = prompts(job, 150)
    labels = asked.answers < LETTERS[5]
    batches = list(planted.backbone.batches(asked.rows, 300))
    found = concept_depth_probes(depths(planted.backbone, batches), labels, folds=3)
    assert found.jump(1.25) == depth
    assert found.accuracy[depth] > 0.95
    bare = plant(architecture, [])  # type: ignore[arg-type]
    assert concept_depth_probes(depths(bare.backbone, batches), labels, folds=3).accuracy.max() < 0.75


def test_the_summaries_of_a_curve() -> None:
    curve = ConceptDepth(np.array([0.5, 0.52, 0.6, 0.63, 0.64]), np.zeros(5))
    np.testing.assert_allclose(curve.rates, [1.04, 0.6 / 0.52, 1.05, 0.64 / 0.63])
    assert (curve.jump(), curve.jump(1.5), curve.converging(), curve.converging(0.01)) == (2, None, 3, 4)


def test_rows_come_back_in_the_callers_order() -> None:
    planted = plant("gpt2", [])
    rows = prompts("previous", 9).rows
    together = depths(planted.backbone, list(planted.backbone.batches(rows)))
    one = depths(planted.backbone, planted.backbone.batches(rows[4:5]))
    for mine, theirs in zip(together, one, strict=True):
        torch.testing.assert_close(mine[4:5], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1], "2 labels for features of 6"), ([0, 0, 0, 0, 0, 1], "label 1 stands in 1 of 6")],
)
def test_labels_that_cannot_be_probed(labels: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        concept_depth_probes([torch.zeros(6, 2)], labels)
