"""DePT on a toy model of two towers: texts that cannot say all that images show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taskheads.edits.prompts.dept import DecoupledPromptTuning
from taskheads.errors import ConfigError

pytestmark = pytest.mark.method("dept_decoupled_prompt_tuning")
SHARED, PRIVATE = 6, 4
WIDTH = SHARED + PRIVATE
BASE, NEW = 4, 3


class Towers(nn.Module):
    """A frozen text tower that reaches the shared channels alone, and a learned prompt before its texts."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("tower", torch.randn(SHARED, SHARED, generator=draw))
        directions = torch.randn(2 + NEW, SHARED, generator=draw)
        # Base classes come in pairs that texts call nearly the same.
        names = torch.cat([directions[[0, 0, 1, 1]], directions[2:]])
        self.register_buffer("names", names + 0.05 * torch.randn(names.shape, generator=draw))
        self.prompt = nn.Parameter(0.1 * torch.randn(SHARED, generator=draw))

    def texts(self, classes: slice) -> torch.Tensor:
        shared = (self.names[classes] + self.prompt) @ self.tower  # type: ignore[index]
        return torch.cat([shared, shared.new_zeros(len(shared), PRIVATE)], 1)

    def images(self, labels: torch.Tensor, seed: int) -> torch.Tensor:
        """Images of classes: what their names say, and, of the two of a pair, a private channel's sign."""
        draw = torch.Generator().manual_seed(seed)
        shared = self.names[labels] @ self.tower  # type: ignore[index]
        shared = shared + 1.5 * torch.randn(shared.shape, generator=draw)
        private = 0.3 * torch.randn(len(labels), PRIVATE, generator=draw)
        private[:, 0] += torch.where(labels < BASE, 2.0 * (labels % 2) - 1, 0.0)
        return torch.cat([shared, private], 1)


def labels_of(classes: slice, count: int = 400) -> torch.Tensor:
    return torch.arange(count) % (classes.stop - classes.start) + classes.start


BASES, NEWS = slice(0, BASE), slice(BASE, BASE + NEW)


def trained(weight: float, steps: int = 150) -> tuple[Towers, DecoupledPromptTuning]:
    torch.manual_seed(0)
    towers, dept = Towers(), DecoupledPromptTuning(WIDTH, BASE, weight=weight, scale=10.0)
    labels = labels_of(BASES, 64)
    images = towers.images(labels, 1)
    optimiser = torch.optim.Adam([*towers.parameters(), *dept.parameters()], 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        dept.loss(images, towers.texts(BASES), labels).backward()
        optimiser.step()
    return towers, dept


def test_for_new_classes_it_is_the_matching_head_alone() -> None:
    towers, dept = trained(0.7, 5)
    images = towers.images(labels_of(NEWS), 2)
    texts = towers.texts(NEWS)
    before = dept.new(images, texts)
    cosines = nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(before, (10 * cosines).softmax(-1))
    with torch.no_grad():
        for parameter in dept.parameters():
            parameter.normal_()
    assert torch.equal(dept.new(images, texts), before)
    gradients = torch.autograd.grad(before.square().sum(), [*dept.parameters()], allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_without_weight_the_prompt_is_tuned_as_by_the_tuner_alone() -> None:
    towers, dept = trained(0.7, 5)
    labels = labels_of(BASES, 64)
    images, texts = towers.images(labels, 1), towers.texts(BASES)
    alone = nn.functional.cross_entropy(dept.matching(images, texts), labels)
    (expected,) = torch.autograd.grad(alone, towers.prompt, retain_graph=True)
    dept.weight = 0.0
    (found,) = torch.autograd.grad(dept.loss(images, texts, labels), towers.prompt)
    assert torch.equal(found, expected)
    assert found.any()


@torch.no_grad()
def accuracies(weight: float) -> tuple[float, float]:
    with torch.enable_grad():
        towers, dept = trained(weight)
    base, new = labels_of(BASES), labels_of(NEWS)
    of_base = dept.base(towers.images(base, 3), towers.texts(BASES)).argmax(1)
    of_new = dept.new(towers.images(new, 4), towers.texts(NEWS)).argmax(1) + BASE
    return float((of_base == base).float().mean()), float((of_new == new).float().mean())


def test_it_learns_what_texts_cannot_say_and_new_classes_do_not_suffer() -> None:
    (plain_base, plain_new), (base, new) = accuracies(0.0), accuracies(0.7)
    assert plain_base < 0.7  # of a pair the text tower finds one by chance
    assert base > 0.9
    assert new >= plain_new


def test_a_weight_that_is_no_share() -> None:
    with pytest.raises(ConfigError, match=r"weight = 1\.5"):
        DecoupledPromptTuning(4, 2, weight=1.5)
