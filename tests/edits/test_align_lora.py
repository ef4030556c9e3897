"""Align-LoRA: the distances are what they are called, and the loss makes the tasks look alike to A."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.low_rank.alignment import VARIANCES, gaussian_kl, mmd
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.edits.planted import TASKS, backbone_of, batch_of, rows_of, stirred

pytestmark = pytest.mark.method("align_lora")
both = pytest.mark.parametrize("distance", [gaussian_kl, mmd])


def groups() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(23, 5), 1.5 * torch.randn(17, 5) + 0.5


@both
def test_the_distance_is_zero_for_the_same_vectors_and_symmetric(distance) -> None:
    first, second = groups()
    assert float(distance(first, first.clone())) == 0
    shuffled = first[torch.randperm(len(first))]
    assert abs(float(distance(first, shuffled))) < 1e-5
    torch.testing.assert_close(distance(first, second), distance(second, first), rtol=1e-6, atol=1e-6)
    assert distance(first, second) > 0.05


def test_the_kl_is_that_of_torch_distributions() -> None:
    first, second = (each.double() for each in groups())
    p, q = (Independent(Normal(each.mean(0), (each.var(0) + 1e-8).sqrt()), 1) for each in (first, second))
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(gaussian_kl(first, second), expected, rtol=0, atol=1e-6)


def test_the_mmd_is_its_definition() -> None:
    first, second = (each.double().numpy() for each in groups())

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(
            np.mean([sum(np.exp(-((x - y) ** 2).sum() / (2 * v)) for v in VARIANCES) for x in a for y in b])
        )

    expected = mean(first, first) + mean(second, second) - 2 * mean(first, second)
    assert float(mmd(*map(torch.from_numpy, (first, second)))) == pytest.approx(expected, abs=1e-10)


def passed(backbone: Backbone, edit, tasks=TASKS) -> torch.Tensor:
    return Edited(backbone, dict.fromkeys(tasks, edit)).run(batch_of(rows_of(tasks)))["output"]


def test_without_weight_it_is_a_plain_lora() -> None:
    backbone = backbone_of("bert")
    aligned = stirred(made("align_lora", backbone, TASKS, {"weight": 0.0, "rank": 4})).train()
    plain = stirred(made("lora", backbone, ["first"], {"rank": 4, "alpha": 64.0})).train()
    plain.load_state_dict(aligned.state_dict())
    found, expected = (passed(backbone, each) for each in (aligned, plain))
    assert torch.equal(found, expected)
    assert aligned.penalty() is None
    for output in (found, expected):
        output.square().sum().backward()
    for mine, theirs in zip(aligned.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("distance", ["kl", "mmd"])
def test_the_loss_is_the_mean_over_maps_and_pairs_and_changes_no_answer(distance: str) -> None:
    backbone = backbone_of("bert")
    options = {"rank": 4, "distance": distance, "weight": 0.3, "layers": [0]}
    edit = stirred(made("align_lora", backbone, TASKS, options))
    edit.eval()
    quiet = passed(backbone, edit)
    assert edit.penalty() is None
    edit.train()
    torch.testing.assert_close(passed(backbone, edit), quiet, rtol=1e-6, atol=1e-6)
    found = edit.penalty()
    # In layer 0 the input of all three maps is what enters it.
    entering = [
        backbone.run(batch_of({task: rows_of()[task]}), ["embeddings"])["embeddings"] for task in TASKS
    ]
    measure = {"kl": gaussian_kl, "mmd": mmd}[distance]
    pairs = [
        measure(entering[i] @ delta.down.T, entering[j] @ delta.down.T)
        for delta in by_name(edit.maps).values()
        for i, j in [(0, 1), (0, 2), (1, 2)]
    ]
    torch.testing.assert_close(found, 0.3 * torch.stack(pairs).mean(), rtol=1e-4, atol=1e-6)
    assert edit.penalty() is None  # it is used up
    passed(backbone, edit, ["first"])
    assert edit.penalty() is None  # one task is like itself


def test_the_first_layers_loss_reaches_its_a_alone() -> None:
    backbone = backbone_of("bert")
    edit = stirred(made("align_lora", backbone, TASKS, {"layers": [0]})).train()
    passed(backbone, edit)
    with frozen(backbone):
        edit.penalty().backward()
    for delta in by_name(edit.maps).values():
        assert delta.down.grad.any()
        assert delta.up.grad is None or not delta.up.grad.any()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def probed(first: torch.Tensor, second: torch.Tensor) -> float:
    """Accuracy, on the other half of the vectors, of a linear probe that tells the tasks apart."""
    x = torch.cat([torch.cat([each, torch.ones(len(each), 1)], 1) for each in (first, second)]).double()
    y = torch.cat([torch.ones(len(first)), -torch.ones(len(second))]).double()
    train, test = torch.arange(0, len(x), 2), torch.arange(1, len(x), 2)
    weights = torch.linalg.lstsq(x[train], y[train, None]).solution[:, 0]
    return float(((x[test] @ weights).sign() == y[test]).double().mean())


@pytest.mark.parametrize("distance", ["kl", "mmd"])
def test_a_probe_of_the_task_falls_towards_chance(distance: str) -> None:
    """Two tasks whose tokens lie apart along one direction, and a target that needs none of it."""
    backbone = backbone_of("bert")
    table = backbone.layout.words.weight
    torch.manual_seed(0)
    with torch.no_grad():
        table[50:] += 0.7 * torch.randn(table.shape[1])
    generator = np.random.default_rng(0)
    chosen = {
        task: [Encoded(generator.integers(low, low + 47, 8)) for _ in range(30)]
        for task, low in (("low", 3), ("high", 50))
    }
    batch = batch_of(chosen)
    target = backbone.run(batch, ["layers.0.output"])["layers.0.output"].detach().roll(1, 1)
    accuracy = {}
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        options = {"rank": 4, "layers": [0], "targets": ["query"], "weight": weight, "distance": distance}
        edit = made("align_lora", backbone, ["low", "high"], options).train()
        edited = Edited(backbone, dict.fromkeys(chosen, edit))
        optimizer = torch.optim.Adam(edit.parameters(), lr=2e-2)
        with frozen(backbone):
            for _ in range(100):
                optimizer.zero_grad()
                loss = (edited.run(batch, ["layers.0.output"])["layers.0.output"] - target).square().mean()
                penalty = edit.penalty()
                (loss if penalty is None else loss + penalty).backward()
                optimizer.step()
        (delta,) = by_name(edit.maps).values()
        seen = (backbone.run(batch, ["embeddings"])["embeddings"] @ delta.down.T).detach()
        accuracy[weight] = probed(*seen.split([240, 240]))
    assert accuracy[0.0] > 0.85
    assert accuracy[3.0] < 0.65


def test_an_unknown_distance_is_named() -> None:
    with pytest.raises(ConfigError, match="'l2'"):
        made("align_lora", backbone_of("bert"), TASKS, {"distance": "l2"})
