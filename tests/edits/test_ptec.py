"""PTEC's three properties: only labels are decoded, the order of labels means nothing, the backbone stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import generate, language_model
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.edits.edit import Edit, made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.prompts.label_trie import LabelTrie
from taskheads.edits.prompts.ptec import Ptec, text_loss
from taskheads.errors import ConfigError
from taskheads.heads.multilabel import MultilabelHead
from taskheads.tasks.labels import encode
from tests.backbone.test_generating import decoder
from tests.backbone.test_sites import rows
from tests.edits.planted import stirred
from tests.heads.planted import MEAN, make_examples, make_task

pytestmark = pytest.mark.method("ptec")
# The last is the beginning of the third.
LABELS = [[5, 9], [5, 7, 11], [30, 31], [30]]
STOP, BETWEEN = 2, 4


@pytest.fixture
def language() -> tuple[Backbone, nn.Module]:
    return language_model(decoder("llama"))


def prompted(backbone: Backbone) -> Edited:
    edit = stirred(made("ptec", backbone, ["task"], {"length": 3}), by=0.3)
    return Edited(backbone, {"task": edit}, "task")


@pytest.mark.parametrize("between", [None, BETWEEN])
def test_constrained_decoding_gives_labels_and_nothing_else(
    language: tuple[Backbone, nn.Module], between: int | None
) -> None:
    backbone, head = language
    edited, trie = prompted(backbone), LabelTrie(LABELS, stop=STOP, between=between)
    many = RaggedBatch([row for seed in range(8) for row in rows(seed)])
    answers = generate(edited, head, many, most=trie.longest, stop=[STOP], allowed=trie)
    found = [trie.labels(answer) for answer in answers]
    assert all(len(each) == len(set(each)) for each in found)
    assert all(len(each) >= 1 if between else len(each) == 1 for each in found)
    free = generate(edited, head, many, most=trie.longest, stop=[STOP])
    assert not any(valid(trie, answer) for answer in free)


def valid(trie: LabelTrie, answer: Sequence[int]) -> bool:
    try:
        trie.labels(answer)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("between", [None, BETWEEN])
def test_the_trie_allows_every_list_of_labels_and_only_those(between: int | None) -> None:
    trie = LabelTrie(LABELS, stop=STOP, between=between)
    reached: set[tuple[int, ...]] = set()
    begun: list[tuple[int, ...]] = [()]
    while begun:
        so_far = begun.pop()
        for token in trie(0, so_far):
            if token == STOP:
                assert so_far not in reached
                reached.add(so_far)
            else:
                begun.append((*so_far, token))
    most = len(LABELS) if between else 1
    expected = {
        tuple(token for place, label in enumerate(chosen) for token in ([between] if place else []) + label)
        for count in range(1, most + 1)
        for chosen in itertools.permutations(LABELS, count)
    }
    assert reached == expected
    assert max(map(len, reached)) + 1 == trie.longest


@pytest.mark.parametrize(
    ("labels", "said"),
    [([[5], []], "label 1 has no tokens"), ([[5], [6, 2]], "one that ends"), ([[5], [5]], "the same tokens")],
)
def test_labels_that_cannot_be_told_apart(labels: list[list[int]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LabelTrie(labels, stop=STOP, between=BETWEEN)


def test_the_order_of_the_labels_means_nothing_to_it_and_something_to_text(
    language: tuple[Backbone, nn.Module],
) -> None:
    backbone, head = language
    edited, batch = prompted(backbone), RaggedBatch(rows())
    prompt = next(iter(edited.edits["task"].parameters()))
    task = make_task("multilabel", ["a", "b", "c", "d"])
    linear = MultilabelHead(task, [MEAN], backbone.width)
    for parameter in linear.parameters():
        nn.init.normal_(parameter)
    gold = [["a", "c"], ["b"], ["d", "a", "b"], ["c", "d"], ["c", "a"]]
    losses, gradients = [], []
    for targets in (gold, [each[::-1] for each in gold]):
        encoded = torch.from_numpy(np.asarray(encode(task, make_examples([""] * 5, targets=targets))))
        loss = linear.loss(linear(pool(edited.run(batch)["output"], batch, "last")), encoded)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, [prompt, *linear.parameters()]))
    assert torch.equal(*losses)
    assert all(torch.equal(one, other) and one.any() for one, other in zip(*gradients, strict=True))

    numbers = [["abcd".index(label) for label in each] for each in gold]
    losses, gradients = [], []
    for targets in (numbers, [each[::-1] for each in numbers]):
        answers = [[token for number in each for token in [*LABELS[number], BETWEEN]] for each in targets]
        loss = text_loss(edited, head, [row.ids for row in rows()], answers)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, prompt))
    assert (losses[0] - losses[1]).abs() > 1e-3
    assert (gradients[0][0] - gradients[1][0]).abs().max() > 1e-4


def test_the_text_loss_is_the_language_models_own(language: tuple[Backbone, nn.Module]) -> None:
    backbone, head = language
    model = decoder("llama")
    answers = [[7, 8, 9], [10], [11, 12], [13], [14, 15]]
    total = 0.0
    for row, answer in zip(rows(), answers, strict=True):
        ids = torch.tensor([[*row.ids.tolist(), *answer]])
        labels = torch.full_like(ids, -100)
        labels[0, len(row) :] = torch.tensor(answer)
        total += model(input_ids=ids, labels=labels).loss.item() * len(answer)
    found = text_loss(backbone, head, [row.ids for row in rows()], answers)
    assert found.item() == pytest.approx(total / 9, rel=1e-5)


def test_prompt_and_head_learn_and_the_backbone_stays(language: tuple[Backbone, nn.Module]) -> None:
    backbone, _ = language
    edit: Edit = made("ptec", backbone, ["task"], {"length": 3})
    edited = Edited(backbone, {"task": edit}, "task")
    batch = RaggedBatch([row for seed in range(6) for row in rows(seed)])
    linear = nn.Linear(backbone.width, 2)
    # Labels that the texts do not have in common: the first token is even, the row is long.
    firsts = batch.ids[batch.starts]
    targets = torch.stack([firsts % 2 == 0, batch.counts > 4], 1).float()
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    first = next(iter(edit.parameters())).detach().clone()
    optimiser = torch.optim.AdamW(
        [{"params": edit.parameters(), "lr": edit.lr}, {"params": linear.parameters(), "lr": 3e-3}]
    )
    losses = []
    with frozen(backbone):
        for _ in range(60):
            scores = linear(pool(edited.run(batch)["output"], batch, "last"))
            loss = nn.functional.binary_cross_entropy_with_logits(scores, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    after = backbone.model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert not torch.equal(next(iter(edit.parameters())), first)
    assert losses[-1] < 0.5 * losses[0]
    assert isinstance(edit, Ptec)
