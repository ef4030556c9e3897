from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from taskheads.heads.tag import TagHead, spans
from taskheads.tasks.metrics import METRICS
from taskheads.training.solver import Basis, Block, solve
from tests.heads.planted import WORDS, generator, make_task, normal

BIO = ("B-X", "I-X", "O")
# Rows are the tag before, the last the start: from B-X always to I-X, from I-X to any, from O not to I-X.
GRAMMAR = torch.tensor([[0.0, 1.0, 0.0], [0.1, 0.4, 0.5], [0.4, 0.0, 0.6], [0.5, 0.0, 0.5]])


def speech(rows: int, grammar: torch.Tensor = GRAMMAR, noise: float = 1.2, seed: int = 0):
    """(features [words, tags], tags, lengths): paths drawn from the grammar, seen through noise."""
    draw = generator(seed)
    lengths = torch.randint(1, 12, (rows,), generator=draw).tolist()
    tags = []
    for length in lengths:
        before = len(grammar) - 1
        for _ in range(length):
            before = int(torch.multinomial(grammar[before], 1, generator=draw))
            tags.append(before)
    targets = torch.tensor(tags)
    seen = torch.nn.functional.one_hot(targets, 3).float()
    return seen + noise * torch.randn(seen.shape, generator=draw), targets, lengths


def tag_head(**options) -> TagHead:
    head = TagHead(make_task("tag", BIO, **options), [WORDS], 3)
    head.put(torch.eye(3), torch.zeros(3))
    return head


def as_rows(tags: torch.Tensor, lengths: list[int]) -> list[list[str]]:
    return [[BIO[tag] for tag in row.tolist()] for row in tags.split(lengths)]


def f1(head: TagHead, features: torch.Tensor, targets: torch.Tensor, lengths: list[int]) -> float:
    with torch.no_grad():
        made = head.decide(head(features), lengths)
    return METRICS["entity_f1"].compute(as_rows(targets, lengths), made.predicted)


@pytest.mark.method("hybrid_hmm_tagging")
def test_the_transitions_are_the_lift_over_the_prior() -> None:
    head = tag_head()
    head.finish(torch.tensor([0, 1, 2, 2, 0]), [3, 2])
    follows = np.ones((4, 3))
    for before, tag in [(3, 0), (0, 1), (1, 2), (3, 2), (2, 0)]:
        follows[before, tag] += 1
    prior = np.array([3, 2, 3]) / 8
    expected = np.log(follows / follows.sum(1, keepdims=True) / prior)
    np.testing.assert_allclose(head.transitions, expected, rtol=1e-5)


@pytest.mark.method("hybrid_hmm_tagging")
def test_a_planted_grammar_improves_decoding() -> None:
    train, dev, test = speech(500), speech(200, seed=1), speech(300, seed=2)
    head = tag_head()
    before = f1(head, *test)
    with torch.no_grad():
        head.finish(*train[1:])
        head.calibrate(head(dev[0]), *dev[1:])
    assert head.transitions.any()
    assert f1(head, *test) > before + 0.05
    impossible = ("B-X", "B-X"), ("B-X", "O"), ("O", "I-X")
    found = head.decide(head(test[0]).detach(), test[2]).predicted
    steps = [step for row in found for step in itertools.pairwise(row)]
    assert not [step for step in steps if step in impossible]


def test_transitions_that_do_not_help_on_dev_are_not_trusted() -> None:
    """Dev is of another grammar: there only the word itself tells."""
    uniform = torch.full((4, 3), 1 / 3)
    dev = speech(200, uniform, noise=0.1, seed=1)
    head = tag_head()
    with torch.no_grad():
        head.finish(*speech(500)[1:])
        head.calibrate(head(dev[0]), *dev[1:])
    assert not head.transitions.any()
    assert head.decide(head(dev[0]).detach(), dev[2]).predicted == as_rows(head(dev[0]).argmax(1), dev[2])


@pytest.mark.method("linear_chain_crf")
def test_a_crf_recovers_planted_preferences() -> None:
    softened = GRAMMAR + 0.05
    features, targets, lengths = speech(3000, softened)
    head = tag_head(crf=True)
    found = solve(
        Basis([Block.of(features)]).span(torch.eye(features.shape[1])),
        lambda scores, extra: head.objective(scores, targets, extra, lengths),
        3,
        1e-3,
        curvature=head.curvature,
        extra=head.extra,
    )
    head.put(found.weight, found.bias, found.extra)
    # A constant on a column of the transitions may as well stand in the bias: what is left is compared.
    true = (softened / softened.sum(1, keepdim=True)).log()
    torch.testing.assert_close(interactions(head.transitions.detach()), interactions(true), atol=0.25, rtol=0)
    word_by_word = tag_head()
    test = speech(300, softened, seed=4)
    assert f1(head, *test) > f1(word_by_word, *test) + 0.05


def interactions(transitions: torch.Tensor) -> torch.Tensor:
    """Between tags, less the mean of every row and column."""
    between = transitions[:3]
    return between - between.mean(0) - between.mean(1, keepdim=True) + between.mean()


def test_a_crf_is_not_recounted_or_recalibrated() -> None:
    head = tag_head(crf=True)
    features, targets, lengths = speech(20)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.finish(targets, lengths)
    head.calibrate(head(features).detach(), targets, lengths)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("lengths", [[2, 0, 1], [0, 3], [3, 0]], ids=str)
def test_rows_without_words(crf: bool, lengths: list[int]) -> None:
    head = tag_head(crf=crf)
    features, targets = normal(3, 3), torch.tensor([0, 1, 2])
    with torch.no_grad():
        head.finish(targets, lengths)
        head.calibrate(head(features), targets, lengths)
        head.transitions.add_(0.1)
        made = head.decide(head(features), lengths)
    assert [len(tags) for tags in made.predicted] == lengths
    assert torch.isfinite(head.loss(head(features), targets, lengths))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", [("PER", 1, 3)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("B-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("O O", []),
    ],
)
def test_spans_are_read_as_conlleval_reads_them(tags: str, expected: list) -> None:
    words = [f"w{i}" for i in range(len(tags.split()))]
    found = spans(words, tags.split())
    assert [(span["label"], span["start"], span["end"]) for span in found] == expected
    assert [span["text"] for span in found] == [" ".join(words[a:b]) for _, a, b in expected]


def test_spans_count_as_the_metric_counts() -> None:
    """The same entities, found one by one, as those that the score is taken of."""
    draw = generator(3)
    names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    sides = [
        [[names[int(t)] for t in torch.randint(5, (int(n),), generator=draw)] for n in range(1, 40)]
        for _ in range(2)
    ]
    found = [
        [{(s["label"], s["start"], s["end"]) for s in spans([""] * len(tags), tags)} for tags in side]
        for side in sides
    ]
    right = sum(len(a & b) for a, b in zip(*found, strict=True))
    count = sum(len(entities) for side in found for entities in side)
    assert METRICS["entity_f1"].compute(*sides) == pytest.approx(2 * right / count)
