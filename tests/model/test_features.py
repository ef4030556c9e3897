"""Each text goes through the backbone once, and what tasks have in common is computed once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read
from taskheads.heads import head_for
from taskheads.model import features as module
from taskheads.model.features import FrozenFeatures, Gathered
from taskheads.tasks.task import Task
from taskheads.training.basis import basis_of
from taskheads.training.candidates import WIDEST, WIDEST_EMBEDDING, candidates, candidates_for
from taskheads.training.solver import Basis, Block
from tests.heads.planted import MEAN, WORDS, make_examples, make_task, normal
from tests.training.planted import Table, split_data

WIDTH = 4
TEXTS = [f"text {i}" for i in range(12)]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, lambda site, text: normal(WIDTH, seed=sum(map(ord, site + text))))


def head_of(task: Task, *reads: Read):
    return head_for(task)(task, reads or [MEAN], WIDTH)


def test_equal_texts_of_any_task_and_column_are_computed_once(table: Table) -> None:
    one = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    two = split_data(make_task("regress"), TEXTS[::-1], targets=[1.0] * 12, dev=2, test=2)
    three = split_data(make_task("embed"), TEXTS[:6], TEXTS[6:], dev=1, test=1)
    table.features(one, two, three)
    assert table.asked == [("text", 12)]


def test_rows_come_as_they_are_asked_for(table: Table) -> None:
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    found = table.features(data)
    asked = make_examples(["text 9", "text 0", "text 9"])
    features, lengths = found.of(head_of(data.task), asked)
    expected = torch.stack([table.vector("output", text) for text in asked.inputs[0]])
    assert torch.equal(features, expected)
    assert lengths is None
    assert torch.equal(found.read(head_of(data.task).requests[0], MEAN, asked), expected)


def test_words_come_row_after_row(table: Table) -> None:
    rows = [["a", "b"], ["c"], ["a", "b", "c"]]
    data = split_data(make_task("tag", "xy"), rows, targets=[["x"] * len(row) for row in rows], dev=0, test=0)
    found = table.features(data)
    features, lengths = found.of(head_of(data.task, WORDS), make_examples([rows[2], rows[1]]))
    assert lengths == [3, 1]
    assert torch.equal(features, torch.stack([table.vector("output", word) for word in "abcc"]))


def test_a_basis_is_shared_by_tasks_that_gather_the_same(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = Basis.__init__
    monkeypatch.setattr(Basis, "__init__", lambda self, *given: (made.append(self), plain(self, *given))[1])
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    found = table.features(data)
    train = data.splits["train"]
    first = basis_of(found, head_of(data.task), train)
    again = make_examples(*train.inputs, targets=[1.0] * 8)
    assert basis_of(found, head_of(make_task("regress")), again) is first
    assert len(made) == 1
    basis_of(found, head_of(data.task, Read("layers.0.output", "mean")), train)
    basis_of(found, head_of(data.task), data.splits["dev"])
    assert len(made) == 3


def test_pairs_with_labels_and_with_numbers_share_no_basis(table: Table) -> None:
    """Both compare the same texts, but a label's features have a direction and are wider."""
    labels, numbers = make_task("pair", "ab"), make_task("pair")
    data = split_data(labels, TEXTS, TEXTS[::-1], targets=["a", "b"] * 6, dev=2, test=2)
    found = table.features(data)
    for task in (labels, numbers):
        head = head_of(task)
        assert basis_of(found, head, data.splits["train"])[0].mean.shape == (head.features,)


def test_every_read_has_mean_square_one_in_a_basis(table: Table) -> None:
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    found = table.features(data)
    head = head_of(data.task, MEAN, Read("layers.0.output", "mean"))
    basis, _ = basis_of(found, head, data.splits["train"])
    centred = torch.cat([block.centred for block in basis.blocks], dim=1)
    torch.testing.assert_close(centred.view(8, 2, WIDTH).square().mean((0, 2)), torch.ones(2))
    gathered, _ = found.of(head, data.splits["train"])
    torch.testing.assert_close(centred, (gathered - gathered.mean(0)) * basis.scale)


def test_bases_share_the_blocks_of_their_reads_and_the_products_of_these(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = Block.product
    monkeypatch.setattr(Block, "product", lambda self, other: (made.append(self), plain(self, other))[1])
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=0)
    found = table.features(data)
    reads = [Read(site, "mean") for site in ("output", "layers.0.output")]
    both, last, first = (
        basis_of(found, head_of(data.task, *some), data.splits["train"])[0]
        for some in (reads, reads[:1], reads[1:])
    )
    assert [*last.blocks, *first.blocks] == list(both.blocks)
    assert len(made) == 3  # each with itself, and one with the other


def test_threads_that_ask_for_the_same_get_what_one_of_them_made(table: Table) -> None:
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    found, head = table.features(data), head_of(data.task)
    asked, making, go = threading.Barrier(2, timeout=30), threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> tuple[torch.Tensor]:
        made.append(1)
        making.set()
        assert go.wait(30)
        return (torch.ones(1),)

    def ask() -> torch.Tensor:
        asked.wait()
        return found.once("what", head, data.splits["train"], make)[0]

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(ask) for _ in range(2)]
        assert making.wait(30)
        # Meanwhile anything else is made without waiting.
        assert found.once("other", head, data.splits["train"], lambda: (torch.zeros(1),))[0] == 0
        go.set()
        one, other = (each.result(30) for each in both)
    assert one is other
    assert made == [1]


def test_what_is_kept_is_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    data = split_data(make_task("classify", "ab"), TEXTS, targets=["a", "b"] * 6, dev=2, test=2)
    found = table.features(data)
    head = head_of(data.task)
    monkeypatch.setattr(module, "_KEPT_BYTES", 3 * 4 * WIDTH * 12)
    asked = [make_examples(TEXTS[i:] + TEXTS[:i]) for i in range(5)]
    kept = [found.of(head, examples) for examples in asked]
    assert found.of(head, asked[4]) is kept[4]
    assert found.of(head, asked[2]) is kept[2]
    again = found.of(head, asked[0])
    assert isinstance(again, Gathered)
    assert again is not kept[0]
    assert torch.equal(again.features, kept[0].features)


def test_two_tasks_on_the_same_rows_take_one_forward_pass(
    minilm: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads = candidates(minilm, "text")[-1]
    for read in reads:
        minilm.width_of(read.site)  # asks the backbone once, ever
    tokens = []
    plain = Backbone.run

    def run(self, batch, *rest):
        tokens.append(len(batch.ids))
        return plain(self, batch, *rest)

    monkeypatch.setattr(Backbone, "run", run)
    examples = make_examples(TEXTS)
    request = head_of(make_task("regress")).requests[0]
    FrozenFeatures(minilm, [(request, examples)], lambda form: reads)
    alone = list(tokens)
    assert len(alone) == 1
    tokens.clear()
    cache = FeatureCache(tmp_path)
    needs = [(request, examples), (request, make_examples(TEXTS[::-1])), (request, make_examples(TEXTS[:3]))]
    FrozenFeatures(minilm, needs, lambda form: reads, cache=cache)
    assert tokens == alone
    FrozenFeatures(minilm, needs, lambda form: reads, cache=cache)
    assert tokens == alone


def test_candidates_are_sets_of_heights_simplest_first(minilm: Backbone) -> None:
    text, words = candidates(minilm, "text"), candidates(minilm, "words")
    assert text[0] == (Read("output", "mean"),)
    assert [len(reads) for reads in text] == [1, 2, 3, 7]
    assert all(read.of_words for reads in words for read in reads)
    for reads in [*text, *words]:
        minilm.layout.check(read.site for read in reads)


def test_candidates_that_would_be_too_wide_are_left_out(minilm: Backbone) -> None:
    for task, widest in [
        (make_task("pair", "ab"), WIDEST),
        (make_task("pair"), WIDEST),
        (make_task("embed"), WIDEST_EMBEDDING),
        (make_task("classify", "ab"), WIDEST),
    ]:
        found = candidates_for(minilm, head_for(task), task)
        assert found
        assert all(head_for(task)(task, reads, minilm.width).features <= widest for reads in found)
